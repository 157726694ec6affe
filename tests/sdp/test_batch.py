"""`solve_batch`: bounds are bounds, values are those of feasible points, and every task is the problem it says."""

import itertools

import numpy as np
import pytest

from solvers.sdp.batch import BatchSolution, solve_batch
from solvers.sdp.least_squares import bordered, normal


def data(n: int, tasks: int, *, seed: int = 0, examples: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((examples, n)) @ rng.standard_normal((n, n))
    return normal(X, X @ rng.standard_normal((n, tasks)) + rng.standard_normal((examples, tasks)))


def least(G: np.ndarray, b: np.ndarray, constant: float) -> float:
    w = np.array(list(itertools.product((-1.0, 1.0), repeat=len(G))))
    return float(((w @ G) * w).sum(1).min() if not b.any() else (((w @ G) * w).sum(1) - 2 * w @ b).min()) + constant


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_bound_is_below_the_best_of_all_signs_and_value_is_above_the_bound(n: int) -> None:
    G, B, constants = data(n, 7)
    found = solve_batch(G, B, constants=constants, gap=1e-6)
    assert found.proven.all() and (found.gap <= 1e-6).all() and (found.value >= found.bound).all()
    for t in range(7):
        assert found.bound[t] <= least(G, B[t], constants[t])
        C = bordered(G, B[t], constants[t])
        assert np.vdot(C @ found.factor[t], found.factor[t]) == pytest.approx(found.value[t], rel=1e-12)
    np.testing.assert_allclose(np.linalg.norm(found.factor, axis=2), 1, rtol=1e-12)


def test_zero_problem_is_certified() -> None:
    found = solve_batch(np.zeros((3, 3)), np.zeros((2, 3)))
    assert found.proven.all() and found.value == pytest.approx([0, 0])


def test_same_seed_same_answer() -> None:
    G, B, constants = data(8, 5)
    first, second = (solve_batch(G, B, constants=constants, seed=3) for _ in range(2))
    assert isinstance(first, BatchSolution)
    np.testing.assert_array_equal(first.factor, second.factor)
    np.testing.assert_array_equal(first.bound, second.bound)


def test_warm_start_reaches_the_same_value() -> None:
    G, B, constants = data(12, 6)
    cold = solve_batch(G, B, constants=constants, gap=1e-7)
    warm = solve_batch(G, 1.001 * B, constants=constants, gap=1e-7, warm=cold)
    again = solve_batch(G, 1.001 * B, constants=constants, gap=1e-7)
    np.testing.assert_allclose(warm.value, again.value, rtol=2e-7)
    assert warm.iterations.sum() < again.iterations.sum()
