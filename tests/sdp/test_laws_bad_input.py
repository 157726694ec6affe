"""Bad input is named and refused before work begins; degenerate input is answered; limits end with what is proven."""

import math
import re
import time

import numpy as np
import pytest
import scipy.sparse as sp

from solvers.sdp.batching.solver import solve_batch
from solvers.sdp.conic import reference
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.solver import solve

ENTRIES = pytest.mark.parametrize("entry", [solve, enumerate_signs, reference])
STORAGES = pytest.mark.parametrize("storage", [np.array, sp.csr_array, sp.coo_matrix])


def _symmetric(n, seed=0):
    A = np.random.default_rng(seed).standard_normal((n, n))
    return A + A.T


@pytest.fixture(autouse=True)
def _as_users_call_it(shapes_unchecked):
    """The annotations' own checks would answer before the code does."""


@ENTRIES
@STORAGES
def test_asymmetry_is_named_by_its_entry(entry, storage):
    C = _symmetric(5)
    C[1, 3] += 1e-12
    with pytest.raises(ValueError, match=r"symmetric.*\[1, 3\]|\[1, 3\].*symmetric"):
        entry(storage(C))


@ENTRIES
@STORAGES
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [(2, 4), (3, 3)])
def test_entries_that_are_not_finite_are_named(entry, storage, wrong, at):
    C = _symmetric(5)
    C[at] = C[at[::-1]] = wrong
    with pytest.raises(ValueError, match=rf"\[({at[0]}, {at[1]}|{at[1]}, {at[0]})\].*{wrong}.*finite"):
        entry(storage(C))


@ENTRIES
@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 7)])
def test_matrices_that_are_not_square_are_refused_with_their_shape(entry, shape):
    for C in (np.zeros(shape), sp.csr_array(shape)):
        with pytest.raises(ValueError, match=rf"square.*\({shape[0]}, {shape[1]}\)"):
            entry(C)


@ENTRIES
def test_vectors_and_stacks_are_refused_with_their_shape(entry):
    for shape in ((4,), (2, 3, 3)):
        with pytest.raises(ValueError, match=r"square.*shape"):
            entry(np.zeros(shape))


@ENTRIES
def test_an_empty_matrix_is_refused(entry):
    for C in (np.zeros((0, 0)), sp.csr_array((0, 0))):
        with pytest.raises(ValueError, match="empty"):
            entry(C)


@ENTRIES
@pytest.mark.parametrize("dtype", [complex, object, np.float16, "U3", "datetime64[s]"])
def test_wrong_dtypes_are_named(entry, dtype):
    C = np.zeros((3, 3)).astype(dtype)
    with pytest.raises(TypeError, match=str(C.dtype).replace("[", r"\[")):
        entry(C)


@ENTRIES
def test_lists_and_nothing_are_refused_as_a_type(entry):
    for C in ([[0.0, 1.0], [1.0, 0.0]], None, "G1"):
        with pytest.raises(TypeError, match=type(C).__name__):
            entry(C)


@ENTRIES
@pytest.mark.parametrize("large", [2**53 + 1, -(2**53) - 1, 2**62, -(2**63)])
def test_integers_that_float64_would_round_are_refused(entry, large):
    C = np.zeros((3, 3), dtype=np.int64)
    C[0, 1] = C[1, 0] = large
    for given in (C, sp.csr_array(C)):
        with pytest.raises(ValueError, match="2\\^53"):
            entry(given)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint32, np.int64, np.float32, bool])
def test_narrow_dtypes_never_wrap_around(dtype):
    """Entries at the edge of the type: sums and signs would overflow in it."""
    largest = 1 if dtype is bool else int(min(np.iinfo(dtype).max, 2**40)) if np.dtype(dtype).kind in "iu" else 2**20
    mask = np.triu(np.random.default_rng(0).random((12, 12)) < 0.6, 1)
    C = ((mask | mask.T) * largest).astype(dtype)
    same = C.astype(np.float64)
    for given in (C, sp.csr_array(C)):
        narrow, wide = solve(given), solve(same)
        assert narrow.status == "certified"
        assert narrow.bound <= wide.value * (1 - 1e-13) and wide.bound <= narrow.value * (1 - 1e-13)
        assert enumerate_signs(given).value == enumerate_signs(same).value


