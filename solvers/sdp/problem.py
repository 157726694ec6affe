"""The matrix C of min <C, X>, diag X = 1, X psd: validated, split from its diagonal, with what is exact about it.

Its relatives share it: the +-1 problem min x'Cx (X = x x'), and C of a least-squares problem over signs
(`solvers.sdp.least_squares`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Num

Matrix: TypeAlias = np.ndarray | sp.sparray | sp.spmatrix
ROWS = 256  # rows of an array looked at at once
SMALLEST_DIVISOR = 40  # of entries: 2^-40 of the power of two above the largest
LARGEST_INTEGER = 2**53
DENSE_FROM = 0.25  # share of non-zeros from which a dense product is faster than a sparse one


@dataclass(frozen=True, eq=False)
class Cost:
    """A symmetric C = `off` + Diag(`diagonal`), float64.

    off: (n, n) with a zero diagonal, C-contiguous array or CSR with sorted int32 indices and no stored zeros.
    constant: the sum of the diagonal, correctly rounded; <C, X> = <off, X> + constant for every feasible X.
    """

    off: np.ndarray | sp.csr_array
    diagonal: Float[np.ndarray, " n"]
    constant: float

    @property
    def n(self) -> int:
        """Rows of C."""
        return len(self.diagonal)

    @property
    def sparse(self) -> bool:
        """Whether `off` is CSR."""
        return not isinstance(self.off, np.ndarray)

    def entries(self) -> Iterator[Float[np.ndarray, " some"]]:
        """The non-zero off-diagonal entries, each pair at least once, some rows at a time."""
        if not isinstance(self.off, np.ndarray):
            yield self.off.data
            return
        for start in range(0, self.n, ROWS):
            rows = self.off[start : start + ROWS, start:]
            yield rows[rows != 0]

    def value(self, signs: Num[np.ndarray, " n"]) -> float:
        """x'Cx of a vector of +-1; exact where the entries and their sums are integers below 2^53."""
        x = np.asarray(signs, dtype=np.float64)
        return float(x @ (self.off @ x)) + self.constant


def cost(C: Matrix, *, dense: bool | None = None) -> Cost:
    """Validate C and split it.

    C: (n, n), n >= 1, real, finite, exactly symmetric; bool, integers below 2^53 or float32/float64.
    dense: keep `off` as an array (True) or CSR (False); None chooses by the share of non-zeros.
    Raises ValueError naming the first offending entry, TypeError for a wrong dtype or kind.
    """
    given = _float64(C)
    _check_finite_and_symmetric(given)
    n = given.shape[0]
    diagonal = np.array(given.diagonal(), dtype=np.float64)
    nonzeros = np.count_nonzero(given) if isinstance(given, np.ndarray) else given.count_nonzero()
    if dense is None:
        dense = nonzeros - np.count_nonzero(diagonal) > DENSE_FROM * n * n
    return Cost(_array(given) if dense else _csr(given), diagonal, math.fsum(diagonal))


def lattice(of: Cost) -> tuple[Fraction, Fraction] | None:
    """(offset, spacing) such that x'Cx of every sign vector is offset + spacing * integer; None without one.

    x'Cx = constant + 2 S - 4 (sum of the c_ij, i < j, whose signs differ), S = sum of the c_ij over i < j; so the
    spacing is four times the greatest common divisor of the entries: parity included. Exact, in rationals; None where
    entries have no divisor above 2^-40 of the largest.
    """
    constant = _exact_sum(of.diagonal[of.diagonal != 0])
    # Entries are integers times a power of two; below 2^52 of them, int64 is exact.
    largest = max((np.abs(some).max(initial=0.0) for some in of.entries()), default=0.0)
    if not largest:
        return constant, Fraction(0)
    exponent = int(np.frexp(largest)[1]) - SMALLEST_DIVISOR
    unit, divisor = Fraction(2) ** exponent, 0
    for some in of.entries():
        scaled = np.ldexp(some, -exponent)
        if not np.array_equal(scaled, np.rint(scaled)) or not scaled.all():  # an entry that underflows is no integer
            return None
        divisor = math.gcd(divisor, int(np.gcd.reduce(scaled.astype(np.int64))) if len(scaled) else 0)
    # x'Cx - constant at x = 1 is one of the values: the sum of all entries, each pair twice.
    total = sum(int(row) for row in _row_sums(of, exponent))
    return constant + total * unit, 4 * divisor * unit


def _row_sums(of: Cost, exponent: int) -> Iterator[int]:
    """Exact sums of the rows of `off` in units of 2^exponent; int64 holds 2^11 entries of up to 2^52."""
    for i in range(of.n):
        row = of.off[i] if isinstance(of.off, np.ndarray) else of.off.data[of.off.indptr[i] : of.off.indptr[i + 1]]
        whole = np.ldexp(row, -exponent).astype(np.int64)
        yield from (int(part) for part in np.add.reduceat(whole, np.arange(0, len(whole), 2048))) if len(whole) else ()


