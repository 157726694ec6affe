"""Enumeration against brute force in another order, native against twin, its invariances and its refusals."""

import contextlib
import itertools
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp

from core import extension
from solvers.sdp.problem import cost
from solvers.sdp.signs.enumeration import enumerate_signs, rounding


def matrix(n: int, seed: int, integers: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    C = rng.integers(-9, 10, (n, n)).astype(float) if integers else rng.standard_normal((n, n))
    return C + C.T


@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 12, 13, 14])
def test_minimum_is_that_of_all_sign_vectors(n: int, integers: bool) -> None:
    C = matrix(n, n, integers)
    least = min(float(x @ C @ x) for x in map(np.array, itertools.product((-1.0, 1.0), repeat=n)))
    found = enumerate_signs(C)
    # n^2 products of size 10, each rounded to 2^-53 relative
    assert found.value == (least if integers else pytest.approx(least, abs=1e-11))
    assert found.value == cost(C).value(found.signs)
    assert found.signs.dtype == np.int8 and set(found.signs.tolist()) <= {-1, 1} and found.signs[-1] == 1


@pytest.mark.parametrize("n", [1, 2, 12, 13, 14, 18])
def test_native_and_twin_find_the_same_minimum(n: int) -> None:
    C = matrix(n, n)  # reals: one minimum, with probability 1
    native = enumerate_signs(C)
    with extension.twins_only():
        twin = enumerate_signs(C)
    assert np.array_equal(native.signs, twin.signs) and native.value == twin.value


def test_permutations_and_turned_signs_keep_the_minimum() -> None:
    rng = np.random.default_rng(3)
    C, order, turn = matrix(13, 5), rng.permutation(13), np.where(rng.random(13) < 0.5, -1.0, 1.0)
    least = enumerate_signs(C)
    assert enumerate_signs(C[np.ix_(order, order)]).value == pytest.approx(least.value, abs=1e-11)
    turned = enumerate_signs(C * turn * turn[:, None])
    assert np.array_equal(turned.signs * turn * turn[-1] * turned.signs[-1], least.signs)


@pytest.mark.parametrize("twins", [False, True])
def test_what_rounding_costs_an_answer_is_at_most_what_is_said(oracle, twins: bool) -> None:
    """Vectors that tie in tenths differ in float64, by less than its sums can tell: some answers are not the least."""
    missed = 0
    for seed in range(40):
        C = np.triu(np.random.default_rng(seed).choice([0.1, 0.2, 0.3, 0.4], (9, 9)), 1)
        C += C.T
        with extension.twins_only() if twins else contextlib.nullcontext():
            found = enumerate_signs(C)
        excess = oracle.value(C, found.signs) - oracle.optimum(C)[0]
        assert excess <= Fraction(rounding(cost(C)))
        missed += excess > 0
    assert missed


def test_nothing_is_lost_where_sums_are_exact() -> None:
    assert rounding(cost(matrix(12, 7, integers=True))) == 0.0


def test_sparse_dense_and_prepared_costs_agree() -> None:
    C = matrix(11, 2, integers=True)
    values = {enumerate_signs(form).value for form in (C, sp.csc_array(C), cost(C), cost(C, dense=False))}
    assert len(values) == 1


def test_diagonal_adds_its_sum() -> None:
    C = matrix(9, 4, integers=True)
    D = np.diag(np.arange(9.0))
    assert enumerate_signs(C + D).value == enumerate_signs(C).value + 36


def test_largest_size_agrees_with_a_planted_minimum() -> None:
    planted = np.where(np.random.default_rng(6).random(26) < 0.5, -1.0, 1.0)
    found = enumerate_signs(-np.outer(planted, planted))
    assert found.value == -(26**2) and np.array_equal(found.signs, planted * planted[-1])


def test_too_many_signs_are_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="n = 27, at most 26; use branch_and_bound"):
        enumerate_signs(np.zeros((27, 27)))
