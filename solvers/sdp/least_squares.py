"""Least squares over signs, min over w in {-1, +1}^n of ||y - Xw||^2, as +-1 quadratic problems."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int8

from solvers.sdp.solution import Solution, factors_of

EXACT_BELOW = 2**53  # integers that float64 adds and multiplies without rounding


class Normal(NamedTuple):
    """||Y[:, t] - Xw||^2 = w'Gw - 2 B[t]'w + constants[t] of every target: what `solve_batch` takes."""

    G: Float[np.ndarray, "n n"]
    B: Float[np.ndarray, "T n"]
    constants: Float[np.ndarray, " T"]


def normal(X: np.ndarray, Y: np.ndarray) -> Normal:  # (m, n), (m, T)
    """G = X'X, B = Y'X and ||Y[:, t]||^2 in float64: T problems over signs that share their Gram matrix.

    Free of rounding where `exact(X, Y)`. Raises ValueError for shapes that disagree, for data that are empty, not
    finite, integers that float64 would round, or so large that sums of products overflow.
    """
    x, y = _matrix("X", X), _matrix("Y", Y)
    if len(x) != len(y):
        raise ValueError(f"X has {len(x)} rows but Y has {len(y)}; both need one row an example")
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        upper = np.triu(x.T @ x)
        linear, constants = np.ascontiguousarray(y.T @ x), np.einsum("mt,mt->t", y, y)
    for name, sums in (("X'X", upper), ("Y'X", linear), ("||Y||^2", constants)):
        if not np.isfinite(sums).all():
            largest = max(float(np.abs(x).max()), float(np.abs(y).max()))
            raise ValueError(f"{name} overflows float64: entries reach {largest:.3g}; divide X and Y by a power of two")
    gram = upper + np.triu(upper, 1).T  # symmetric to the last bit, whatever the product's order of summation
    return Normal(gram, linear, constants)


def least_squares(X: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "rows rows"]:  # (m, n), (m,)
    """C with ||y - Xw||^2 = x'Cx, x = (w, 1): C = [[X'X, -X'y], [-y'X, ||y||^2]], n + 1 rows.

    x and -x have the same value: w = x[:n] x[n] (`signs_of`). Free of rounding where `exact(X, y)`; elsewhere a bound
    of the problem is one for the rounded C.
    """
    if np.ndim(y) != 1:
        raise ValueError(f"y must be a vector (got shape {np.shape(y)}); for many targets use normal(X, Y)")
    gram, linear, constants = normal(X, np.asarray(y)[:, None])
    return bordered(gram, linear[0], float(constants[0]))


def bordered(
    G: Float[np.ndarray, "n n"], b: Float[np.ndarray, " n"], constant: float
) -> Float[np.ndarray, "rows rows"]:
    """C = [[G, -b], [-b', constant]]: w'Gw - 2 b'w + constant = x'Cx, x = (w, 1)."""
    return np.block([[G, -b[:, None]], [-b[None], np.full((1, 1), constant)]])


def exact(X: np.ndarray, y: np.ndarray) -> bool:  # (m, n), (m,) or (m, T)
    """Whether X'X, X'y and ||y||^2 are free of rounding: integers whose sums of products stay below 2^53.

    Then a bound of the problem is one for the data themselves, and every value over signs is an integer.
    """
    x, targets = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if not (np.array_equal(x, np.rint(x)) and np.array_equal(targets, np.rint(targets))):
        return False
    largest = max(float(np.abs(x).max(initial=0)), float(np.abs(targets).max(initial=0)))
    return len(x) * largest * largest < EXACT_BELOW


def signs_of(factor: Float[np.ndarray, "*T rows k"] | Solution) -> Int8[np.ndarray, "*T n"]:
    """Signs of the weights as the homogenising row sees them: w_i = sign(v_i . v_n), sign(0) = +1, n the last row.

    factor: V, of one problem or of each in a batch, or a solution. Raises ValueError and TypeError.
    """
    V = factors_of(factor)
    along = np.einsum("...ik,...k->...i", V[..., :-1, :], V[..., -1, :])
    return np.where(along >= 0, 1, -1).astype(np.int8)


def _matrix(name: str, data: np.ndarray) -> Float[np.ndarray, "m columns"]:
    given = np.asarray(data)
    if given.ndim != 2 or given.shape[1] == 0:
        raise ValueError(f"{name} must be a matrix with at least one column (got shape {given.shape})")
    if given.shape[0] == 0:
        raise ValueError(f"{name} must have at least one row, an example each (got shape {given.shape})")
    if given.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be bool, integer or floating (got {given.dtype}); convert it first")
    matrix = given.astype(np.float64)
    if not np.isfinite(matrix).all():
        i, j = np.argwhere(~np.isfinite(matrix))[0]
        raise ValueError(f"{name}[{i}, {j}] is {matrix[i, j]}; every entry must be finite")
    if given.dtype.kind in "iu" and (beyond := np.argwhere((given > EXACT_BELOW) | (given < -EXACT_BELOW))).size:
        i, j = beyond[0]
        raise ValueError(
            f"{name}[{i}, {j}] is {given[i, j]}; float64 holds integers up to 2^53 without rounding: convert "
            f"{name} to float64 first if rounding will do"
        )
    return matrix