def next_attainable(bound: float, of: Cost) -> float:
    """The least value of x'Cx that is at least `bound` as far as `lattice` tells; `bound` itself without a lattice.

    Rounded downwards where float64 cannot hold it. -inf stays.
    """
    grid = lattice(of) if math.isfinite(bound) else None
    if grid is None:
        return bound
    offset, spacing = grid
    exact = offset if not spacing else offset + spacing * math.ceil((Fraction(bound) - offset) / spacing)
    if exact < Fraction(bound):  # a single attainable value, below a bound: the bound is a rounding above it
        return bound
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, -math.inf)


def _exact_sum(values: np.ndarray) -> Fraction:
    """Of floats: their denominators are powers of two, so the largest is common."""
    ratios = [value.as_integer_ratio() for value in values.tolist()]
    common = max((denominator for _, denominator in ratios), default=1)
    return Fraction(sum(numerator * (common // denominator) for numerator, denominator in ratios), common)


def _float64(C: Matrix) -> np.ndarray | sp.csr_array:
    """C as float64, square, no longer the caller's if sparse; exactness is checked where integers are wide."""
    if isinstance(C, np.ma.MaskedArray):
        raise TypeError("C is a masked array, whose mask would be dropped; fill it first")
    if not isinstance(C, np.ndarray) and not sp.issparse(C):
        raise TypeError(f"C must be a NumPy array or a SciPy sparse matrix (got {type(C).__name__}); use np.asarray(C)")
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise ValueError(f"C must be square (got shape {tuple(C.shape)}); for ||y - Xw||^2 use least_squares(X, y)")
    if C.shape[0] == 0:
        raise ValueError("C is empty (shape (0, 0)); the smallest problem has one row")
    if C.dtype.kind not in "biuf" or C.dtype.itemsize > 8 or C.dtype == np.float16:
        raise TypeError(f"C must be bool, integer, float32 or float64 (got {C.dtype}); convert it first")
    entries = C if isinstance(C, np.ndarray) else C.data
    if C.dtype.kind in "iu" and entries.size and max(int(entries.max()), -int(entries.min())) > LARGEST_INTEGER:
        raise ValueError("C has integers beyond 2^53, which float64 would round; divide C by a power of two first")
    if isinstance(C, np.ndarray):
        return np.asarray(C, dtype=np.float64)
    coo = sp.coo_array(C)
    summed = sp.csr_array((coo.data.astype(np.float64), (coo.row, coo.col)), shape=coo.shape)  # duplicates add up here
    if C.dtype.kind in "iu" and np.abs(summed.data).max(initial=0.0) > LARGEST_INTEGER:
        raise ValueError("C has duplicate entries that add up beyond 2^53; divide C by a power of two first")
    return summed


def _check_finite_and_symmetric(C: np.ndarray | sp.csr_array) -> None:
    stored = None if isinstance(C, np.ndarray) else sp.coo_array(C)
    values = C if stored is None else stored.data
    if not np.isfinite(values).all():
        where = np.argwhere(~np.isfinite(values))[0]
        i, j = where if stored is None else (stored.row[where[0]], stored.col[where[0]])
        raise ValueError(f"C[{i}, {j}] is {values[tuple(where)]}; every entry must be finite")
    with np.errstate(over="ignore"):
        if not np.isfinite(4 * np.abs(values).sum()):
            raise ValueError(
                f"C has entries up to {np.abs(values).max():.1e}, whose sums overflow float64; "
                "divide C by a power of two"
            )
    wrong = sp.coo_array(C != C.T) if stored is not None else C != C.T
    if wrong.sum():
        i, j = (wrong.row[0], wrong.col[0]) if stored is not None else np.argwhere(wrong)[0]
        raise ValueError(f"C is not symmetric: C[{i}, {j}] = {C[i, j]} but C[{j}, {i}] = {C[j, i]}; pass (C + C.T) / 2")


def _array(C: np.ndarray | sp.csr_array) -> np.ndarray:
    off = np.array(C if isinstance(C, np.ndarray) else C.toarray(), dtype=np.float64, order="C")
    np.fill_diagonal(off, 0.0)
    return off


def _csr(C: np.ndarray | sp.csr_array) -> sp.csr_array:
    coo = sp.coo_array(C)
    keep = (coo.row != coo.col) & (coo.data != 0)
    off = sp.csr_array((coo.data[keep], (coo.row[keep], coo.col[keep])), shape=coo.shape)
    off.sum_duplicates()
    off.sort_indices()
    if off.indices.dtype != np.int32:
        if off.nnz > np.iinfo(np.int32).max:
            raise ValueError(f"C has {off.nnz} non-zeros; at most 2^31 - 1 are supported")
        off.indices, off.indptr = off.indices.astype(np.int32), off.indptr.astype(np.int32)
    return off
