"""The hot loops of descent on min <C, VV'>, rows of V of length 1: native, or twins in NumPy with the same answers.

Factors V are float64, (n, k), C-contiguous, k a multiple of 8 (`padded`): a kernel holds whole rows in registers.
Unused columns are zero and stay zero. C is `off` of a Cost: symmetric, zero diagonal, an array or CSR, whose indices
are trusted. All work is in place and in one thread.
Histories of L-BFGS are kept as upper halves of float32 (bfloat16) and combined in float32: they are read twice an
iteration, where bandwidth is what counts, and need not be exact, only consistent.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Float64, UInt16
from scipy.linalg.lapack import dtrtrs

from core import extension

ALIGNMENT = 64  # bytes a row is padded to, and arrays begin at: one register, one line of cache
BLOCK = 64  # rows of an array C whose product with V is one matrix product
SLOTS = 6  # pairs of the quasi-Newton method, and that of the step being tried

Off: TypeAlias = np.ndarray | sp.csr_array


def padded(factor: Float[np.ndarray, "n k"], dtype: type = np.float64) -> Float[np.ndarray, "n padded"]:
    """A copy with zero columns up to the next multiple of 64 bytes (8 columns of float64, 16 of float32), aligned."""
    n, k = factor.shape
    lanes = ALIGNMENT // np.dtype(dtype).itemsize
    wide = aligned((n, -(-k // lanes) * lanes), dtype)
    wide[:, :k] = factor
    return wide


def aligned(shape: tuple[int, ...], dtype: type = np.float64) -> np.ndarray:
    """Zeros that begin at a line of cache: a row of a padded factor then never straddles two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def narrowed(x: Float[np.ndarray, " ..."]) -> UInt16[np.ndarray, " ..."]:
    """The upper halves of x in float32, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widened(halves: UInt16[np.ndarray, " ..."]) -> Float[np.ndarray, " ..."]:
    """The float32 numbers whose upper halves these are."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def sweep(off: Off, V: Float[np.ndarray, "n k"], y: Float[np.ndarray, " n"]) -> float:
    """One cyclic pass of exact minimisation over rows: v_i <- -g_i / |g_i|, g_i = sum_j c_ij v_j; in place.

    y_i <- -|g_i|; a row with g_i = 0 stays. Returns the decrease of <C, VV'>, 2 sum_i (|g_i| + <g_i, v_i before>).
    Exact Gauss-Seidel for arrays too: by blocks of 64 rows, what lies outside a block being one matrix product.
    V, y and C all float64, or all float32 (V padded to 16 columns).
    """
    if not extension.allowed():
        extension.warn_once()
        return _sweep_sparse(off, V, y) if isinstance(off, sp.csr_array) else _sweep_dense(off, V, y)
    kernels, level = _compiled()
    single = V.dtype == np.float32
    if isinstance(off, sp.csr_array):
        sparse = kernels.sweep_sparse_single if single else kernels.sweep_sparse
        return float(sparse(level, off.data, off.indices, off.indptr, V, y))
    return float((kernels.sweep_dense_single if single else kernels.sweep_dense)(level, off, V, y))


class Sums(NamedTuple):
    """Of all rows: multipliers y_i; squares of C V - y V, of C V, and of the change of the scaled gradient."""

    multipliers: float
    gradient: float
    product: float
    change: float


def gradient(
    off: Off,
    V: Float64[np.ndarray, "n k"],
    root: Float64[np.ndarray, " n"],
    before: Float64[np.ndarray, "n k"],
    into: Float64[np.ndarray, "n k"],
    y: Float64[np.ndarray, " n"],
    pairs: UInt16[np.ndarray, "n 2 slots k"],
    scale: float,
    tried: int,
    products: Float64[np.ndarray, " both"],
) -> Sums:
    """y_i <- <g_i, v_i> and into_i <- (g_i - y_i v_i) / (scale root_i), g = C V; and in the same pass what L-BFGS asks.

    pairs[:, 1, tried] <- into - before, the change of the gradient. products[j] and products[slots + j] <- the inner
    products of the new gradient with pairs[:, 0, j] (steps) and pairs[:, 1, j] (changes), that of `tried` included.
    """
    arrays = (V, root, before, into, y, pairs, scale, tried, products)
    if not extension.allowed():
        extension.warn_once()
        return _gradient(off, *arrays)
    kernels, level = _compiled()
    if isinstance(off, sp.csr_array):
        return Sums(*kernels.gradient_sparse(level, off.data, off.indices, off.indptr, *arrays))
    return Sums(*kernels.gradient_dense(level, off, *arrays))


def step(
    V: Float64[np.ndarray, "n k"],
    root: Float64[np.ndarray, " n"],
    gradient: Float64[np.ndarray, "n k"],
    by_pairs: Float64[np.ndarray, " both"],
    by_gradient: float,
    length: float,
    moved: Float64[np.ndarray, "n k"],
    pairs: UInt16[np.ndarray, "n 2 slots k"],
    tried: int,
) -> float:
    """moved <- rows of V + length p, normalised; p is tangent.

    p = (by_gradient gradient + sum_j by_pairs[j] pairs[j]) / root, less its components along the rows of V.
    pairs[:, 0, tried] <- length p root, the step in scaled coordinates. Returns its inner product with `gradient`.
    """
    arrays = (V, root, gradient, by_pairs, by_gradient, length, moved, pairs, tried)
    if not extension.allowed():
        extension.warn_once()
        return _step(*arrays)
    kernels, level = _compiled()
    return float(kernels.step(level, *arrays))


