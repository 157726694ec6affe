"""Roundings and enumeration: exact optima, local optimality, and the two averages of theory.

Goemans and Williamson 1995: with non-negative weights the expected cut is at least 0.87856 of the SDP's. Nesterov
1998: for -C psd, E x'Cx <= (2 / pi) <C, X>. Both are facts about E xx' = (2 / pi) arcsin X, any feasible X.
"""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.sdp.moments import gw_moments
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.signs.rounding import round
from solvers.sdp.solver import solve

EXAMPLES = 25  # of a law each; a solve takes milliseconds
LOCALS = ["none", "descent", "tabu"]
GOEMANS_WILLIAMSON = 0.87856  # min over t of (2 t / pi) / (1 - cos t), truncated


def _is_answer(answer, C, oracle):
    """Signs, and their value: exact where C holds integers, within a rounding where not."""
    n = len(C)
    assert answer.signs.shape == (n,) and answer.signs.dtype == np.int8
    assert set(np.unique(answer.signs)) <= {-1, 1}
    exact = oracle.value(C, answer.signs.astype(float))
    slack = 0 if np.array_equal(C, np.rint(C)) else 2 * n * 2.0**-52 * float(np.abs(C).sum())
    assert abs(Fraction(answer.value) - exact) <= Fraction(slack)


def _unit_rows(n, k, rng):
    V = rng.standard_normal((n, k))
    return V / np.linalg.norm(V, axis=1, keepdims=True)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 10, 13])
def test_enumeration_is_the_exact_minimum(families, oracle, n):
    for name in sorted(families):
        C = families[name](max(n, 3), np.random.default_rng(n))[:n, :n]
        optimum, _ = oracle.optimum(C)
        slack = Fraction(2 * n * n * 2.0**-52 * float(np.abs(C).sum()))
        for given_cost in (C, sp.csr_array(C)):
            answer = enumerate_signs(given_cost)
            _is_answer(answer, C, oracle)
            assert optimum <= oracle.value(C, answer.signs.astype(float)) <= optimum + slack


def test_enumeration_finds_a_planted_vector_of_26_rows():
    planted = np.where(np.random.default_rng(26).random(26) < 0.5, -1, 1)
    answer = enumerate_signs(-np.outer(planted, planted))
    assert answer.value == -(26.0**2)
    assert np.array_equal(answer.signs * answer.signs[0], planted * planted[0])


def test_enumeration_refuses_27_rows_and_names_the_way_out():
    with pytest.raises(ValueError, match="26.*branch_and_bound|branch_and_bound.*26"):
        enumerate_signs(np.zeros((27, 27)))


@pytest.mark.parametrize("local", LOCALS)
def test_rounding_states_the_value_of_its_signs_and_never_beats_the_optimum(family, oracle, local):
    for n in (3, 8, 13):
        C = family(n, np.random.default_rng(n))
        answer = round(solve(C).factor, C, n=20, local=local, seed=1)
        _is_answer(answer, C, oracle)
        assert oracle.value(C, answer.signs.astype(float)) >= oracle.optimum(C)[0]


@pytest.mark.parametrize("local", ["descent", "tabu"])
def test_local_search_ends_where_no_single_flip_helps(family, local):
    """Flipping x_i changes x'Cx by -4 x_i (off x)_i, which must not be negative beyond its rounding."""
    for n in (5, 40, 130):
        C = family(n, np.random.default_rng([1, n]))
        off = C - np.diag(np.diag(C))
        for storage in (C, sp.csr_array(C)):
            x = round(_unit_rows(n, 4, np.random.default_rng(n)), storage, n=5, local=local).signs.astype(float)
            assert (x * (off @ x)).max() <= n * 2.0**-50 * np.abs(off).sum(1).max()


def test_more_search_is_never_worse(family):
    """The same draws, then descent from them, then tabu from the best of those."""
    C = family(60, np.random.default_rng(60))
    factor = _unit_rows(60, 5, np.random.default_rng(1))
    for seed in range(3):
        none, descent, tabu = (round(factor, C, n=10, local=local, seed=seed).value for local in LOCALS)
        slack = 60 * 2.0**-50 * float(np.abs(C).sum())
        assert tabu <= descent + slack and descent <= none + slack


def test_more_draws_are_never_worse(families):
    C = families["signs"](50, np.random.default_rng(50))
    factor = solve(C).factor
    values = [round(factor, C, n=n, local="none", seed=4).value for n in (1, 10, 100, 1000)]
    assert min(values) == values[-1] < values[0]


def test_tabu_finds_the_optimum_of_small_problems(family, oracle):
    for n in (6, 10, 14):
        C = family(n, np.random.default_rng([7, n]))
        answer = round(solve(C).factor, C, n=50, local="tabu", seed=0)
        optimum = oracle.optimum(C)[0]
        slack = Fraction(2 * n * n * 2.0**-52 * float(np.abs(C).sum()))
        assert oracle.value(C, answer.signs.astype(float)) <= optimum + slack


