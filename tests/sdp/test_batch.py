"""`solve_batch`: bounds are bounds, values are those of feasible points, and every task is the problem it says."""

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
import torch

from core import extension
from solvers.sdp.batching import solver as batch
from solvers.sdp.batching.bounds import Family, polished, proven, rounding_margins
from solvers.sdp.batching.descent import BatchedDescent, Quadratics
from solvers.sdp.batching.native import NativeDescent
from solvers.sdp.batching.search import gauged, with_last_row
from solvers.sdp.batching.solver import BatchSolution, solve_batch
from solvers.sdp.certificate import prove
from solvers.sdp.least_squares import Normal, bordered, normal, signs_of
from solvers.sdp.problem import cost
from solvers.sdp.solver import solve

PATHS = ["native", "torch"]
Problem = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "native" and extension.module() is None:
        pytest.skip("the native extension is not built")
    with extension.twins_only() if request.param == "torch" else nullcontext():
        yield request.param


def correlated(n: int, tasks: int, *, seed: int = 0, examples: int = 40) -> Normal:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((examples, n)) @ rng.standard_normal((n, n))
    return normal(X, X @ rng.standard_normal((n, tasks)) + rng.standard_normal((examples, tasks)))


def graph(n: int, tasks: int, *, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((n, n)) < 0.5, 1).astype(float)
    return upper + upper.T, rng.integers(-2, 3, (tasks, n)).astype(float), np.zeros(tasks)


def least(G: np.ndarray, b: np.ndarray, constant: float) -> float:
    w = np.array(list(itertools.product((-1.0, 1.0), repeat=len(G))))
    return float((((w @ G) * w).sum(1) - 2 * w @ b).min()) + constant


def family(G: np.ndarray, B: np.ndarray, constants: np.ndarray) -> Family:
    gram = cost(G, dense=True)
    return Family(torch.as_tensor(gram.off), torch.as_tensor(B), gram.diagonal, constants)


@pytest.mark.parametrize("n", [1, 2, 5, 10])
@pytest.mark.parametrize("problem", [correlated, graph])
def test_bound_is_below_the_best_of_all_signs_and_value_belongs_to_the_factor(n: int, problem, path: str) -> None:
    G, B, constants = problem(n, 7)
    found = solve_batch(G, B, constants=constants, gap=1e-6)
    assert found.proven.all() and (found.status == "certified").all() and len(found) == 7
    assert (found.gap <= 1e-6).all() and (found.value >= found.bound).all()
    np.testing.assert_allclose(np.linalg.norm(found.factor, axis=2), 1, rtol=1e-12)
    for t in range(7):
        assert found.bound[t] <= found.bound_integer[t] <= least(G, B[t], constants[t])
        C = bordered(G, B[t], constants[t])
        # n^2 terms of the size of |C|
        assert np.vdot(C @ found.factor[t], found.factor[t]) == pytest.approx(
            found.value[t], abs=1e-12 * np.abs(C).sum()
        )


@pytest.mark.parametrize("problem", [correlated, graph])
def test_every_bound_is_proven_again_from_its_multipliers_alone(problem) -> None:
    G, B, constants = problem(30, 6)
    found = solve_batch(G, B, constants=constants)
    for t in range(6):
        proof = prove(cost(bordered(G, B[t], constants[t])), found.multipliers[t])
        assert proof is not None and proof.bound == pytest.approx(found.bound[t], rel=1e-14)


@pytest.mark.parametrize("problem", [correlated, graph])
def test_tasks_have_the_values_that_solve_gives_each(problem, path: str) -> None:
    G, B, constants = problem(25, 4)
    found = solve_batch(G, B, constants=constants, gap=1e-7)
    for t in range(4):
        alone = solve(bordered(G, B[t], constants[t]), gap=1e-7)
        assert alone.bound <= found.value[t] and found.bound[t] <= alone.value
        assert found.value[t] == pytest.approx(alone.value, abs=2e-7 * max(1, abs(alone.value)))


