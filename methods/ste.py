"""Straight-through sign on clipped latent weights. Courbariaux et al. 2015 (BinaryConnect), deterministic, by Adam."""

import torch

from core.claims import binary_laws, real_parameters
from core.geometry import Box
from core.interface import Method, Reading, Rng
from core.laws import Point, initial_uniform
from core.ops import ClippedStraightThrough, StraightThrough
from core.predict import mode
from core.prefetch import Prefetched, Slots
from core.readings import SignActivation
from methods import register
from solvers.fused import FusedAdam
from solvers.geometric import real_solvers


@register("ste")
def ste(*, lr: float = 1e-1, clip: float = 2.0, init: float = 0.2, slope_window: float = 1.0) -> Method:
    """lr: Adam's rate. clip: half-width of the box the latents stay in. init: half-width of their uniform start.

    slope_window: where the slope of a binary activation is 1 (weights use slope 1 everywhere, as BinaryConnect).
    """
    activations, slots = SignActivation(ClippedStraightThrough(slope_window)), Slots()

    def law(shape: torch.Size, rng: Rng) -> Point:
        return Point(init * initial_uniform(shape, rng), geometry=Box(clip))

    return Method(
        law=law,
        train=lambda progress: Reading(Prefetched(StraightThrough(), slots), activations),
        solvers=lambda model, budget: [
            FusedAdam(binary_laws(model), slots=slots, lr=lr),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[mode(activations)],
    )
