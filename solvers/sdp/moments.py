"""What the signs of a random hyperplane do on average. Goemans and Williamson 1995 (Journal of the ACM 42)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from solvers.sdp.solution import Solution, factor_of


def gw_moments(factor: Float[np.ndarray, "n k"] | Solution) -> Float[np.ndarray, "n n"]:
    """E[x x'] of x = sign(V z), z standard normal: (2 / pi) arcsin(V V'), its diagonal 1.

    factor: V, or a solution; rows of length 1 (checked to 1e-6: ValueError); so E[x'Cx] = <C, gw_moments(V)>.
    """
    V = factor_of(factor)
    lengths = np.linalg.norm(V, axis=1)
    if not np.allclose(lengths, 1.0, rtol=0, atol=1e-6):
        i = int(np.nanargmax(np.where(np.isnan(lengths), np.inf, abs(lengths - 1))))
        raise ValueError(f"factor: row {i} has length {lengths[i]}; rows must have length 1")
    correlations = np.clip(V @ V.T, -1.0, 1.0)  # rounding may pass 1 by a few ulps
    np.fill_diagonal(correlations, 1.0)
    return np.asarray(2 / np.pi * np.arcsin(correlations))