@pytest.mark.parametrize("diagonal", [0.0, 5.0, -2.5])
def test_one_row_is_its_own_answer(diagonal):
    C = np.array([[diagonal]])
    solution = solve(C)
    assert solution.status == "certified" and solution.value == diagonal
    assert solution.bound <= diagonal and solution.gap <= 1e-12
    assert np.abs(solution.factor).max() == 1.0 and solution.factor.shape == (1, solution.rank)
    assert enumerate_signs(C).value == diagonal


@STORAGES
@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_a_zero_matrix_has_the_optimum_zero(storage, n):
    solution = solve(storage(np.zeros((n, n))))
    assert solution.status == "certified" and solution.value == 0.0
    assert -1e-6 <= solution.bound <= 0.0 and solution.bound_integer in (0.0, solution.bound)
    assert np.allclose(np.linalg.norm(solution.factor, axis=1), 1.0, rtol=0, atol=1e-12)


def test_a_diagonal_matrix_has_its_trace_as_optimum():
    diagonal = np.random.default_rng(1).standard_normal(40)
    for C in (np.diag(diagonal), sp.diags_array(diagonal, format="csr")):
        solution = solve(C)
        assert solution.status == "certified"
        assert solution.value == pytest.approx(math.fsum(diagonal), rel=1e-14) and solution.bound <= solution.value


def test_isolated_rows_cost_nothing():
    C = np.zeros((60, 60))
    C[10:40, 10:40] = _symmetric(30) - np.diag(np.diag(_symmetric(30)))
    with_them, without = solve(C), solve(C[10:40, 10:40].copy())
    for solution in (with_them, solve(sp.csr_array(C))):
        assert solution.status == "certified"
        assert solution.bound <= without.value + 1e-10 and without.bound <= solution.value + 1e-10


def test_explicit_zeros_and_duplicates_of_a_sparse_matrix_are_what_they_mean():
    rows, columns = np.array([0, 1, 0, 1, 2, 0]), np.array([1, 0, 1, 0, 2, 2])
    C = sp.coo_array((np.array([1.0, 2.0, 1.0, 0.0, 0.0, 0.0]), (rows, columns)), shape=(3, 3))
    assert np.array_equal(C.toarray()[:2, :2], [[0, 2], [2, 0]])
    solution = solve(C)
    assert solution.status == "certified" and solution.value == pytest.approx(-4.0, abs=1e-9)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("gap", -1e-6),
        ("gap", math.nan),
        ("gap", math.inf),
        ("rank", 0),
        ("rank", -2),
        ("rank", "full"),
        ("rank", 2.5),
        ("certify", "surely"),
        ("certify", True),
        ("time_limit", -1.0),
        ("time_limit", math.nan),
        ("seed", -1),
        ("device", "abacus"),
        ("warm", np.ones((4, 2))),
        ("warm", np.full((5, 2), np.nan)),
        ("warm", np.ones(5)),
    ],
)
def test_wrong_arguments_are_named_with_their_value(argument, value):
    with pytest.raises((ValueError, TypeError), match=argument) as raised:
        solve(_symmetric(5), **{argument: value})
    if not isinstance(value, np.ndarray):
        assert str(value) in str(raised.value)


def test_warm_rows_of_length_zero_are_refused_or_replaced():
    factor = np.ones((5, 2))
    factor[2] = 0.0
    C = _symmetric(5)
    try:
        solution = solve(C, warm=factor)
    except ValueError as refused:
        assert "warm" in str(refused)
    else:
        assert solution.status == "certified" and np.isfinite(solution.factor).all()


@pytest.mark.parametrize("gap", [1e-300, 1e-17])
def test_a_gap_below_the_provable_floor_is_refused_with_what_is_provable(gap):
    """The rounding margin of n = 300 rows is about n^2 u = 1e-11 of the value, which the message has to say."""
    with pytest.raises(ValueError, match=f"gap.*{gap}") as raised:
        solve(_symmetric(300), gap=gap)
    named = [float(number) for number in re.findall(r"\d+\.?\d*e-\d+", str(raised.value))]
    floors = [number for number in named if 1e-16 <= number <= 1e-7]
    assert floors, f"names no provable gap: {raised.value}"
    # and what it names is provable
    solution = solve(_symmetric(300), gap=max(floors) * 10)
    assert solution.proven and solution.gap <= 100 * max(floors)