def test_native_and_torch_descents_have_the_same_iterates() -> None:
    if extension.module() is None:
        pytest.skip("the native extension is not built")
    G, B, constants = correlated(13, 5)
    problems = Quadratics(family(G, B, constants).off, torch.as_tensor(B))
    start = gauged(torch.as_tensor(np.random.default_rng(0).standard_normal((5, 14, 6))))
    everyone = torch.arange(5)
    native, twin = NativeDescent(problems, start), BatchedDescent(problems, start)
    for iterations in (1, 8, 20):  # over both times at which coordinates are scaled anew
        native.run(iterations)
        twin.run(iterations)
        # rounding differs and descent amplifies it: 1e-16 grew to less than 1e-11 in 29 iterations
        torch.testing.assert_close(native.rows(everyone), twin.rows(everyone), rtol=0, atol=1e-9)
        torch.testing.assert_close(native.value, twin.value, rtol=1e-11, atol=0)
        torch.testing.assert_close(native.residual, twin.residual, rtol=1e-6, atol=0)
        torch.testing.assert_close(native.multipliers(everyone), twin.multipliers(everyone), rtol=1e-7, atol=1e-7)
    some = torch.tensor([3, 0])
    native.take(some)
    twin.take(some)
    native.run(3)
    twin.run(3)
    torch.testing.assert_close(native.value, twin.value, rtol=1e-11, atol=0)


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 33])
def test_every_cpu_level_takes_every_width(columns: int) -> None:
    if extension.module() is None:
        pytest.skip("the native extension is not built")
    G, B, constants = correlated(19, 3)
    problems = Quadratics(family(G, B, constants).off, torch.as_tensor(B))
    start = gauged(torch.as_tensor(np.random.default_rng(0).standard_normal((3, 20, columns))))
    twin = BatchedDescent(problems, start)
    twin.run(6)
    for level in range(extension.module().best_level() + 1):
        native = NativeDescent(problems, start, level=level)
        native.run(6)
        torch.testing.assert_close(native.value, twin.value, rtol=1e-11, atol=0)
        assert native.rows(torch.arange(3)).shape == (3, 19, columns)


def test_value_never_rises() -> None:
    G, B, constants = correlated(20, 8, seed=1)
    problems = Quadratics(family(G, B, constants).off, torch.as_tensor(B))
    descent = BatchedDescent(problems, gauged(torch.as_tensor(np.random.default_rng(0).standard_normal((8, 21, 8)))))
    before = descent.value
    for _ in range(60):
        descent.run(1)
        assert (descent.value <= before + 1e-13 * before.abs()).all()
        before = descent.value


def test_gauge_keeps_inner_products_and_puts_the_last_row_first() -> None:
    rows = torch.as_tensor(np.random.default_rng(0).standard_normal((4, 6, 3)))
    rows[1, -1] = torch.tensor([-2.0, 0.0, 0.0])  # opposite to where it goes
    unit = rows / rows.norm(dim=2, keepdim=True)
    full = with_last_row(gauged(rows))
    torch.testing.assert_close(full @ full.mT, unit @ unit.mT, rtol=0, atol=1e-14)


def test_sign_flips_and_permutations_of_weights_and_tasks_change_no_value() -> None:
    G, B, constants = correlated(15, 4, seed=2)
    rng = np.random.default_rng(0)
    order, tasks, flips = rng.permutation(15), rng.permutation(4), rng.choice([-1.0, 1.0], 15)
    H = (G * np.outer(flips, flips))[np.ix_(order, order)]
    found = solve_batch(G, B, constants=constants, gap=1e-7)
    moved = solve_batch(H, (B * flips)[np.ix_(tasks, order)], constants=constants[tasks], gap=1e-7)
    np.testing.assert_allclose(moved.value, found.value[tasks], rtol=2e-7)


@pytest.mark.parametrize("scale", [1e-250, 1e-9, 3.0, 1e9, 1e250])
def test_scaled_data_scale_value_and_bound(scale: float) -> None:
    G, B, constants = correlated(12, 3, seed=3)
    found, scaled = (solve_batch(s * G, s * B, constants=s * constants, gap=1e-6) for s in (1.0, scale))
    slack = 1e-6 * np.maximum(scale * found.value, 1)  # the gap asked, relative to max(1, |value|)
    assert (np.abs(scaled.value - scale * found.value) <= 2 * slack).all() and scaled.proven.all()


def test_low_ranks_grow_until_the_gap_is_proven(path: str) -> None:
    G, B, constants = correlated(60, 5, seed=4, examples=200)
    narrow = solve_batch(G, B, constants=constants, gap=1e-4, rank=1)
    wide = solve_batch(G, B, constants=constants, gap=1e-4)
    assert (narrow.status == "certified").all() and (narrow.rank > 1).all()
    assert (narrow.bound <= wide.value).all() and (wide.bound <= narrow.value).all()


