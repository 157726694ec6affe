"""Where a solve starts: a warm factor, or a random one."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from solvers.sdp.growth import largest_rank
from solvers.sdp.reduction import Reduced
from solvers.sdp.solution import Solution


def starting_factor(
    n: int, reduced: Reduced, rank: int | str, warm: np.ndarray | Solution | None, seed: int
) -> Float[np.ndarray, "m k"]:
    """Rows of the reduced problem: of `warm`, whose n rows are those of the whole, or standard normal for the seed.

    rank: columns; "auto": near 2 log2 m, at most what growth allows. Raises ValueError and TypeError for a warm factor
    that is none.
    """
    if warm is not None:
        factor = np.asarray(warm.factor if isinstance(warm, Solution) else warm, dtype=np.float64)
        if isinstance(warm, np.ma.MaskedArray):
            raise TypeError("warm is a masked array, whose mask would be dropped; fill it first")
        if factor.ndim != 2 or factor.shape[0] != n or not np.isfinite(factor).all():
            raise ValueError(f"warm must be a finite factor of {n} rows (got shape {factor.shape})")
        longest = np.abs(factor).max(axis=1, keepdims=True)
        if not (longest > 0).all():
            raise ValueError("warm has a row of zeros; rows are vectors of length 1")
        factor = factor / longest  # squares of what is left do not overflow
        kept: np.ndarray = factor[reduced.rows]
        return kept
    m = reduced.cost.n
    columns = int(rank) if rank != "auto" else min(max(8, 2 * math.ceil(math.log2(m))), largest_rank(m))
    return np.random.default_rng([seed, 0]).standard_normal((m, min(columns, m)))
