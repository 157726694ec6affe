"""Rounding: what hyperplanes give on average, what searches add, invariances, budgets and refusals."""

import math
import time
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from jaxtyping import TypeCheckError

from solvers.sdp.moments import gw_moments
from solvers.sdp.problem import cost
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.signs.rounding import hyperplanes, round
from solvers.sdp.signs.tabu import OneFlip
from solvers.sdp.solver import solve

LOCAL = ("none", "descent", "tabu")


def graph(n: int, seed: int, density: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    C = np.triu(rng.integers(0, 10, (n, n)) * (rng.random((n, n)) < density), 1).astype(float)
    return C + C.T


def factor(n: int, k: int = 4, seed: int = 0) -> np.ndarray:
    V = np.random.default_rng(seed).standard_normal((n, k))
    return V / np.linalg.norm(V, axis=1)[:, None]


def test_mean_of_hyperplane_roundings_is_their_moment() -> None:
    V, draws = factor(12), 40_000
    x = hyperplanes(V, draws, np.random.default_rng(1)).astype(float)
    # each entry is a mean of +-1: its deviation is at most 1 / sqrt(draws); 5 of them over 66 entries
    assert abs(x.T @ x / draws - gw_moments(V)).max() < 5 / math.sqrt(draws)


def test_moments_of_signs_that_are_signs_are_exact() -> None:
    x = np.array([[1.0], [-1.0], [1.0]])
    assert np.array_equal(gw_moments(x), x @ x.T)


def test_moments_need_rows_of_length_one() -> None:
    with pytest.raises(ValueError, match="row 1 has length 2.0; rows must have length 1"):
        gw_moments(np.array([[1.0, 0.0], [0.0, 2.0]]))


@pytest.mark.parametrize("seed", range(5))
def test_expected_cut_of_weights_that_are_not_negative_is_878_of_the_relaxation(seed: int) -> None:
    C = graph(30, seed)
    solution = solve(C)
    expected, relaxed = ((C.sum() - value) / 4 for value in ((C * gw_moments(solution.factor)).sum(), solution.value))
    assert relaxed * 0.87856 <= expected <= relaxed  # Goemans and Williamson 1995: the constant is 0.87856...


@pytest.mark.parametrize("seed", range(5))
def test_expected_value_of_a_concave_form_is_two_over_pi_of_the_relaxation(seed: int) -> None:
    A = np.random.default_rng(seed).standard_normal((20, 6))
    C = -A @ A.T  # Nesterov 1998
    solution = solve(C)
    expected = (C * gw_moments(solution.factor)).sum()
    assert solution.bound <= expected <= 2 / math.pi * solution.value


@pytest.mark.parametrize("local", LOCAL)
def test_value_is_that_of_the_signs_and_above_the_bound(local: str) -> None:
    C = graph(40, 1)
    solution = solve(C)
    found = round(solution.factor, C, 20, local)
    x = found.signs.astype(float)
    assert found.value == x @ C @ x >= solution.bound_integer
    assert found.signs.dtype == np.int8 and set(found.signs.tolist()) == {-1, 1}


def test_each_search_improves_on_the_one_before() -> None:
    C = graph(60, 2)
    none, descent, tabu = (round(factor(60), C, 10, local).value for local in LOCAL)
    assert tabu < descent < none


def test_descent_returns_a_one_flip_optimum() -> None:
    C = cost(graph(60, 3))
    assert OneFlip(C).gains(round(factor(60), C, 5, "descent").signs).max() <= 0


@pytest.mark.parametrize("seed", range(8))
def test_tabu_finds_the_enumerated_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    C = rng.standard_normal((18, 18))
    C += C.T
    # both report x'Cx of one vector up to its sign
    assert round(factor(18), C, 5, seed=seed).value == enumerate_signs(C).value


def test_signs_turned_in_cost_and_factor_turn_the_answer() -> None:
    C, V = graph(50, 4), factor(50)
    turn = np.where(np.random.default_rng(5).random(50) < 0.5, -1.0, 1.0)
    for local in LOCAL:
        one = round(V, C, 10, local, flips=200_000)
        other = round(V * turn[:, None], C * turn * turn[:, None], 10, local, flips=200_000)
        assert np.array_equal(one.signs * turn, other.signs) and one.value == other.value


def test_same_seed_same_answer_and_other_seeds_others() -> None:
    C, V = graph(50, 6), factor(50)
    found = [round(V, C, 1, "none", seed=s).signs.tobytes() for s in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert np.array_equal(*(round(V, C, 10, seed=3).signs for _ in range(2)))


def test_more_flips_are_never_worse_and_the_budget_counts() -> None:
    C, V = graph(200, 7, 0.1), factor(200)
    values = [round(V, C, 5, flips=flips).value for flips in (0, 20_000, 200_000, 1_000_000)]
    assert values == sorted(values, reverse=True) and values[-1] < values[0]


def test_a_vector_that_reaches_the_bound_ends_the_search() -> None:
    C = -np.ones((300, 300))
    began = time.process_time()
    found = round(np.ones((300, 1)), C, 5, flips=10**12, bound=-90_000.0)
    assert found.value == -90_000 and time.process_time() - began < 5  # all flips would take days


def test_a_limit_in_seconds_ends_the_search() -> None:
    began = time.perf_counter()
    round(factor(100), graph(100, 8), 5, flips=10**12, seconds=0.1)
    assert time.perf_counter() - began < 20  # all flips would take days; a loaded machine gets time


def test_a_limit_in_seconds_ends_the_drawing_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solvers.sdp.signs.rounding.AT_ONCE", 4000)
    C, V = sp.diags_array(np.ones(3999), offsets=1, shape=(4000, 4000)), factor(4000)
    began = time.perf_counter()
    round(V, C + C.T, 10**7, "descent", seconds=0.1)
    assert time.perf_counter() - began < 20  # all draws would take days; a loaded machine gets time


@pytest.mark.parametrize("local", LOCAL)
def test_drawing_some_at_a_time_gives_the_same_answer(monkeypatch: pytest.MonkeyPatch, local: str) -> None:
    C, V = graph(40, 9), factor(40)
    whole = round(V, C, 33, local, flips=8000)
    monkeypatch.setattr("solvers.sdp.signs.rounding.AT_ONCE", 300)
    some = round(V, C, 33, local, flips=8000)
    assert np.array_equal(whole.signs, some.signs) and whole.value == some.value


def test_memory_of_many_hyperplanes_is_of_the_order_of_the_signs() -> None:
    n = 200_000
    C, V = sp.diags_array(np.ones(n - 1), offsets=1, shape=(n, n)), np.ones((n, 2))
    problem = cost(C + C.T)
    tracemalloc.start()
    round(V, problem, 200, "none")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * n < 200 * n  # bytes; a byte a sign drawn would be 200 n


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_smallest_problems_are_solved(n: int) -> None:
    C = 2 * np.ones((n, n)) - np.diag(np.arange(n))
    for local in ("descent", "tabu"):
        assert round(np.ones((n, 1)), C, 3, local).value == enumerate_signs(C).value


def test_zero_rows_of_a_factor_round_to_plus_one() -> None:
    assert round(np.zeros((3, 2)), np.zeros((3, 3)), 1, "none").signs.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"factor": np.ones((3, 1))}, r"each of the 4 rows of C \(got shape \(3, 1\)\)"),
        ({"factor": np.full((4, 1), np.nan)}, "must be finite"),
        ({"n": 0}, "n=0 hyperplanes"),
        ({"flips": -1}, "flips=-1"),
        ({"seconds": 0.0}, "seconds=0.0"),
    ],
)
def test_what_cannot_be_rounded_is_refused_by_name(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        round(**{"factor": np.ones((4, 1)), "C": np.zeros((4, 4))} | wrong)


def test_a_solution_stands_for_its_factor() -> None:
    C = graph(20, 10)
    solution = solve(C)
    assert np.array_equal(round(solution, C, 3).signs, round(solution.factor, C, 3).signs)
    assert np.array_equal(gw_moments(solution), gw_moments(solution.factor))


@pytest.mark.parametrize("given", [np.ones(4), np.ones((4, 1, 1))])
def test_a_factor_without_two_dimensions_is_refused_with_its_shape(shapes_unchecked, given: np.ndarray) -> None:
    for refused in (lambda: round(given, np.zeros((4, 4))), lambda: gw_moments(given)):
        with pytest.raises(ValueError, match=rf"factor must have two dimensions, .*got shape \({given.shape[0]},"):
            refused()


@pytest.mark.parametrize("given", [[[1.0], [1.0]], None, np.array([["a"], ["b"]])])
def test_a_factor_that_is_no_array_of_numbers_is_refused(shapes_unchecked, given: object) -> None:
    for refused in (lambda: round(given, np.zeros((2, 2))), lambda: gw_moments(given)):
        with pytest.raises(TypeError, match="NumPy array of real numbers, or a Solution"):
            refused()


@pytest.mark.parametrize("wrong", [{"flips": 2.5}, {"n": 2.5}])
def test_counts_that_are_no_integers_are_refused_by_name(shapes_unchecked, wrong: dict) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(wrong))}=2.5; it must be an integer"):
        round(**{"factor": np.ones((4, 1)), "C": np.zeros((4, 4))} | wrong)


def test_an_unknown_search_is_refused_with_those_there_are() -> None:
    with pytest.raises((ValueError, TypeCheckError), match="'none', 'descent', 'tabu'"):  # the latter under pytest
        round(np.ones((4, 1)), np.zeros((4, 4)), 1, "best")
