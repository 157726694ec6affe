"""VISPA as its released code trains it (NeurIPS 2024, github.com/snownus/bnn_vi): free rows, quiet noise, 40 networks.

What differs from the paper's algorithm is in the code: rows are never of unit length (its normalisation assigns to
temporaries), and the gradient of Z is that of the loss times the unit normal, without the 1/sqrt(S) of the chain rule.
What differs from the code is here: no warm-up, batch-norm statistics re-estimated for each network.
"""

import math

import torch

from core.claims import binary_coordinates, real_parameters
from core.interface import Method, Reading, Rng
from core.low_rank_released import ReleasedLowRank, xavier_rows
from core.ops import ApproxSign, StraightThrough
from core.predict import ensemble, mode
from core.readings import Draw, SignActivation
from methods import register


@register("lowrank-sdp-published")
def lowrank_sdp_published(
    *,
    lr: float = 1.0,
    rank: int = 4,
    precision: float = 100.0,
    weight_decay: float = 1e-5,
    momentum: float = 0.9,
) -> Method:
    """The released settings for real activations; for binary ones it takes lr=0.5, rank=4, weight_decay=1e-5.

    lr, momentum, weight_decay: of one torch SGD (heavy ball, decay added to the gradient) over every parameter, M, Z
    and batch norm's alike. rank: columns of Z. precision: S, the noise is r ~ N(0, 1/S).
    """
    if rank < 1:
        raise ValueError(
            f"lowrank-sdp-published: rank={rank}, but Z needs at least one column (use gaussian-vi for none)"
        )
    if not (precision > 0 and math.isfinite(precision)):
        raise ValueError(f"precision must be finite and > 0: the noise has variance 1 / precision (got {precision})")
    activations = SignActivation(ApproxSign())

    def law(shape: torch.Size, rng: Rng) -> ReleasedLowRank:
        return ReleasedLowRank(xavier_rows(shape, rank, rng), precision=precision)

    return Method(
        law=law,
        train=lambda progress: Reading(Draw(StraightThrough()), activations),
        solvers=lambda model, budget: [
            torch.optim.SGD(
                [*(c.parameter for c in binary_coordinates(model)), *real_parameters(model)],
                lr=lr,
                momentum=momentum,
                weight_decay=weight_decay,
            )
        ],
        predictors=[mode(activations), ensemble(40, activations)],
    )
