"""What a solve takes off a problem first: isolated rows, and the scale. Both come back exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from solvers.sdp.problem import Cost


@dataclass(frozen=True, eq=False)
class Reduced:
    """The rows with non-zero entries, divided by `scale`, a power of two, without rounding.

    cost: without a diagonal. rows: their indices in the whole problem.
    """

    cost: Cost
    rows: np.ndarray
    scale: float

    def restored(self, multipliers: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """In units of the whole problem, rounded downwards where a product is subnormal."""
        whole = multipliers * self.scale
        down: np.ndarray = np.where(whole / self.scale > multipliers, np.nextafter(whole, -np.inf), whole)
        return down

    def expanded(self, factor: Float[np.ndarray, "m k"], n: int) -> Float[np.ndarray, "n k"]:
        """Rows of the whole problem; an isolated one is the first unit vector (any row is as good)."""
        whole = np.zeros((n, factor.shape[1]))
        whole[:, 0] = 1.0
        whole[self.rows] = factor
        return whole


def reduce(of: Cost) -> Reduced | None:
    """None where every row is isolated: then the value is the constant. ValueError where scaling would round."""
    if isinstance(of.off, np.ndarray):
        rows = np.flatnonzero(of.off.any(axis=1))
        off: np.ndarray | sp.csr_array = (
            of.off if len(rows) == of.n else np.ascontiguousarray(of.off[np.ix_(rows, rows)])
        )
        largest = float(np.abs(off).max(initial=0.0))
    else:
        rows = np.flatnonzero(np.diff(of.off.indptr))
        off = of.off if len(rows) == of.n else sp.csr_array(of.off[rows][:, rows])
        largest = float(np.abs(off.data).max(initial=0.0))
    if not len(rows):
        return None
    scale = 2.0 ** max(-1000, min(1000, math.frexp(largest)[1]))
    scaled = off / scale if scale != 1.0 else off
    entries, kept = (x if isinstance(x, np.ndarray) else x.data for x in (off, scaled))
    if not np.array_equal(kept * scale, entries):
        least = float(np.abs(entries[entries != 0]).min())
        raise ValueError(f"C has entries from {least:.1e} to {largest:.1e}, a range that float64 cannot scale exactly")
    return Reduced(Cost(scaled, np.zeros(len(rows)), 0.0), rows, scale)
