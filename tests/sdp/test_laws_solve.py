"""What every answer of `solve` has to be, against exact optima, two conic solvers, and itself on an equal problem.

Two answers to problems of one optimum are compared by the law of intervals: the optimum lies between each bound and
each value, so no bound may exceed a value of the other. It holds without a tolerance for the solver's accuracy; the
only slack is the rounding of the values themselves, `_rounding`.
"""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from core import extension
from solvers.sdp.conic import reference
from solvers.sdp.solver import solve

EXAMPLES = 25  # of a law each; a solve takes milliseconds
seeds = st.integers(0, 2**32 - 1)


def _rounding(C) -> float:
    """Of <C, VV'> added up in float64 in any order: fewer than n^2 + n k terms, each at most |c_ij|."""
    dense = C.toarray() if sp.issparse(C) else C
    return 4 * len(dense) * 2.0**-52 * float(np.abs(dense).sum())


def _check(solution, C, *, gap=1e-6):
    """The facts about one answer that need no oracle."""
    n = C.shape[0]
    assert solution.factor.shape == (n, solution.rank)
    lengths = np.linalg.norm(solution.factor, axis=1)
    assert np.abs(lengths - 1).max() <= 1e-12  # normalised in float64: rank units in the last place
    value = float(np.sum((C @ solution.factor) * solution.factor))
    assert abs(value - solution.value) <= _rounding(C)
    assert solution.gap == pytest.approx(abs(solution.value - solution.bound) / max(1, abs(solution.value)), rel=1e-12)
    assert solution.bound <= solution.value + _rounding(C)
    assert solution.bound_integer >= solution.bound
    if solution.status == "certified":
        assert solution.proven and solution.gap <= gap
    assert solution.seconds.total >= 0


def _agree(first, second, slack):
    """Both intervals hold one optimum."""
    assert first.bound <= second.value + slack and second.bound <= first.value + slack


@pytest.mark.parametrize("n", [3, 5, 8, 11, 14])
def test_interval_holds_the_exact_optimum_and_the_signs_are_above_it(family, oracle, n):
    for repetition in range(3):
        C = family(n, np.random.default_rng([n, repetition]))
        solution = solve(C, seed=repetition)
        _check(solution, C)
        lower, upper = oracle.interval(C)
        optimum, _ = oracle.optimum(C)
        assert solution.status == "certified" and solution.gap <= 1e-6
        assert Fraction(solution.bound) <= upper
        assert Fraction(solution.value) >= lower - Fraction(_rounding(C))
        assert Fraction(solution.bound) <= optimum and Fraction(solution.bound_integer) <= optimum


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-8])
def test_gap_asked_is_the_gap_proven(family, oracle, gap):
    C = family(12, np.random.default_rng(12))
    solution = solve(C, gap=gap)
    _check(solution, C, gap=gap)
    assert solution.status == "certified" and solution.proven and solution.gap <= gap
    assert Fraction(solution.bound) <= oracle.interval(C)[1]


def test_integer_bound_is_the_next_value_that_signs_attain(families, oracle):
    """x'Cx of a graph moves in steps of 4: <C, xx'> = 2 S - 4 (weights that differ)."""
    for n in (6, 9, 13):
        for name in ("signs", "graph"):
            C = families[name](n, np.random.default_rng(n))
            solution = solve(C)
            total = int(C.sum())
            assert solution.bound_integer == int(solution.bound_integer)
            assert (int(solution.bound_integer) - total) % 4 == 0
            assert solution.bound <= solution.bound_integer <= oracle.optimum(C)[0]
            assert solution.bound_integer < solution.bound + 4 * np.gcd.reduce(np.triu(C).astype(int).ravel())


def test_bound_is_proven_by_the_multipliers_in_rationals(family, oracle):
    """sum(y) + trace C - bound pays for a shift s >= 0 with off - Diag(y) + Diag(s) psd: no s_i exceeds all of it."""
    C = family(10, np.random.default_rng(10))
    solution = solve(C)
    multipliers = oracle.total(solution.multipliers) + oracle.total(np.diag(C))
    paid = float(multipliers - Fraction(solution.bound))
    assert paid >= 0
    assert oracle.psd(C - np.diag(np.diag(C)), less=solution.multipliers, plus=paid)


def test_karush_kuhn_tucker_residuals_follow_the_gap(family):
    """With P = S + Diag(s) psd: <P, X> <= value - bound, so |PV| <= sqrt(|P| (value - bound)), and |SV| within |s|."""
    n = 40
    C = family(n, np.random.default_rng(40))
    solution = solve(C, gap=1e-8)
    assert solution.proven and solution.gap <= 1e-8
    V, y = solution.factor, solution.multipliers + np.diag(C)
    S = C - np.diag(y)
    eigenvalues = np.linalg.eigvalsh(S)
    paid = float(np.sum(y)) - solution.bound
    noise = _rounding(C) + 4 * n * 2.0**-52 * float(np.abs(y).sum())
    assert eigenvalues[0] >= -paid - noise
    width = solution.value - solution.bound + noise
    largest = float(eigenvalues[-1]) + paid
    assert np.linalg.norm(S @ V) <= np.sqrt(largest * width) + (paid + noise) * np.sqrt(n)
    assert abs(solution.value - float(np.sum(y))) <= width + paid