def test_integer_data_have_integer_bounds_with_parity() -> None:
    rng = np.random.default_rng(5)
    X, Y = rng.integers(-3, 4, (12, 8)), rng.integers(-9, 10, (12, 6))
    G, B, constants = normal(X, Y)
    found = solve_batch(G, B, constants=constants, gap=1e-2)
    W = np.array(list(itertools.product((-1, 1), repeat=8)))
    for t in range(6):
        values = ((Y[:, t] - W @ X.T) ** 2).sum(1)
        # every value is ||y||^2 + trace G + 2 (integer): one parity
        assert found.bound_integer[t] == int(found.bound_integer[t])
        assert (found.bound_integer[t] - values[0]) % 2 == 0
        assert found.bound[t] <= found.bound_integer[t] <= values.min()
    assert (found.bound_integer > found.bound).any()


def test_constants_and_diagonal_of_the_gram_matrix_only_shift() -> None:
    G, B, constants = correlated(10, 3, seed=6)
    d = np.random.default_rng(0).standard_normal(10)
    found = solve_batch(G, B, constants=constants, gap=1e-8)
    moved = solve_batch(G + np.diag(d), B, constants=constants + 7, gap=1e-8)
    np.testing.assert_allclose(moved.value, found.value + d.sum() + 7, rtol=4e-8)


@pytest.mark.parametrize("certify", ["rigorous", "estimate", "none"])
def test_zero_and_diagonal_problems(certify) -> None:
    for G in (np.zeros((3, 3)), np.diag([1.0, 2.0, -4.0])):
        found = solve_batch(G, np.zeros((2, 3)), constants=np.array([0.0, 5.0]), certify=certify)
        assert found.value == pytest.approx(np.trace(G) + np.array([0, 5]))
        assert (found.proven == (certify == "rigorous")).all()


def test_isolated_weights_and_a_task_without_linear_part(path: str) -> None:
    G, B, constants = correlated(9, 3, seed=7)
    G[4] = G[:, 4] = B[:, 4] = 0
    B[1] = 0
    found = solve_batch(G, B, constants=constants, gap=1e-6)
    assert (found.status == "certified").all()
    assert all(found.bound[t] <= least(G, B[t], constants[t]) for t in range(3))


def test_estimates_and_plain_descents_are_never_called_proven() -> None:
    G, B, constants = correlated(12, 3)
    rigorous = solve_batch(G, B, constants=constants)
    estimate = solve_batch(G, B, constants=constants, certify="estimate")
    none = solve_batch(G, B, constants=constants, certify="none")
    assert not estimate.proven.any() and (estimate.status == "estimated").all() and (estimate.gap <= 1e-3).all()
    assert not none.proven.any() and (none.bound == -math.inf).all() and (none.gap == math.inf).all()
    np.testing.assert_allclose(none.value, rigorous.value, rtol=2e-3)


def test_same_seed_same_answer(path: str) -> None:
    G, B, constants = correlated(8, 5)
    first, second = (solve_batch(G, B, constants=constants, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.factor, second.factor)
    np.testing.assert_array_equal(first.bound, second.bound)
    assert (solve_batch(G, B, constants=constants, seed=4).factor != first.factor).any()


def test_warm_start_reaches_the_same_value_sooner() -> None:
    G, B, constants = correlated(40, 6, examples=90)
    first = solve_batch(G, B, constants=constants, gap=1e-6)
    for warm in (first, first.factor):
        again = solve_batch(G, 1.001 * B, constants=constants, gap=1e-6, warm=warm)
        cold = solve_batch(G, 1.001 * B, constants=constants, gap=1e-6)
        np.testing.assert_allclose(again.value, cold.value, rtol=2e-6)
        assert again.iterations.sum() < 0.8 * cold.iterations.sum()


@pytest.mark.parametrize("columns", [1, 3, 8])
def test_warm_starts_that_are_saddles_are_left(columns: int) -> None:
    G, B, constants = correlated(9, 6)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (6, 10, 1))  # stationary: every row of CV is along that of V
    warm = np.pad(signs, ((0, 0), (0, 0), (0, columns - 1)))
    cold = solve_batch(G, B, constants=constants)
    found = solve_batch(G, B, constants=constants, warm=warm)
    assert (found.status == "certified").all()
    assert (found.bound <= cold.value).all() and (cold.bound <= found.value).all()