@pytest.mark.parametrize("limit", [1e-3, 0.02])
def test_a_time_limit_returns_the_interval_so_far(limit):
    n = 1200
    upper = sp.random_array((n, n), density=0.02, rng=np.random.default_rng(0), data_sampler=_coins)
    C = sp.csr_array(sp.triu(upper, 1) + sp.triu(upper, 1).T)
    started = time.perf_counter()
    solution = solve(C, gap=1e-9, time_limit=limit)
    # an iteration, a Cholesky and the last proof may be under way: 0.1 s each at n = 1200, on a loaded machine 2
    assert time.perf_counter() - started <= limit + 6.0
    assert solution.status == "time_limit"
    assert math.isfinite(solution.bound) and solution.proven, "the best certified interval so far"
    assert solution.bound <= solution.value
    assert solution.gap == pytest.approx((solution.value - solution.bound) / max(1, abs(solution.value)), rel=1e-12)
    assert solution.bound <= solve(C, gap=1e-3).value


def _coins(size, rng=None):
    return np.where(np.arange(size) % 3 == 0, -1.0, 1.0)


def test_memory_that_will_not_suffice_is_said_before_it_is_asked_for():
    """A random graph of 200 000 nodes fills its factor: the part that is dense takes more than 40 GB."""
    n = 200_000
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, n, 4 * n), rng.integers(0, n, 4 * n)
    half = sp.coo_array((np.ones(4 * n), (rows, columns)), shape=(n, n)).tocsr()
    C = sp.csr_array(half + half.T)
    started = time.process_time()
    with pytest.raises(MemoryError, match=r"rows.*\d GiB.*available.*certify"):
        solve(C, gap=1e-1, time_limit=5.0)
    assert time.process_time() - started < 30  # of this process: the analysis of the fill, not an attempt


@pytest.mark.parametrize("solver", ["MOSEK", "scs ", 3])
def test_reference_names_the_solvers_it_knows(solver):
    with pytest.raises((ValueError, TypeError), match="SCS.*CLARABEL|CLARABEL.*SCS"):
        reference(_symmetric(3), solver=solver)


def _batch(**changes):
    return {"G": np.eye(4), "B": np.ones((3, 4))} | changes


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"G": np.ones((4, 3))}, "G.*square"),
        ({"G": np.triu(np.ones((4, 4)))}, "G.*symmetric"),
        ({"G": np.full((4, 4), np.nan)}, "G.*finite"),
        ({"G": np.zeros((0, 0)), "B": np.zeros((3, 0))}, "G.*empty"),
        ({"G": np.eye(4).astype(complex)}, "G.*complex"),
        ({"B": np.ones((3, 5))}, "B.*5"),
        ({"B": np.ones(4)}, "B.*shape"),
        ({"B": np.ones((0, 4))}, "B"),
        ({"B": np.where(np.arange(12).reshape(3, 4) == 6, np.inf, 1.0)}, r"B\[1, 2\].*inf"),
        ({"constants": np.ones(2)}, "constants.*2"),
        ({"constants": np.array([0.0, np.nan, 0.0])}, r"constants.*nan"),
        ({"gap": -1.0}, "gap.*-1"),
        ({"gap": math.nan}, "gap.*nan"),
        ({"rank": 0}, "rank.*0"),
        ({"certify": "surely"}, "certify.*surely"),
        ({"device": "abacus"}, "device.*abacus"),
        ({"time_limit": -1.0}, "time_limit.*-1"),
        ({"warm": np.ones((3, 4, 2))}, "warm"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_batches_name_what_is_wrong(changes, names):
    arguments = _batch(**changes)
    with pytest.raises((ValueError, TypeError), match=f"(?s){names}"):
        solve_batch(arguments.pop("G"), arguments.pop("B"), **arguments)
