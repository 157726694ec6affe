"""Low-rank relaxation of the sign constraint, trained by Burer-Monteiro descent on unit rows. VISPA (NeurIPS 2024)."""

from typing import Literal

from core.claims import binary_laws, real_parameters
from core.conditional import ConditionalMean
from core.interface import Method, Reading, WeightReading
from core.low_rank_start import NO_MODE, starting_law
from core.ops import ClippedStraightThrough, Identity, StraightThrough
from core.predict import ensemble, mean, mode
from core.prefetch import Prefetched, Slots
from core.readings import Draw, SignActivation
from methods import register
from solvers.fused_rows import FusedRows
from solvers.geometric import real_solvers

READINGS: dict[str, WeightReading] = {
    "rounded": Draw(StraightThrough()),
    "smooth": Draw(Identity()),
    "conditional": ConditionalMean(),
}


@register("lowrank-sdp")
def lowrank_sdp(
    *,
    lr: float = 100.0,
    rank: int = 2,
    scale0: float = 0.3,
    momentum: float = 0.9,
    estimator: Literal["rounded", "smooth", "conditional"] = "rounded",
    rows: Literal["retract", "reparam", "none"] = "retract",
    law: Literal["homogenised", "symmetric"] = "homogenised",
    diagonal: float = 0.3,
    slope_window: float = 1.0,
) -> Method:
    """lr, momentum: of gradient descent on the rows, bias-corrected. rank: columns of Z, the mean column not counted.
    scale0: initial length of Z's rows beside means from U(-1, 1), before rows are made unit; at 0 they would freeze.

    estimator: the training pass sees sign(z) (rounded, straight through), z (smooth, exact for the relaxed loss), or
    E[w | eps] of the law with an independent part of deviation `diagonal` (conditional). rows: unit by retraction
    after each step (retract), by the law's own division (reparam), or free (none). law: with a mean column
    (homogenised) or without (symmetric). slope_window: of a binary activation's slope.
    """
    if estimator not in READINGS:
        raise ValueError(f"estimator must be one of {', '.join(READINGS)} (got {estimator!r})")
    activations, slots = SignActivation(ClippedStraightThrough(slope_window)), Slots()
    readings = READINGS | {"rounded": Prefetched(StraightThrough(), slots)}
    return Method(
        law=starting_law(law, rows, rank, scale0, diagonal if estimator == "conditional" else None),
        train=lambda progress: Reading(readings[estimator], activations),
        solvers=lambda model, budget: [
            FusedRows(binary_laws(model), slots=slots, lr=lr, momentum=momentum),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[mode(activations), mean(activations), ensemble(10, activations)],
        supports=lambda problem: NO_MODE if law == "symmetric" else None,
    )
