"""Numbers at the edges of float64: scales, cancellation, one heavy row. A bound must stay below the exact optimum."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from solvers.sdp.batching.solver import solve_batch
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.signs.rounding import round
from solvers.sdp.solver import solve


def _exactly_below(solution, oracle, C):
    """Finite, and below the exact optimum of the SDP and of the signs."""
    assert np.isfinite(solution.bound) and np.isfinite(solution.value)
    assert Fraction(float(solution.bound)) <= oracle.interval(C)[1]
    assert Fraction(float(solution.bound_integer)) <= oracle.optimum(C)[0]


@pytest.mark.parametrize("exponent", [-1000, -700, -300, 300, 700, 900])
def test_scale_does_not_break_the_bound(family, oracle, exponent):
    C = np.ldexp(family(9, np.random.default_rng(9)), exponent)
    solution = solve(C)
    _exactly_below(solution, oracle, C)
    assert solution.status == "certified" and solution.gap <= 1e-6
    # a value is 81 products added up in float64: 2^-40 of their size is ample
    size = oracle.total(np.abs(C).ravel())
    assert abs(Fraction(enumerate_signs(C).value) - oracle.optimum(C)[0]) <= size / 2**40


@pytest.mark.parametrize("heavy", [1e6, 1e10, 1e15])
def test_a_diagonal_that_cancels_leaves_the_bound_true(family, oracle, heavy):
    """The trace is added to a bound that is 10^15 times smaller than its terms: the sum rounds, outwards."""
    C = family(8, np.random.default_rng(8))
    C[np.arange(8), np.arange(8)] = heavy * np.array([1, -1, 1, -1, 3, -3, 0.1, -0.1]) + 0.1
    solution = solve(C)
    _exactly_below(solution, oracle, C)
    assert solution.status == "certified"


@pytest.mark.parametrize("heavy", [1e3, 1e6, 1e9])
@pytest.mark.parametrize("at", [0, 11])
def test_one_row_far_above_the_others_keeps_its_certificate(oracle, heavy, at):
    """What homogenised least squares look like: the last multiplier is far above the mean."""
    rng = np.random.default_rng(2)
    C = rng.standard_normal((12, 12))
    C = C + C.T
    C[at] *= heavy
    C[:, at] = C[at]
    solution = solve(C)
    _exactly_below(solution, oracle, C)
    assert solution.status == "certified"


@pytest.mark.parametrize("weak", [1e-3, 1e-6, 1e-9, 1e-14])
@pytest.mark.parametrize("storage", [np.array, sp.csr_array])
def test_weak_rows_leave_room_for_the_margin(oracle, weak, storage):
    """Three rows that hardly touch anything: y_i is close to 0 there, and a shift relative to y_i would be too."""
    C = np.random.default_rng(3).standard_normal((12, 12))
    C = C + C.T
    C[[2, 5, 11]] *= weak
    C[:, [2, 5, 11]] = C[[2, 5, 11]].T
    C = (C + C.T) / 2
    solution = solve(storage(C))
    _exactly_below(solution, oracle, C)
    assert solution.status == "certified"


def test_two_rows_have_the_optimum_of_their_one_entry():
    for entry in (1.0, -3.0, 0.1, -1e-200, 1e200, 2.0**-1074):
        C = np.array([[0.0, entry], [entry, 0.0]])
        solution = solve(C)
        assert solution.status == "certified"
        assert Fraction(solution.bound) <= -2 * abs(Fraction(entry))
        assert solution.value == pytest.approx(-2 * abs(entry), rel=1e-6, abs=1e-300)
        assert enumerate_signs(C).value == -2 * abs(entry)


@pytest.mark.parametrize("n", [5, 17, 64])
def test_equal_entries_have_their_closed_form(n):
    """C = ones: <C, X> = |sum v_i|^2, at least 0; C = -ones: -n^2, reached by equal rows. Degenerate in V or in y."""
    repelling, attracting = solve(np.ones((n, n))), solve(-np.ones((n, n)))
    assert repelling.status == attracting.status == "certified"
    assert repelling.bound <= 0.0 <= repelling.value + 1e-12 * n * n and repelling.value <= 1e-6
    assert attracting.bound <= -float(n * n) <= attracting.value + 1e-12 * n * n
    assert attracting.bound_integer == -float(n * n)


def test_a_planted_vector_is_certified_exactly():
    """C = -xx' + noise below its gap: the relaxation is tight, and signs, value and integer bound meet."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 2, 50) * 2 - 1
    noise = rng.integers(-1, 2, (50, 50))
    C = -10 * np.outer(x, x) + np.triu(noise, 1) + np.triu(noise, 1).T
    np.fill_diagonal(C, 0)
    solution = solve(C, gap=1e-7)
    best = round(solution.factor, C)
    assert solution.status == "certified" and best.value == solution.bound_integer


@pytest.mark.parametrize("exponent", [-300, 300])
def test_scale_does_not_break_a_batch(oracle, exponent):
    rng = np.random.default_rng(7)
    X, Y = rng.standard_normal((30, 6)), rng.standard_normal((30, 4))
    G = X.T @ X
    G, B = np.ldexp((G + G.T) / 2, exponent), np.ldexp((X.T @ Y).T, exponent)
    batch = solve_batch(G, B.copy(), gap=1e-4)
    assert batch.proven.all() and (batch.gap <= 1e-4).all()
    for t in range(4):
        C = np.block([[G, -B[t][:, None]], [-B[t][None], np.zeros((1, 1))]])
        assert Fraction(float(batch.bound[t])) <= oracle.interval(C)[1]


def test_an_entry_that_would_overflow_is_refused_or_survived():
    """Sums of entries near the largest float64 are infinite: say so, never return nan."""
    C = np.full((4, 4), 1e308)
    for entry in (solve, enumerate_signs):
        try:
            answer = entry(C)
        except (ValueError, OverflowError) as refused:
            assert "C" in str(refused)
        else:
            assert not np.isnan(answer.value)
            assert getattr(answer, "bound", -np.inf) <= 0.0
