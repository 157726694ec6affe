"""Moments propagated through every layer, activations included, nothing sampled: PBNet. Peters & Welling 2018."""

from typing import Literal

from core.claims import binary_coordinates, real_parameters
from core.geometry import Box
from core.interface import Method, Reading
from core.laws import Bernoulli, initial_uniform
from core.moments import Moments, PropagatedSign, output_loss, output_scores
from core.ops import StraightThrough
from core.predict import ensemble, mean, mode, propagate, ternary
from core.readings import SignActivation
from methods import register
from solvers.geometric import GeometricAdam, real_solvers


@register("blrnet-propagate")
def blrnet_propagate(
    *, lr: float = 1e-1, output: Literal["bce", "ce"] = "bce", init: float = 0.9, bound: float = 3.0
) -> Method:
    """lr: Adam's rate on the natural parameter, |lambda| <= bound. output: bce or ce, as blrnet. init: the means start
    at init * U(-1, 1).

    In the paper its binary networks lose 8 to 12 points on CIFAR-10 against the propagated one; blrnet samples.
    """
    signs, moments, box = SignActivation(StraightThrough()), PropagatedSign(), Box(bound)
    return Method(
        law=lambda shape, rng: Bernoulli.of_means(init * initial_uniform(shape, rng), geometry=box),
        train=lambda progress: Reading(Moments(), moments),
        solvers=lambda model, budget: [
            GeometricAdam(binary_coordinates(model), lr=lr),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[
            *(mode(signs), mean(signs), ensemble(10, signs), ternary(signs)),
            propagate(moments, output_scores(output), bits=32),
        ],
        normalisation="stochastic",
        loss=output_loss(output),
    )
