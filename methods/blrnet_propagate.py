"""Moments propagated through every layer, activations included, nothing sampled: PBNet. Peters & Welling 2018."""

from typing import Literal

import torch

from core.claims import binary_coordinates, real_parameters
from core.geometry import Box
from core.interface import Method, Reading, Rng
from core.laws import Bernoulli, initial_uniform
from core.moments import Moments, PropagatedSign
from core.ops import ClippedStraightThrough
from core.predict import ensemble, mean, mode, propagate, ternary
from core.readings import SignActivation
from methods import register
from methods.blrnet import OUTPUTS
from solvers.geometric import GeometricAdam, real_solvers


@register("blrnet-propagate")
def blrnet_propagate(
    *,
    lr: float = 1e-2,
    output: Literal["bce", "ce"] = "bce",
    init: float = 0.9,
    bound: float = 5.0,
    slope_window: float = 1.0,
) -> Method:
    """lr: Adam's rate on the natural parameter, |lambda| <= bound. output: bce or ce, as blrnet. init: the means start
    at init * U(-1, 1). slope_window: of a sign that follows a real layer.

    Its binary networks lose 8 to 12 points on CIFAR-10 against the propagated one in the paper: sample with blrnet.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output must be bce or ce (got {output!r})")
    if not 0 < init < 1:
        raise ValueError(f"init must be in (0, 1): the largest initial |mean| (got {init})")
    loss, scores = OUTPUTS[output]
    signs = SignActivation(ClippedStraightThrough(slope_window))
    moments = PropagatedSign()

    def law(shape: torch.Size, rng: Rng) -> Bernoulli:
        return Bernoulli(torch.atanh(init * initial_uniform(shape, rng)), geometry=Box(bound))

    return Method(
        law=law,
        train=lambda progress: Reading(Moments(), moments),
        solvers=lambda model, budget: [
            GeometricAdam(binary_coordinates(model), lr=lr),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[mode(signs), mean(signs), ensemble(10, signs), ternary(signs), propagate(moments, scores, bits=32)],
        normalisation="stochastic",
        loss=loss,
    )
