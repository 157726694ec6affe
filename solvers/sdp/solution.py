"""What a solve returns: a factor, its value, a bound, and whether the bound is proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

Certify = Literal["rigorous", "estimate", "none"]
Status = Literal["certified", "estimated", "stationary", "stalled", "time_limit", "iteration_limit"]


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds of a solve: descending, and bounding (steering estimates and proofs)."""

    solve: float
    certify: float

    @property
    def total(self) -> float:
        """Both."""
        return self.solve + self.certify


@dataclass(frozen=True)
class Look:
    """One look at the state of a solve: iterations so far, value, rank, predicted and proven gap (nan: not asked)."""

    iteration: int
    value: float
    rank: int
    predicted: float
    proven: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Solution:
    """min <C, X> over diag X = 1, X psd, as X = V V'.

    factor: V (n, rank), rows of length 1. value: <C, VV'> (an upper bound of the optimum up to rounding).
    multipliers: y, with which the bound is proven: off - Diag(y) is psd, off being C without
    its diagonal, and bound = sum(y) + trace(C), rounded downwards. bound: lower bound of the optimum of the SDP, proven
    in floating point where `proven`, an estimate where not; -inf with certify="none". bound_integer: lower bound of min
    x'Cx over signs: `bound`, raised to the next value that x'Cx can take; as proven as `bound`.
    gap = |value - bound| / max(1, |value|).
    status: "certified" (the gap asked is proven), "estimated" (it is estimated to hold), "stationary" (the descent has
    come to rest as far as certify="none" asks, without a bound), "stalled" (rounding stops progress), "time_limit",
    "iteration_limit": the best found so far, with its bound. note: why not the gap asked, in words.
    """

    factor: Float[np.ndarray, "n rank"]
    value: float
    multipliers: Float[np.ndarray, " n"]
    bound: float
    bound_integer: float
    gap: float
    proven: bool
    status: Status
    history: tuple[Look, ...]
    seconds: Seconds
    factorisations: int = 0
    note: str = ""

    @property
    def rank(self) -> int:
        """Columns of the factor."""
        return int(self.factor.shape[1])


def factor_of(given: np.ndarray | Solution) -> Float[np.ndarray, "n k"]:
    """V, a row a sign, from itself or from a solution; TypeError or ValueError for anything else."""
    factor = factors_of(given)
    if factor.ndim != 2:
        raise ValueError(
            f"factor must have two dimensions, a row a sign (got shape {factor.shape}); one column is factor[:, None]"
        )
    return factor


def factors_of(given: np.ndarray | Solution) -> Float[np.ndarray, "*T n k"]:
    """The same, or V of every problem of a batch, in one array."""
    factor = given.factor if isinstance(given, Solution) else given
    if not isinstance(factor, np.ndarray) or factor.dtype.kind not in "biuf":
        kind = factor.dtype if isinstance(factor, np.ndarray) else type(factor).__name__
        raise TypeError(
            f"factor must be a NumPy array of real numbers, or a Solution (got {kind}); pass solution.factor"
        )
    if factor.ndim < 2:
        raise ValueError(
            f"factor must have two dimensions, a row a sign (got shape {factor.shape}); one column is factor[:, None]"
        )
    return factor.astype(np.float64, copy=False)