@pytest.mark.parametrize("local", LOCALS)
def test_rounding_is_determined_by_its_seed(families, local):
    C = families["signs"](80, np.random.default_rng(80))
    factor = _unit_rows(80, 6, np.random.default_rng(2))
    answers = [round(factor, C, n=7, local=local, seed=seed).signs for seed in (5, 5, 6)]
    assert np.array_equal(answers[0], answers[1])
    if local == "none":
        assert not np.array_equal(answers[0], answers[2])


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 25), k=st.integers(1, 6))
def test_moments_are_the_arcsine_law_on_any_factor(seed, n, k):
    V = _unit_rows(n, k, np.random.default_rng(seed))
    moments = gw_moments(V)
    assert moments.shape == (n, n) and np.array_equal(moments, moments.T)
    assert np.array_equal(np.diag(moments), np.ones(n))
    inner = np.clip(V @ V.T, -1, 1)
    off = ~np.eye(n, dtype=bool)
    # arcsin has slope 1 / sqrt(1 - t^2): an error u in t near +-1 becomes sqrt(2 u) at worst
    assert np.abs(moments - 2 / np.pi * np.arcsin(inner))[off].max() <= 4 * np.sqrt(k * 2.0**-52)
    assert np.linalg.eigvalsh(moments)[0] >= -n * 4 * np.sqrt(k * 2.0**-52)


def test_draws_of_the_rounding_have_these_moments():
    """One hyperplane a call, 1500 calls: each entry of the mean of xx' within 5 standard errors (1 / sqrt(1500))."""
    V = _unit_rows(6, 3, np.random.default_rng(3))
    draws = np.array([round(V, np.zeros((6, 6)), n=1, local="none", seed=seed).signs for seed in range(1500)], float)
    assert np.abs(draws.T @ draws / 1500 - gw_moments(V)).max() <= 5 / np.sqrt(1500)


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 30))
def test_goemans_williamson_average_on_non_negative_weights(seed, n):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.5), 1)
    W = upper + upper.T
    for V in (solve(W).factor, _unit_rows(n, 4, rng)):
        relaxed = float((W * (1 - V @ V.T)).sum()) / 4
        expected = float((W * (1 - gw_moments(V))).sum()) / 4
        # 1e-7: arcsin's rounding near +-1, as above, weighted by at most one
        assert expected >= GOEMANS_WILLIAMSON * relaxed - 1e-7 * W.sum()


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(3, 30))
def test_nesterov_average_on_negative_semidefinite_costs(families, seed, n):
    rng = np.random.default_rng(seed)
    C = families["negative-semidefinite"](n, rng)
    for V in (solve(C).factor, _unit_rows(n, 4, rng)):
        expected = float((C * gw_moments(V)).sum())
        assert expected <= 2 / np.pi * float((C * (V @ V.T)).sum()) + 1e-7 * np.abs(C).sum()


def test_best_of_many_draws_reaches_both_averages(families):
    """The best of 200 draws is at most their mean; 200 draws miss their expectation by little, the best not at all."""
    for repetition in range(5):
        rng = np.random.default_rng(repetition)
        W = np.abs(families["gaussian"](40, rng))
        np.fill_diagonal(W, 0.0)
        solution = solve(W)
        best = round(solution.factor, W, n=200, local="none").value
        assert (W.sum() - best) / 4 >= GOEMANS_WILLIAMSON * (W.sum() - solution.value) / 4
        C = families["negative-semidefinite"](40, rng)
        solution = solve(C)
        assert round(solution.factor, C, n=200, local="none").value <= 2 / np.pi * solution.bound


def test_answers_follow_a_relabelling_of_the_rows(families):
    C = families["graph"](12, np.random.default_rng(12))
    order, flips = np.random.default_rng(1).permutation(12), np.resize([1.0, -1.0, -1.0], 12)
    turned = (flips[:, None] * C * flips)[np.ix_(order, order)]
    assert enumerate_signs(C).value == enumerate_signs(turned).value


@pytest.mark.parametrize(("argument", "value"), [("local", "exact"), ("n", 0), ("n", -3)])
def test_rounding_names_a_wrong_argument(shapes_unchecked, argument, value):
    with pytest.raises((ValueError, TypeError), match=argument):
        round(np.eye(3), np.zeros((3, 3)), **{argument: value})


def test_rounding_refuses_a_factor_of_another_problem(shapes_unchecked):
    with pytest.raises(ValueError, match="4.*3|3.*4"):
        round(np.eye(4), np.zeros((3, 3)))
    factor = np.eye(3)
    factor[1, 1] = np.nan
    with pytest.raises(ValueError, match="finite|nan"):
        round(factor, np.zeros((3, 3)))
