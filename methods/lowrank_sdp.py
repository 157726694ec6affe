"""Low-rank relaxation of the sign constraint, trained by Burer-Monteiro descent on unit rows. VISPA (NeurIPS 2024)."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from core.claims import binary_coordinates, real_parameters
from core.conditional import ConditionalMean
from core.geometry import EUCLIDEAN, UnitRows
from core.interface import Geometry, Method, Reading, Rng, WeightReading
from core.laws import initial_uniform
from core.low_rank import LowRank, LowRankPlusDiagonal, SymmetricLowRank, initial_columns
from core.ops import ClippedStraightThrough, Identity, StraightThrough
from core.predict import ensemble, mean, mode
from core.readings import Draw, SignActivation
from methods import register
from solvers.geometric import GeometricSGD, real_solvers

Chart = Literal["identity", "sphere"]
ROWS: dict[str, tuple[Geometry, Chart]] = {
    "retract": (UnitRows(), "identity"),
    "reparam": (EUCLIDEAN, "sphere"),
    "none": (EUCLIDEAN, "identity"),
}
READINGS: dict[str, WeightReading] = {
    "rounded": Draw(StraightThrough()),
    "smooth": Draw(Identity()),
    "conditional": ConditionalMean(),
}
NO_MODE = (
    "law=symmetric has no mode to export: w and -w are equally likely. Use law=homogenised, or the law itself "
    "(core.low_rank.SymmetricLowRank) in a study of your own"
)


@register("lowrank-sdp")
def lowrank_sdp(
    *,
    lr: float = 10.0,
    rank: int = 4,
    scale0: float = 0.1,
    momentum: float = 0.9,
    estimator: Literal["rounded", "smooth", "conditional"] = "rounded",
    rows: Literal["retract", "reparam", "none"] = "retract",
    law: Literal["homogenised", "symmetric"] = "homogenised",
    diagonal: float = 0.3,
    slope_window: float = 1.0,
) -> Method:
    """lr: of gradient descent on the rows, momentum its bias-corrected average. rank: columns of Z, the mean column not
    counted. scale0: initial length of a row of Z (root mean square) beside means from U(-1, 1), before rows are made
    unit vectors; at 0 they would freeze, each at the sign it has.

    estimator: the training pass sees sign(z) (rounded, straight through), z (smooth, exact for the relaxed loss), or
    E[w | eps] of the law with an independent part of deviation `diagonal` (conditional). rows: unit by retraction
    after each step (retract), by the law's own division (reparam), or free (none). law: with a mean column
    (homogenised) or without (symmetric). slope_window: of a binary activation's slope.
    """
    _check(estimator, rows, law, rank)
    _require_positive(scale0=scale0, diagonal=diagonal)
    activations = SignActivation(ClippedStraightThrough(slope_window))
    geometry, chart = ROWS[rows]
    options: dict[str, Any] = {"geometry": geometry, "chart": chart}

    def make_law(shape: torch.Size, rng: Rng) -> LowRank:
        means = initial_uniform(shape, rng)
        columns = scale0 * rank**-0.5 * initial_columns(shape, rank, rng)
        if law == "symmetric":
            return SymmetricLowRank(UnitRows().project(columns), **options)
        start: Tensor = UnitRows().project(torch.cat([means[None], columns]))
        if estimator == "conditional":
            return LowRankPlusDiagonal(start, diagonal=diagonal, **options)
        return LowRank(start, **options)

    return Method(
        law=make_law,
        train=lambda progress: Reading(READINGS[estimator], activations),
        solvers=lambda model, budget: [
            GeometricSGD(binary_coordinates(model), lr=lr, momentum=momentum),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[mode(activations), mean(activations), ensemble(10, activations)],
        supports=lambda problem: NO_MODE if law == "symmetric" else None,
    )


def _check(estimator: str, rows: str, law: str, rank: int) -> None:
    for key, value, allowed in (
        ("estimator", estimator, tuple(READINGS)),
        ("rows", rows, tuple(ROWS)),
        ("law", law, ("homogenised", "symmetric")),
    ):
        if value not in allowed:
            raise ValueError(f"{key} must be one of {', '.join(allowed)} (got {value!r})")
    if rank < 1:
        raise ValueError(
            f"lowrank-sdp: rank={rank}, but the correlated part needs at least one column (use gaussian-vi for none)"
        )
    if (estimator, law) == ("conditional", "symmetric"):
        raise ValueError("estimator=conditional needs law=homogenised: there is no symmetric law with a diagonal part")


def _require_positive(**given: float) -> None:
    for key, value in given.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"lowrank-sdp: {key} must be finite and > 0 (got {value})")
