"""Bop: no latent weights, signs flipped by an average of gradients. Helwegen et al. 2019."""

import torch

from core.claims import binary_coordinates, real_parameters
from core.interface import Method, Reading, Rng
from core.laws import Point, initial_uniform
from core.ops import ClippedStraightThrough, StraightThrough, sign
from core.predict import mode
from core.readings import Draw, SignActivation
from methods import register
from solvers.bop import Bop
from solvers.geometric import real_solvers


@register("bop")
def bop(*, adaptivity: float = 1e-4, threshold: float = 1e-8, slope_window: float = 1.0) -> Method:
    """adaptivity: gamma, the weight of the new gradient in the average, annealed by the schedule.

    threshold: how far the average must push against a sign to flip it. slope_window: of a binary activation's slope.
    """
    activations = SignActivation(ClippedStraightThrough(slope_window))

    def law(shape: torch.Size, rng: Rng) -> Point:
        return Point(sign(initial_uniform(shape, rng)))

    return Method(
        law=law,
        train=lambda progress: Reading(Draw(StraightThrough()), activations),
        solvers=lambda model, budget: [
            Bop([c.parameter for c in binary_coordinates(model)], lr=adaptivity, threshold=threshold),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[mode(activations)],
    )
