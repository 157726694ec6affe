"""Descent on unit-row factors: it ends at stationary points, never rises, and takes edge cases."""

import numpy as np
import pytest
import scipy.sparse as sp

from core import extension
from solvers.sdp import kernels
from solvers.sdp.lbfgs import Descent
from solvers.sdp.mixing import mix
from solvers.sdp.problem import Cost, cost


def graph(n: int, degree: float, seed: int = 0) -> Cost:
    """Weights +-1 on a random graph."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.choice([-1.0, 1.0], size=(n, n)) * (rng.random((n, n)) < degree / n), 1)
    return cost(upper + upper.T, dense=False)


def gaussian(n: int, seed: int = 0) -> Cost:
    half = np.random.default_rng(seed).normal(size=(n, n))
    return cost(half + half.T, dense=True)


def least_squares(n: int, seed: int = 0) -> Cost:
    """||y - Xw||^2 homogenised: the last row is far heavier than the others."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2 * n, n)) * rng.uniform(0.2, 2, n)
    y = X @ np.sign(rng.normal(size=n)) + rng.normal(size=2 * n)
    return cost(np.block([[X.T @ X, -(X.T @ y)[:, None]], [-(X.T @ y)[None], np.full((1, 1), y @ y)]]))


def torus(side: int) -> Cost:
    """A grid of +-1 on a torus: ill-conditioned."""
    n, rng = side * side, np.random.default_rng(0)
    at = np.arange(n).reshape(side, side)
    i, j = np.tile(at.ravel(), 2), np.concatenate([np.roll(at, 1, 0).ravel(), np.roll(at, 1, 1).ravel()])
    w = rng.choice([-1.0, 1.0], size=2 * n)
    upper = sp.coo_array((w, (i, j)), shape=(n, n))
    return cost(upper + upper.T, dense=False)


PROBLEMS = {
    "graph": lambda: graph(300, 8),
    "torus": lambda: torus(12),
    "gaussian": lambda: gaussian(120),
    "least squares": lambda: least_squares(60),
}


def start(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, k))


def rank_of(n: int) -> int:
    return int(np.ceil(np.sqrt(2 * n))) + 1  # no spurious local minima, generically


