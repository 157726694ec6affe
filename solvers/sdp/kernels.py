"""The hot loops of descent on min <C, VV'>, rows of V of length 1; native, or twins in NumPy with the same answers.

Factors V are (n, k) float64, contiguous, their columns padded to a multiple of 8 by zeros, which stay zero.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

LANES = 8  # columns a factor is padded to: one register of 512 bits
BLOCK = 64  # rows of a dense matrix whose product with V is one matrix product


def padded(factor: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n padded"]:
    """A copy with zero columns up to the next multiple of 8."""
    n, k = factor.shape
    wide = np.zeros((n, -(-k // LANES) * LANES))
    wide[:, :k] = factor
    return wide


def sweep(off: np.ndarray | sp.csr_array, V: Float[np.ndarray, "n k"], y: Float[np.ndarray, " n"]) -> float:
    """One cyclic pass of exact minimisation over each row: v_i <- -g_i / |g_i|, g_i = sum_j c_ij v_j; in place.

    y_i <- -|g_i|. Rows with g_i = 0 stay. Returns the decrease of <C, VV'>, 2 sum_i (|g_i| + <g_i, v_i before>).
    """
    decrease = 0.0
    if isinstance(off, np.ndarray):
        n = len(V)
        for start in range(0, n, BLOCK):
            stop = min(start + BLOCK, n)
            outside = off[start:stop] @ V - off[start:stop, start:stop] @ V[start:stop]
            for i in range(start, stop):
                g = outside[i - start] + off[i, start:stop] @ V[start:stop]
                decrease += _minimise_row(g, V, y, i)
        return decrease
    indptr, indices, data = off.indptr, off.indices, off.data
    for i in range(len(V)):
        chosen = slice(indptr[i], indptr[i + 1])
        decrease += _minimise_row(data[chosen] @ V[indices[chosen]], V, y, i)
    return decrease


def _minimise_row(g: np.ndarray, V: np.ndarray, y: np.ndarray, i: int) -> float:
    length = float(np.sqrt(g @ g))
    y[i] = -length
    if not length:
        return 0.0
    decrease = 2 * (length + float(g @ V[i]))
    V[i] = g / -length
    return decrease