@pytest.mark.parametrize("solver", ["SCS", "CLARABEL"])
@pytest.mark.parametrize("n", [10, 40, 100])
def test_conic_solvers_find_the_same_value(solver, n):
    """Random graphs of mean degree 5: interior points pay for the fill of C, minutes where it is dense."""
    rng = np.random.default_rng(n)
    upper = np.triu((rng.random((n, n)) < 5 / n) * rng.integers(-3, 4, (n, n)), 1).astype(float)
    C = upper + upper.T
    theirs = reference(C, solver=solver, tolerance=1e-7)
    solution = solve(C, gap=1e-6)
    _check(solution, C)
    assert solution.status == "certified"
    # theirs: optimal and feasible to 1e-7 relative to data and solution; |C|_F |X|_F <= |C|_F n, ten times for both
    slack = 1e-6 * float(np.linalg.norm(C)) * n
    assert solution.bound - slack <= theirs.value <= solution.value + slack
    assert slack <= 1e-2 * abs(solution.value)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_rank_too_low_never_gives_a_wrong_certificate(family, oracle, rank):
    """It is where the columns start: what ends certified is the optimum, and what is not, is not called so."""
    for repetition in range(4):
        C = family(14, np.random.default_rng([14, repetition]))
        solution = solve(C, rank=rank, seed=repetition, time_limit=5.0)
        _check(solution, C)
        _, upper = oracle.interval(C)
        assert Fraction(solution.bound) <= upper
        if Fraction(solution.value) > upper + Fraction(2e-6) * max(1, abs(upper)):  # a local minimum
            assert solution.status != "certified" and solution.gap > 1e-6 and solution.note


def test_columns_grow_out_of_a_local_minimum(families, oracle):
    """The warm start is the best of all signs, stationary at rank 1 and above the SDP's optimum."""
    C = families["signs"](14, np.random.default_rng([14, 0]))
    optimum, x = oracle.optimum(C)
    assert optimum > oracle.interval(C)[1] * Fraction(99, 100)
    solution = solve(C, warm=np.asarray(x)[:, None])
    _check(solution, C)
    assert solution.status == "certified" and solution.value < float(optimum) and solution.rank > 1


@settings(max_examples=EXAMPLES)
@given(seed=seeds, n=st.integers(2, 30))
def test_permuting_rows_keeps_the_optimum(families, seed, n):
    rng = np.random.default_rng(seed)
    C = families["gaussian"](n, rng)
    order = rng.permutation(n)
    plain, permuted = solve(C, gap=1e-5), solve(C[np.ix_(order, order)], gap=1e-5)
    assert plain.status == permuted.status == "certified"
    _agree(plain, permuted, _rounding(C))


@settings(max_examples=EXAMPLES)
@given(seed=seeds, n=st.integers(2, 30))
def test_flipping_signs_of_rows_keeps_the_optimum(families, seed, n):
    rng = np.random.default_rng(seed)
    C = families["graph"](n, rng)
    flips = rng.integers(0, 2, n) * 2.0 - 1.0
    plain, flipped = solve(C, gap=1e-5), solve(flips[:, None] * C * flips, gap=1e-5)
    assert plain.status == flipped.status == "certified"
    _agree(plain, flipped, _rounding(C))


@settings(max_examples=EXAMPLES)
@given(seed=seeds, n=st.integers(2, 30), exponent=st.integers(-60, 60))
def test_scaling_scales_the_optimum(families, seed, n, exponent):
    C = families["gaussian"](n, np.random.default_rng(seed))
    scale = 2.0**exponent
    plain, scaled = solve(C, gap=1e-5), solve(scale * C, gap=1e-5)
    assert plain.status == scaled.status == "certified"
    slack = _rounding(C)
    assert scaled.bound / scale <= plain.value + slack and plain.bound <= scaled.value / scale + slack
    assert scaled.gap <= 1e-5


@settings(max_examples=EXAMPLES)
@given(seed=seeds, n=st.integers(2, 20))
def test_a_diagonal_is_a_constant(families, seed, n):
    rng = np.random.default_rng(seed)
    C = families["signs"](n, rng)
    diagonal = rng.integers(-50, 51, n).astype(float)
    plain, shifted = solve(C), solve(C + np.diag(diagonal))
    slack = _rounding(C) + _rounding(np.diag(diagonal))
    assert shifted.bound - diagonal.sum() <= plain.value + slack
    assert plain.bound <= shifted.value - diagonal.sum() + slack
    assert shifted.bound_integer == plain.bound_integer + diagonal.sum()


