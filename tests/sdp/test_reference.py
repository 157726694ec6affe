"""The conic solvers behind `reference`: agree with each other and with what is known, in our signs and scales."""

import numpy as np
import pytest
import scipy.sparse as sp

from solvers.sdp.conic import reference

SOLVERS = ("SCS", "CLARABEL")
# Each solver is asked for 1e-7; both stop on their own residuals, which bound value and X to about their square root
# in the worst case and to a few times the tolerance on problems as small and well posed as these.
TOLERANCE, NEAR = 1e-7, 1e-5


def random_cost(n: int, seed: int) -> np.ndarray:
    half = np.random.default_rng(seed).normal(size=(n, n))
    return half + half.T


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n", [2, 7, 20])
def test_matrix_is_feasible_and_multipliers_close_the_gap(solver, n):
    C = random_cost(n, seed=n)
    found = reference(C, solver, tolerance=TOLERANCE)
    scale = max(1.0, abs(found.value))
    assert np.abs(np.diag(found.matrix) - 1).max() < NEAR
    assert np.linalg.eigvalsh(found.matrix)[0] > -NEAR
    assert found.value == pytest.approx(np.vdot(C, found.matrix), abs=NEAR * scale)
    assert abs(found.value - found.bound_estimate) < NEAR * scale
    off = C - np.diag(np.diag(C))
    assert np.linalg.eigvalsh(off - np.diag(found.multipliers))[0] > -NEAR * scale
    assert found.seconds > 0


def test_solvers_agree_on_dense_and_sparse_costs():
    C = random_cost(15, seed=3) * (np.abs(random_cost(15, seed=4)) > 1)
    C = (C + C.T) / 2
    values = [reference(kind, s, tolerance=TOLERANCE).value for kind in (C, sp.coo_array(C)) for s in SOLVERS]
    assert np.ptp(values) < NEAR * max(1.0, abs(values[0]))


@pytest.mark.parametrize("solver", SOLVERS)
def test_pentagon_has_the_value_of_goemans_and_williamson(solver):
    # The cut of C5 relaxes to 5 (1 + cos(pi / 5)) / 2, Goemans & Williamson 1995: <W, X> = 10 - 4 of it.
    W = np.roll(np.eye(5), 1, axis=0)
    found = reference(W + W.T, solver, tolerance=TOLERANCE)
    assert found.value == pytest.approx(10 * np.cos(4 * np.pi / 5), abs=NEAR * 10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_row_and_a_diagonal_are_a_constant(solver):
    assert reference(np.array([[3.5]]), solver).value == pytest.approx(3.5, abs=1e-6)
    assert reference(np.diag([1.0, -2.0, 4.0]), solver).value == pytest.approx(3.0, abs=1e-5)


@pytest.mark.usefixtures("shapes_unchecked")
@pytest.mark.parametrize(
    "change, message",
    [
        ({"solver": "MOSEK"}, "solver='MOSEK', but the reference solvers are SCS and CLARABEL"),
        ({"tolerance": 0.0}, "tolerance=0.0, but it must lie in"),
        ({"C": np.array([[0.0, 1.0], [2.0, 0.0]])}, "C is not symmetric"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        reference(**({"C": np.eye(2)} | change))