def test_time_limit_keeps_a_proven_bound_for_every_task(path: str) -> None:
    G, B, constants = correlated(120, 40, examples=300)
    found = solve_batch(G, B, constants=constants, gap=1e-7, time_limit=0.05)
    assert "time_limit" in found.status and found.proven.all() and np.isfinite(found.bound).all()
    full = solve_batch(G, B, constants=constants, gap=1e-4)
    assert (found.bound <= full.value).all() and (full.bound <= found.value).all()
    assert found.seconds.total < 5  # 0.05 s, one group of tasks and one of bounds; the rest is for a slow machine


def test_diagonal_dominance_is_a_bound_without_any_factorisation() -> None:
    G, B, constants = correlated(10, 5)
    given = family(G, B, constants)
    for t, z in enumerate(given.dominant().numpy()):
        S = bordered(G, B[t], 0.0)
        np.fill_diagonal(S, z)
        assert np.linalg.eigvalsh(S)[0] >= 0
        assert given.bound(t, z) <= least(G, B[t], constants[t])


def spread(n: int, tasks: int, *, seed: int, largest: int = 30) -> Problem:
    """Entries from 2^-largest to 2^largest: sums round at every term."""
    rng = np.random.default_rng(seed)

    def wide(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) * 2.0 ** rng.integers(-largest, largest + 1, shape)

    G = np.triu(wide(n, n))
    return G + np.triu(G, 1).T, wide(tasks, n), wide(tasks) * 2.0**largest


def exactly(terms: np.ndarray) -> Fraction:
    return sum(map(Fraction, terms.ravel().tolist()), Fraction(0))


@pytest.mark.parametrize("scale", [1.0, 2.0**-1060, 2.0**900])
@pytest.mark.parametrize("problem", [lambda: spread(9, 60, seed=0), lambda: correlated(9, 60)])
def test_no_bound_is_above_the_exact_sum_of_its_multipliers_and_diagonal(problem, scale: float) -> None:
    G, B, constants = (scale * data for data in problem())  # 2^-1060: subnormal; both are exact powers of two
    found = solve_batch(G, B, constants=constants, gap=0.1)
    for t in range(len(B)):
        exact = exactly(found.multipliers[t]) + exactly(np.diag(G)) + Fraction(float(constants[t]))
        # the largest float that is not above: nothing is given away either
        assert Fraction(float(found.bound[t])) <= exact < Fraction(math.nextafter(found.bound[t], math.inf))


@pytest.mark.parametrize("scale", [1.0, 2.0**-1060, 2.0**900])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_dominance_is_of_the_exact_sums(n: int, scale: float) -> None:
    G, B, constants = (scale * data for data in spread(n, 20, seed=n))
    for t, z in enumerate(family(G, B, constants).dominant().numpy()):
        off = np.abs(bordered(G, B[t], 0.0))
        np.fill_diagonal(off, 0.0)
        assert all(Fraction(float(z[i])) >= exactly(off[i]) for i in range(n + 1))


def test_products_that_underflow_prove_nothing(oracle) -> None:
    """The last pivot loses 20 squares of 2^-538, each rounded to 0: exactly 5 units of 2^-1074, where it has 4."""
    n, c = 20, 2.0**-1038
    given = family(np.zeros((n, n)), np.full((1, n), -c), np.zeros(1))
    z = np.full(n + 1, 2.0**-1000)
    z[n] = 4 * 2.0**-1074
    S = bordered(np.zeros((n, n)), np.full(n, -c), 0.0)
    assert not oracle.psd(S, plus=z)
    assert not proven(given, torch.arange(1), torch.as_tensor(z)[None])[0]


def test_proof_fails_for_matrices_indefinite_by_little_and_succeeds_above_the_margin() -> None:
    rng = np.random.default_rng(0)
    G, B, constants = correlated(12, 50)
    given, everyone = family(G, B, constants), torch.arange(50)
    z = given.dominant() * torch.as_tensor(rng.uniform(0.3, 1.0, (50, 13)))
    least_eigenvalue = torch.linalg.eigvalsh(given.matrices(everyone, z))[:, :1]
    singular = z - least_eigenvalue  # psd and singular, to rounding
    scale = z.abs().sum(1, keepdim=True)
    assert not proven(given, everyone, singular - 1e-9 * scale).any()
    assert proven(given, everyone, singular + 1e-12 * scale).all()
    singular[:, 3] = math.nan
    assert not proven(given, everyone, singular + scale).any()
    assert not proven(given, everyone, torch.full_like(singular, math.inf)).any()