def test_blocks_without_an_edge_between_them_add_up(families):
    rng = np.random.default_rng(3)
    blocks = [families["graph"](n, rng) for n in (1, 4, 9, 15)]
    parts = [solve(block) for block in blocks]
    whole = solve(sp.block_diag(blocks, format="csr"))
    slack = sum(_rounding(block) for block in blocks)
    assert whole.status == "certified"
    assert whole.bound <= sum(part.value for part in parts) + slack
    assert sum(part.bound for part in parts) <= whole.value + slack


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csc_array, sp.coo_array, sp.csr_matrix, sp.lil_array])
def test_sparse_and_dense_agree(families, kind):
    C = families["graph"](60, np.random.default_rng(60))
    dense, sparse = solve(C), solve(kind(C))
    _check(sparse, sp.csr_array(C))
    assert dense.status == sparse.status == "certified"
    _agree(dense, sparse, _rounding(C))


def test_thin_and_full_graphs_take_both_certificates_to_one_answer(families):
    """A grid (sparse factor pays) and a complete graph, each in both storages."""
    grid = sp.kron(_ring(10), sp.eye_array(12)) + sp.kron(sp.eye_array(10), _ring(12))
    for C in (grid.toarray(), families["signs"](90, np.random.default_rng(9))):
        dense, sparse = solve(C), solve(sp.csr_array(C))
        assert dense.status == sparse.status == "certified"
        _agree(dense, sparse, _rounding(C))


def _ring(n):
    half = sp.coo_array((np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), shape=(n, n))
    return half + half.T


def test_odd_ring_has_its_closed_form():
    """The ring of n nodes with weight 1: min <C, X> = -2 n cos(pi / n) for odd n, by its circulant dual y = -2 cos."""
    for n in (3, 5, 7, 21, 101):
        solution = solve(sp.csr_array(_ring(n)), gap=1e-7)
        exact = -2 * n * np.cos(np.pi / n)
        assert solution.status == "certified"
        assert solution.bound <= exact + 1e-12 * n <= solution.value + 2e-12 * n


def test_slower_twins_give_the_same_answers(family):
    C = family(50, np.random.default_rng(50))
    for given_cost in (C, sp.csr_array(C)):
        fast = solve(given_cost, seed=3)
        with extension.twins_only():
            slow = solve(given_cost, seed=3)
        assert fast.status == slow.status == "certified"
        _agree(fast, slow, _rounding(C))


def test_estimates_and_silence_are_never_called_proven(family):
    C = family(20, np.random.default_rng(20))
    estimate, silent = solve(C, certify="estimate"), solve(C, certify="none")
    assert not estimate.proven and estimate.status != "certified"
    assert not silent.proven and silent.status != "certified" and silent.bound == -np.inf
    rigorous = solve(C)
    assert rigorous.bound <= min(estimate.value, silent.value) + _rounding(C)


def test_warm_start_converges_to_the_same_value(family):
    C = family(60, np.random.default_rng(61))
    cold = solve(C, gap=1e-7)
    rng = np.random.default_rng(0)
    starts = [cold, cold.factor, cold.factor[:, ::-1], _unit(rng.standard_normal((60, 3))), np.ones((60, 1))]
    for warm in starts:
        again = solve(C, gap=1e-7, warm=warm)
        _check(again, C)
        assert again.status == "certified"
        _agree(cold, again, _rounding(C))


def test_warm_start_serves_a_neighbouring_problem(families):
    rng = np.random.default_rng(5)
    C = families["gaussian"](80, rng)
    nearby = C + 1e-3 * families["gaussian"](80, rng)
    warm, cold = solve(nearby, warm=solve(C)), solve(nearby)
    assert warm.status == cold.status == "certified"
    _agree(warm, cold, _rounding(nearby))


def _unit(V):
    return V / np.linalg.norm(V, axis=1, keepdims=True)


def test_same_seed_gives_the_same_bits_and_other_seeds_the_same_optimum(families):
    for C in (families["signs"](70, np.random.default_rng(7)), sp.csr_array(_ring(70))):
        first, again, other = solve(C, seed=1), solve(C, seed=1), solve(C, seed=2)
        assert np.array_equal(first.factor, again.factor) and np.array_equal(first.multipliers, again.multipliers)
        assert (first.value, first.bound) == (again.value, again.bound)
        assert not np.array_equal(first.factor, other.factor)
        _agree(first, other, _rounding(C))


def test_solve_leaves_its_arguments_and_the_global_generator_alone(families):
    C = families["gaussian"](30, np.random.default_rng(30))
    kept, state = C.copy(), np.random.get_state()[1].copy()
    warm = solve(C)
    factor = warm.factor.copy()
    solve(C, warm=warm)
    assert np.array_equal(C, kept) and np.array_equal(warm.factor, factor)
    assert np.array_equal(np.random.get_state()[1], state)


def test_history_never_rises(families):
    """The descent's value never rises, and what it ends with is the value returned."""
    solution = solve(families["gaussian"](120, np.random.default_rng(8)))
    values = [look.value for look in solution.history]
    slack = 1e-12 * max(abs(v) for v in values)
    assert all(later <= earlier + slack for earlier, later in zip(values, values[1:], strict=False))
    assert solution.value <= values[-1] + 1e-6 * max(1, abs(values[-1]))
