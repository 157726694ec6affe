"""The matrix of a problem: what is taken, what is refused and how, what its values can be."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from solvers.sdp.problem import cost, lattice, next_attainable

KINDS = {
    "array": np.asarray,
    "csr_array": sp.csr_array,
    "csc_matrix": sp.csc_matrix,
    "coo_array": sp.coo_array,
    "fortran": np.asfortranarray,
}


def symmetric(n, seed, low=-4, high=5):
    A = np.random.default_rng(seed).integers(low, high, (n, n))
    return np.triu(A) + np.triu(A, 1).T


def all_signs(n):
    return np.array(list(product([-1.0, 1.0], repeat=n)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense", [None, True, False])
def test_every_kind_of_matrix_is_the_same_problem(kind, dense):
    A = symmetric(7, 0)
    of = cost(KINDS[kind](A), dense=dense)
    off = of.off if isinstance(of.off, np.ndarray) else of.off.toarray()
    np.testing.assert_array_equal(off + np.diag(of.diagonal), A)
    assert not np.diagonal(off).any() and of.constant == np.trace(A)
    for x in all_signs(7):
        assert of.value(x) == x @ A @ x


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float32, np.float64])
def test_dtypes_that_float64_holds_are_taken(dtype):
    A = np.array([[1, 1], [1, 0]]).astype(dtype)
    assert cost(A).value(np.array([1, -1])) == -1.0


def test_a_given_matrix_is_neither_changed_nor_shared():
    A = np.eye(4) + 1.0
    of = cost(A)
    of.off[0, 1] = 9.0
    assert A[0, 1] == 1.0 and A[0, 0] == 2.0


def test_sparse_is_kept_where_entries_are_few():
    assert cost(sp.eye_array(50, k=1) + sp.eye_array(50, k=-1)).sparse
    assert not cost(sp.csr_array(np.ones((6, 6)))).sparse


def test_duplicate_entries_add_up():
    twice = sp.coo_array(([1.0, 2.0, 3.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    assert cost(twice, dense=False).off.toarray().tolist() == [[0, 3], [3, 0]]


@pytest.mark.parametrize(
    ("matrix", "error", "message"),
    [
        (np.zeros((0, 0)), ValueError, r"C is empty \(shape \(0, 0\)\)"),
        (np.zeros((2, 3)), ValueError, r"C must be square \(got shape \(2, 3\)\)"),
        (np.zeros(3), ValueError, "C must be square"),
        (np.array([[0.0, 1.0], [2.0, 0.0]]), ValueError, r"not symmetric: C\[0, 1\] = 1.0 but C\[1, 0\] = 2.0"),
        (sp.csr_array([[0.0, 1.0], [0.0, 0.0]]), ValueError, r"not symmetric: C\[0, 1\] = 1.0 but C\[1, 0\] = 0.0"),
        (np.array([[0.0, np.nan], [np.nan, 0.0]]), ValueError, r"C\[0, 1\] is nan; every entry must be finite"),
        (sp.csr_array([[np.inf, 0.0], [0.0, 0.0]]), ValueError, r"C\[0, 0\] is inf"),
        (np.zeros((2, 2), complex), TypeError, "C must be bool, integer, float32 or float64 .got complex128."),
        (np.zeros((2, 2), np.float16), TypeError, "got float16"),
        (np.full((2, 2), "a"), TypeError, "C must be bool"),
        (np.full((2, 2), 2**53 + 1), ValueError, r"integers beyond 2\^53, which float64 would round"),
        (sp.csr_array(np.full((2, 2), -(2**60))), ValueError, r"integers beyond 2\^53"),
    ],
)
def test_what_is_no_problem_is_refused_with_the_entry(matrix, error, message):
    with pytest.raises(error, match=message):
        cost(matrix)


@given(
    n=st.integers(2, 6),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1.0, 0.25, 3.0, 2.0**-30, 2.0**40, 6.0]),
    dense=st.booleans(),
)
def test_the_lattice_holds_every_value_and_is_the_finest_of_its_kind(n, seed, scale, dense):
    of = cost(symmetric(n, seed) * scale, dense=dense)
    offset, spacing = lattice(of)
    values = [Fraction(of.value(x)) for x in all_signs(n)]
    if not spacing:
        assert set(values) == {offset}
    else:
        assert all(((value - offset) / spacing).denominator == 1 for value in values)
        entries = [Fraction(entry) for some in of.entries() for entry in some.tolist()]
        assert spacing == 4 * math.gcd(*(int(e / Fraction(scale)) for e in entries)) * Fraction(scale)


@given(n=st.integers(2, 6), seed=st.integers(0, 2**32 - 1), below=st.floats(0.0, 3.9))
def test_a_bound_is_raised_to_an_attainable_value_and_never_above_the_optimum(n, seed, below):
    of = cost(symmetric(n, seed))
    optimum = min(of.value(x) for x in all_signs(n))
    raised = next_attainable(optimum - below, of)
    assert optimum - below <= raised <= optimum
    assert next_attainable(raised, of) == raised


def test_entries_without_a_common_divisor_leave_the_bound():
    of = cost(np.array([[0.0, 0.1], [0.1, 0.0]]) + np.array([[0.0, 0.0], [0.0, 1 / 3]]))
    assert next_attainable(-0.2, of) <= -0.2
    irrational = np.array([[0.0, 1.0, 0.1], [1.0, 0.0, math.pi], [0.1, math.pi, 0.0]])
    assert lattice(cost(irrational)) is None and next_attainable(-3.3, cost(irrational)) == -3.3


@pytest.mark.parametrize("dense", [True, False])
def test_an_entry_too_small_for_the_lattice_of_the_largest_leaves_the_bound(dense):
    C = np.zeros((3, 3))
    C[0, 1] = C[1, 0] = 2.0**1000
    C[0, 2] = C[2, 0] = 2.0**-200  # in units of 2^-40 of the largest it would underflow to 0
    of = cost(C, dense=dense)
    assert lattice(of) is None and next_attainable(-(2.0**1001), of) == -(2.0**1001)


@pytest.mark.parametrize(("dtype", "entry"), [(np.uint8, 200), (np.int8, 100), (np.int16, 20_000)])
def test_duplicates_of_narrow_integers_add_up_without_wrapping(dtype, entry):
    where = ([0, 0, 1, 1], [1, 1, 0, 0])
    given = sp.coo_array((np.full(4, entry, dtype=dtype), where), shape=(2, 2))
    assert cost(given).value(np.array([1, -1])) == -4.0 * entry
    compressed = sp.csr_array((np.full(4, entry, dtype=dtype), [1, 1, 0, 0], [0, 2, 4]), shape=(2, 2))
    assert cost(compressed).value(np.array([1, -1])) == -4.0 * entry
    assert compressed.nnz == 4  # the caller's is as it was


def test_duplicates_that_add_up_beyond_float64_are_refused():
    where = ([0, 0, 1, 1], [1, 1, 0, 0])
    with pytest.raises(ValueError, match=r"duplicate entries that add up beyond 2\^53"):
        cost(sp.coo_array((np.full(4, 2**53 - 1), where), shape=(2, 2)))


def test_a_masked_array_is_refused():
    with pytest.raises(TypeError, match="masked array, whose mask would be dropped"):
        cost(np.ma.masked_array(np.ones((2, 2)), mask=np.eye(2)))


def test_no_bound_stays_none():
    assert next_attainable(-math.inf, cost(np.ones((3, 3)))) == -math.inf