def test_margins_cover_the_bound_of_rump() -> None:
    z = torch.as_tensor(np.random.default_rng(0).uniform(0, 5, (4, 30)))
    u = 2.0**-53
    gamma = 31 * u / (1 - 31 * u)
    root = z.sqrt()
    assert (rounding_margins(z) >= gamma / (1 - gamma) * root * root.sum(1, keepdim=True)).all()


def test_polished_multipliers_err_by_the_square_of_the_error_of_the_factor() -> None:
    G, B, constants = correlated(30, 8, examples=100)
    exact = solve_batch(G, B, constants=constants, gap=1e-11)
    given, everyone = family(G, B, constants), torch.arange(8)
    noise = torch.as_tensor(np.random.default_rng(0).standard_normal(exact.factor.shape))
    errors = []
    for size in (1e-3, 1e-4):
        V = torch.as_tensor(exact.factor) + size * noise
        V /= V.norm(dim=2, keepdim=True)
        product = given.matrices(everyone, torch.zeros(8, 31, dtype=torch.float64)) @ V
        y = (product * V).sum(2)
        better = polished(given, everyone, V, y, weight=torch.full((8,), 3 * size))
        least_eigenvalue = [torch.linalg.eigvalsh(given.matrices(everyone, -m))[:, 0] for m in (y, better)]
        errors.append([float(-values.clamp(max=0).mean()) for values in least_eigenvalue])
    (raw, better), (raw_closer, better_closer) = errors
    assert better < raw / 2 and better_closer < raw_closer / 5
    assert better_closer < better / 20  # first order would be 10, second 100; the weight takes some of it


def test_a_gap_below_the_rounding_of_a_proof_is_refused_with_what_is_provable() -> None:
    G, B, constants = correlated(10, 2)
    with pytest.raises(ValueError, match=r"gap=1e-15 cannot be proven in float64 here.*ask for gap=\de-1\d or more"):
        solve_batch(G, B, constants=constants, gap=1e-15)


def test_tasks_whose_value_vanishes_are_marked_when_rounding_hides_them() -> None:
    rng = np.random.default_rng(0)
    X, w = 1e6 * rng.standard_normal((50, 10)), np.where(rng.random(10) < 0.5, -1.0, 1.0)
    G, B, constants = normal(X, np.column_stack([X @ w, X @ rng.standard_normal(10)]))
    found = solve_batch(G, B, constants=constants, gap=1e-4)  # relative to 1 for the first, whose value is 0
    assert found.unprovable.tolist() == [True, False] and found.proven.all()
    assert found.status[1] == "certified" and found.gap[0] > 1e-4
    np.testing.assert_array_equal(signs_of(found.factor[0]), w)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"G": np.ones((3, 4))}, r"G must be square .*\(3, 4\)"),
        ({"G": np.array([[0, 1.0, 0], [2, 0, 0], [0, 0, 0]])}, r"G is not symmetric: G\[0, 1\] = 1"),
        ({"G": np.full((3, 3), np.nan)}, r"G\[0, 0\] is nan"),
        ({"G": np.zeros((0, 0))}, "G is empty"),
        ({"G": np.full((3, 3), 2**60)}, "G has integers beyond 2"),
        ({"B": np.ones((2, 4))}, r"B must have a row a task and 3 columns.*\(2, 4\)"),
        ({"B": np.ones(3)}, r"B must have .*\(3,\)"),
        ({"B": np.ones((0, 3))}, r"B must have .*\(0, 3\)"),
        ({"B": np.array([[0, np.inf, 0]])}, r"B\[0, 1\] is inf"),
        ({"B": np.full((1, 3), 2**60)}, "B has integers beyond 2"),
        ({"constants": np.ones(3)}, r"constants must have one entry a row of B, 2 \(got shape \(3,\)\)"),
        ({"constants": np.array([0, np.nan])}, r"constants\[1\] is nan"),
        ({"gap": 0.0}, "gap must be a positive number"),
        ({"gap": math.nan}, "gap must be a positive number"),
        ({"rank": 0}, r"rank must be 'auto' or a positive integer.*\(got 0\)"),
        ({"seed": -1}, r"seed must be >= 0 \(got -1\)"),
        ({"time_limit": 0.0}, "time_limit must be positive"),
        ({"device": "abacus"}, "device='abacus' cannot be used here"),
        ({"device": "meta"}, "device='meta' cannot be used here.*use device='cpu'"),
        ({"device": "cpu:0"}, "device='cpu:0': the CPU has no number here; use device='cpu'"),
        ({"B": np.array([[1.0, 1, 1], [1, 1e308, 1]])}, r"task 1 has .* 1.0e\+308 in B .* overflow .*a power of two"),
        ({"constants": np.array([1e308, 0])}, r"task 0 has .* 1.0e\+308 in constants, whose sums overflow float64"),
        ({"G": np.full((3, 3), 1e308)}, r"G has entries up to 1.0e\+308, whose sums overflow float64"),
        ({"G": np.full((3, 3), 4e306), "B": np.full((2, 3), 4e306)}, "task 0 has .* in G, 4.0e.306 in B"),
        ({"warm": np.ones((2, 3, 2))}, r"warm must be factors of shape \(2, 4, k\).*\(2, 3, 2\)"),
        ({"warm": np.zeros((2, 4, 2))}, "warm has a row of zeros"),
    ],
)
def test_bad_input_is_named_with_its_value_and_the_way_out(changes: dict, words: str) -> None:
    given = {"G": np.eye(3), "B": np.ones((2, 3))} | changes
    with pytest.raises(ValueError, match=words):
        solve_batch(given.pop("G"), given.pop("B"), **given)