@cache
def _compiled() -> tuple[Any, int]:
    """The extension and the best CPU level of this machine."""
    kernels: Any = extension.module()
    return kernels, kernels.best_level()


def combination(
    order: list[int],
    sz: Float64[np.ndarray, "slots slots"],
    zz: Float64[np.ndarray, "slots slots"],
    products: Float64[np.ndarray, " both"],
    by_pairs: Float64[np.ndarray, " both"],
) -> float:
    """-H g of L-BFGS as a combination of g, whose coefficient is returned, and the pairs, theirs into by_pairs.

    H = gamma I + [S, gamma Z] [[R^-T (D + gamma Z'Z) R^-1, -R^-T], [-R^-1, 0]] [S, gamma Z]', R the upper triangle of
    S'Z, D its diagonal, gamma = <s, z> / <z, z> of the newest pair: Byrd, Nocedal & Schnabel 1994, theorem 2.2.
    order: slots of the pairs, oldest first, at least one. sz, zz: inner products <s_i, z_j> and <z_i, z_j> by slot.
    """
    if not extension.allowed():
        extension.warn_once()
        return _combination(order, sz, zz, products, by_pairs)
    return float(_compiled()[0].combination(order, sz, zz, products, by_pairs))


def _combination(order: list[int], sz: np.ndarray, zz: np.ndarray, products: np.ndarray, by_pairs: np.ndarray) -> float:
    slots = np.array(order)
    sz, zz = sz[slots[:, None], slots], zz[slots[:, None], slots]
    gamma = sz[-1, -1] / zz[-1, -1]
    q, _ = dtrtrs(sz, products[slots])
    a, _ = dtrtrs(sz, np.diag(sz) * q + gamma * (zz @ q - products[SLOTS + slots]), trans=1)
    by_pairs[:] = 0
    by_pairs[slots], by_pairs[SLOTS + slots] = -a, gamma * q
    return float(-gamma)


def _sweep_sparse(off: sp.csr_array, V: np.ndarray, y: np.ndarray) -> float:
    decrease = 0.0
    for i in range(len(V)):
        entries = slice(off.indptr[i], off.indptr[i + 1])
        decrease += _minimise_row(off.data[entries] @ V[off.indices[entries]], V, y, i)
    return decrease


def _sweep_dense(off: np.ndarray, V: np.ndarray, y: np.ndarray) -> float:
    decrease = 0.0
    for start in range(0, len(V), BLOCK):
        block = slice(start, start + BLOCK)
        within = off[block, block]
        outside = off[block] @ V - within @ V[block]
        for i, (fixed, row) in enumerate(zip(outside, within, strict=True), start):
            decrease += _minimise_row(fixed + row @ V[block], V, y, i)
    return decrease


def _minimise_row(g: np.ndarray, V: np.ndarray, y: np.ndarray, i: int) -> float:
    length = np.sqrt(g @ g)
    y[i] = -length
    if not length:
        return 0.0
    decrease = 2 * float(length + g @ V[i])
    V[i] = g / -length
    return decrease


def _gradient(
    off: Off,
    V: np.ndarray,
    root: np.ndarray,
    before: np.ndarray,
    into: np.ndarray,
    y: np.ndarray,
    pairs: np.ndarray,
    scale: float,
    tried: int,
    products: np.ndarray,
) -> Sums:
    product = off @ V
    np.einsum("ik,ik->i", product, V, out=y)
    tangent = product - y[:, None] * V
    np.divide(tangent, (scale * root)[:, None], out=into)
    pairs[:, 1, tried] = narrowed(into - before)
    change = widened(pairs[:, 1, tried]).astype(np.float64)
    products[:] = np.einsum("iask,ik->as", widened(pairs), into).ravel()
    squares = (float(np.vdot(x, x)) for x in (tangent, product, change))
    return Sums(math.fsum(y), *squares)


def _step(
    V: np.ndarray,
    root: np.ndarray,
    gradient: np.ndarray,
    by_pairs: np.ndarray,
    by_gradient: float,
    length: float,
    moved: np.ndarray,
    pairs: np.ndarray,
    tried: int,
) -> float:
    used = by_pairs.reshape(2, -1) != 0  # the slot tried may hold anything
    direction = by_gradient * gradient + np.einsum("iak,a->ik", widened(pairs[:, used]), by_pairs[used.ravel()])
    direction -= np.einsum("ik,ik->i", direction, V)[:, None] * V
    pairs[:, 0, tried] = narrowed(length * direction)
    np.add(V, direction * (length / root)[:, None], out=moved)
    moved /= np.sqrt(np.einsum("ik,ik->i", moved, moved))[:, None]
    return float(np.vdot(widened(pairs[:, 0, tried]).astype(np.float64), gradient))