@pytest.fixture(params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Cost:
    return PROBLEMS[request.param]()


def least_eigenvalue(descent: Descent) -> float:
    """Of C - Diag(y): >= 0 at the optimum of the SDP."""
    off = descent.cost.off
    return float(np.linalg.eigvalsh((off.toarray() if descent.cost.sparse else off) - np.diag(descent.y))[0])


def test_descent_ends_at_a_point_that_meets_all_conditions_of_optimality(problem: Cost) -> None:
    descent = Descent(problem, start(problem.n, rank_of(problem.n)))
    descent.run(8000, residual=1e-8)
    assert descent.residual <= 1e-8
    product = problem.off @ descent.V
    np.testing.assert_allclose(np.linalg.norm(descent.V, axis=1), 1, atol=1e-14)
    np.testing.assert_allclose(descent.y, (product * descent.V).sum(1), rtol=0, atol=1e-12 * np.abs(product).max())
    assert descent.value == pytest.approx(np.vdot(descent.V, product) + problem.constant, rel=1e-13)
    # Second-order: eigenvalues move by less than the residual times its square root of conditioning; 1e-5 holds here.
    assert least_eigenvalue(descent) >= -1e-5 * np.abs(descent.y).mean()
    found = np.linalg.norm(product - descent.y[:, None] * descent.V) / np.linalg.norm(product)
    assert descent.residual == pytest.approx(found, abs=1e-13)


def test_gradient_is_that_of_the_definition_after_sweeps_and_steps(problem: Cost) -> None:
    descent = Descent(problem, start(problem.n, 9), sweeps=4)
    for iterations in (0, 3, 20):
        descent.run(iterations)
        product = problem.off @ descent.V
        expected = product - (product * descent.V).sum(1, keepdims=True) * descent.V
        np.testing.assert_allclose(descent.gradient, expected, rtol=0, atol=1e-12 * np.abs(product).max())


def test_value_never_rises_beyond_rounding(problem: Cost) -> None:
    descent = Descent(problem, start(problem.n, 12))
    size, least = np.abs(problem.off).sum(), descent.value
    for _ in range(400):
        descent.run(1)
        assert descent.value <= least + 1e-15 * size
        least = min(least, descent.value)


def test_half_the_gradient_is_the_derivative_of_the_value() -> None:
    of = gaussian(20)
    descent = Descent(of, start(20, 5), sweeps=0)
    V, direction = descent.V, np.random.default_rng(1).normal(size=descent.V.shape)
    direction -= (direction * V).sum(1, keepdims=True) * V
    step = 1e-6
    values = []
    for t in (-step, step):
        moved = V + t * direction
        values.append(np.vdot(moved, of.off @ moved) / 1.0 - (((moved**2).sum(1) - 1) * descent.y).sum())
    assert (values[1] - values[0]) / (2 * step) == pytest.approx(2 * np.vdot(descent.gradient, direction), rel=1e-6)


@pytest.mark.parametrize("name", PROBLEMS)
def test_native_and_twins_reach_the_same_value(name: str) -> None:
    if extension.module() is None:
        pytest.skip("the native extension is not built")
    of = PROBLEMS[name]()
    ours = Descent(of, start(of.n, rank_of(of.n)))
    ours.run(1500, residual=1e-5)
    with extension.twins_only():
        theirs = Descent(of, start(of.n, rank_of(of.n)))
        theirs.run(1500, residual=1e-5)
    # Error of a value: second order in the residual, times conditioning.
    assert ours.value == pytest.approx(theirs.value, rel=1e-7)


def test_dense_and_sparse_forms_of_one_matrix_reach_the_same_value() -> None:
    of = graph(120, 10)
    values = []
    for form in (of, cost(of.off.toarray(), dense=True)):
        descent = Descent(form, start(120, 17))
        descent.run(3000, residual=1e-7)
        values.append(descent.value)
    assert values[0] == pytest.approx(values[1], rel=1e-11)


def test_units_of_the_matrix_do_not_matter() -> None:
    of = cost(gaussian(50).off)
    plain, scaled = (Descent(form, start(50, 11)) for form in (of, cost(of.off * 2.0**-300)))
    for descent in (plain, scaled):
        descent.run(60)
    assert scaled.value == plain.value * 2.0**-300  # powers of two are exact, and nothing else happens
    assert np.array_equal(scaled.V, plain.V)


def test_same_start_gives_the_same_bits_and_running_in_parts_does_not_matter() -> None:
    of = graph(100, 6)
    at_once, in_parts = (Descent(of, start(100, 9)) for _ in range(2))
    at_once.run(100)
    for _ in range(5):
        in_parts.run(20)
    assert at_once.iterations == in_parts.iterations == 100
    assert np.array_equal(at_once.V, in_parts.V)


def test_more_columns_take_over_where_fewer_stopped() -> None:
    of = graph(200, 20)
    descent = Descent(of, start(200, 3))
    descent.run(3000, residual=1e-7)
    stuck = descent.value
    wide = np.concatenate([descent.V[:, :3], 1e-3 * start(200, 17, seed=5)], axis=1)
    descent.replace(wide, sweeps=0)
    assert descent.rank == 20 and descent.V.shape == (200, 24) and descent.iterations > 0
    assert descent.value == pytest.approx(stuck, rel=1e-3)
    descent.run(3000, residual=1e-7)
    fresh = Descent(of, start(200, 21))
    fresh.run(3000, residual=1e-7)
    assert descent.value < stuck - 1e-3 * abs(stuck)  # rank 3 is too low here
    assert descent.value == pytest.approx(fresh.value, rel=1e-9)


def test_warm_start_at_the_optimum_stays_there() -> None:
    of = gaussian(80)
    descent = Descent(of, start(80, 14))
    descent.run(3000, residual=1e-8)
    again = Descent(of, descent.V, sweeps=2)
    again.run(300, residual=1e-8)
    assert again.iterations <= 20
    assert again.value == pytest.approx(descent.value, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_zero_matrix_is_optimal_at_once(n: int) -> None:
    of = cost(sp.csr_array(np.diag(np.arange(n) - 1.0)))
    descent = Descent(of, start(n, 2), sweeps=0)
    descent.run(10)
    assert descent.residual == 0 and descent.stalled and descent.iterations == 0
    assert descent.value == of.constant
    np.testing.assert_allclose(np.linalg.norm(descent.V, axis=1), 1, atol=1e-15)


def test_rows_that_meet_nothing_stay_and_the_others_are_solved() -> None:
    of = graph(60, 6)
    padded = cost(sp.block_diag([of.off, sp.csr_array((4, 4))], format="csr"), dense=False)
    V = start(64, 12)
    descent = Descent(padded, V)
    descent.run(3000, residual=1e-8)
    alone = Descent(of, V[:60])
    alone.run(3000, residual=1e-8)
    assert descent.value == pytest.approx(alone.value, rel=1e-11)
    np.testing.assert_allclose(descent.V[60:, :12], V[60:] / np.linalg.norm(V[60:], axis=1)[:, None], atol=1e-15)


def test_one_edge_is_solved_exactly() -> None:
    descent = Descent(cost(np.array([[2.0, 3.0], [3.0, -1.0]])), start(2, 1))
    descent.run(50, residual=1e-12)
    assert descent.value == pytest.approx(2 - 1 - 6, rel=1e-15)


def test_rounding_ends_a_descent_asked_for_the_impossible(problem: Cost) -> None:
    descent = Descent(problem, start(problem.n, rank_of(problem.n)))
    descent.run(20_000)
    assert descent.stalled and descent.iterations < 20_000
    assert descent.residual < 1e-9
    before = descent.iterations
    descent.run(100)
    assert descent.iterations == before


@pytest.mark.parametrize(
    ("V", "message"),
    [
        (np.ones((3, 2)), "4 rows"),
        (np.ones((4, 0)), "a column"),
        (np.array([[1.0], [0.0], [1.0], [1.0]]), "not zero"),
        (np.array([[1.0], [np.nan], [1.0], [1.0]]), "finite"),
    ],
)
def test_factors_that_are_none_are_refused(V: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Descent(gaussian(4), V)


def test_mixing_decreases_to_its_tolerance_and_reports_row_minima() -> None:
    of = graph(150, 10)
    V = kernels.padded(start(150, 20) / np.linalg.norm(start(150, 20), axis=1, keepdims=True))
    values = [float(np.vdot(V, of.off @ V))]
    for _ in range(5):
        y = mix(of, V, 1)
        values.append(float(np.vdot(V, of.off @ V)))
    assert np.all(np.diff(values) < 0) and np.all(y <= 0)
    mix(of, V, 5000, tolerance=1e-13)
    y = mix(of, V, 1)
    # At a fixed point the minima of the rows are the multipliers.
    np.testing.assert_allclose(y, ((of.off @ V) * V).sum(1), rtol=0, atol=1e-5)