@pytest.mark.parametrize("name", ["G", "B", "constants", "warm"])
def test_masked_arrays_are_refused(name: str) -> None:
    given = {"G": np.eye(3), "B": np.ones((2, 3)), "constants": np.zeros(2), "warm": np.ones((2, 4, 2))}
    given[name] = np.ma.masked_equal(given[name], 1.0)
    with pytest.raises(TypeError, match=f"{name} is a masked array.*fill"):
        solve_batch(given.pop("G"), given.pop("B"), **given)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e308])
def test_a_warm_start_counts_by_the_directions_of_its_rows_alone(scale: float) -> None:
    G, B, constants = correlated(6, 3)
    warm = np.random.default_rng(0).integers(-4, 5, (3, 7, 4)) / 4 + 0.125  # of few digits: some are subnormal
    found = solve_batch(G, B, constants=constants, warm=scale * warm)
    assert (found.status == "certified").all() and np.isfinite(found.factor).all()
    np.testing.assert_allclose(found.value, solve_batch(G, B, constants=constants, warm=warm).value, rtol=2e-3)


def test_complex_and_object_data_are_refused() -> None:
    with pytest.raises(TypeError, match="G must be bool, integer, float32 or float64"):
        solve_batch(np.eye(2) * 1j, np.ones((1, 2)))
    with pytest.raises(TypeError, match=r"B must be bool.*complex128"):
        solve_batch(np.eye(2), np.ones((1, 2)) * 1j)


def test_memory_that_will_not_suffice_is_said_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "available_memory", lambda: 2**20)
    with pytest.raises(MemoryError, match=r"2 tasks of 3 weights in 8 columns need 0.\d GiB"):
        solve_batch(np.eye(3), np.ones((2, 3)))


def test_solution_is_frozen_and_knows_its_length() -> None:
    found = solve_batch(np.eye(2), np.ones((3, 2)))
    assert isinstance(found, BatchSolution) and len(found) == 3 and found.seconds.total > 0
    assert (found.finished > 0).all() and (found.finished <= found.seconds.total).all()


def test_the_clock_stops_last(monkeypatch: pytest.MonkeyPatch) -> None:
    attainable = batch._attainable
    monkeypatch.setattr(batch, "_attainable", lambda *given: time.sleep(0.2) or attainable(*given))
    assert solve_batch(np.eye(2), np.ones((3, 2))).seconds.total >= 0.2


@pytest.mark.skipif(extension.module() is None, reason="the native extension is not built")
def test_native_descents_refuse_what_they_cannot_run() -> None:
    G, B, constants = correlated(5, 2)
    problems = Quadratics(family(G, B, constants).off, torch.as_tensor(B))
    start = gauged(torch.as_tensor(np.random.default_rng(0).standard_normal((2, 6, 3))))
    native, compiled = NativeDescent(problems, start), extension.module()
    tasks = np.arange(2)
    for level in (-1, compiled.best_level() + 1):
        with pytest.raises(ValueError, match="CPU level"):
            NativeDescent(problems, start, level=level)
        with pytest.raises(ValueError, match="CPU level"):
            compiled.batch_descend(level, native.state, tasks, first=0, iterations=1)
    with pytest.raises(ValueError, match="first and iterations"):
        compiled.batch_descend(0, native.state, tasks, first=-1, iterations=1)
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match="no such task"):
            compiled.batch_descend(0, native.state, np.array([wrong]), first=0, iterations=1)
