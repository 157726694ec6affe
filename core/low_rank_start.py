"""Where low-rank training starts: which law, how its rows are kept, unit rows around the means all methods start at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from core.geometry import EUCLIDEAN, UnitRows
from core.interface import Rng
from core.laws import initial_uniform
from core.low_rank import LowRank, LowRankPlusDiagonal, SymmetricLowRank, initial_columns

ROWS: Mapping[str, Mapping[str, Any]] = {  # how rows are kept -> a law's options
    "retract": {"geometry": UnitRows(), "chart": "identity"},
    "reparam": {"geometry": EUCLIDEAN, "chart": "sphere"},
    "none": {"geometry": EUCLIDEAN, "chart": "identity"},
}
KINDS = ("homogenised", "symmetric")
NO_MODE = (
    "law=symmetric has no mode to export: w and -w are equally likely. Use law=homogenised, or the law itself "
    "(core.low_rank.SymmetricLowRank) in a study of your own"
)


def starting_law(
    kind: str, rows: str, rank: int, scale0: float, diagonal: float | None
) -> Callable[[torch.Size, Rng], LowRank]:
    """(shape, rng) -> law with unit rows: means from U(-1, 1) beside `rank` columns, whose rows have length scale0.

    kind: "homogenised" (with the mean column) or "symmetric"; rows: how they are kept, of ROWS; diagonal: deviation of
    the independent part, None for none. Raises ValueError for an impossible value or pair.
    """
    for key, value, allowed in (("rows", rows, tuple(ROWS)), ("law", kind, KINDS)):
        if value not in allowed:
            raise ValueError(f"{key} must be one of {', '.join(allowed)} (got {value!r})")
    for key, number in (("scale0", scale0), ("diagonal", 1.0 if diagonal is None else diagonal)):
        if not (number > 0 and math.isfinite(number)):
            raise ValueError(f"{key} must be finite and > 0 (got {number})")
    if rank < 1:
        raise ValueError(
            f"lowrank-sdp: rank={rank}, but the correlated part needs at least one column (use gaussian-vi for none)"
        )
    if kind == "symmetric" and diagonal is not None:
        raise ValueError("estimator=conditional needs law=homogenised: there is no symmetric law with a diagonal part")

    def law(shape: torch.Size, rng: Rng) -> LowRank:
        means = initial_uniform(shape, rng)
        columns = scale0 * rank**-0.5 * initial_columns(shape, rank, rng)
        if kind == "symmetric":
            return SymmetricLowRank(UnitRows().project(columns), **ROWS[rows])
        start = UnitRows().project(torch.cat([means[None], columns]))
        if diagonal is not None:
            return LowRankPlusDiagonal(start, diagonal=diagonal, **ROWS[rows])
        return LowRank(start, **ROWS[rows])

    return law
