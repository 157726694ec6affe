"""Bernoulli weights, Gaussian pre-activations, sampled binary activations: BLRNet / PBNet-S. Peters & Welling 2018.

In a network with real activations the pre-activations are sampled instead, as in LR-net (Shayer et al. 2018).
"""

from typing import Literal

from core.claims import binary_coordinates, real_parameters
from core.geometry import Box
from core.interface import Method, Reading
from core.laws import Bernoulli, initial_uniform
from core.moments import Moments, StochasticSign, output_loss, output_scores, undecided
from core.ops import StraightThrough
from core.predict import ensemble, mean, mode, propagate, ternary
from core.readings import SignActivation
from core.transfer import transferred
from methods import make, register
from solvers.geometric import GeometricAdam, real_solvers


@register("blrnet")
def blrnet(
    *,
    lr: float = 2e-2,
    output: Literal["bce", "ce"] = "bce",
    temperature: float = 1.0,
    transfer: float = 0.4,
    init: float = 0.9,
    bound: float = 3.0,
    certainty: float = 0.0,
) -> Method:
    """lr: Adam's rate on the natural parameter lambda, mean tanh(lambda), |lambda| <= bound. output: bce (class
    probability P(logit > 0)) or ce (softmax of the means). temperature: of the sampled signs' slope.

    transfer: share of the budget that trains the full-precision network whose weights set the initial means; 0 starts
    at init * U(-1, 1). certainty: weight of LR-net's regulariser, the sum of p (1 - p) over weights.
    """
    if not 0 <= transfer < 1:
        raise ValueError(f"transfer must be in [0, 1): a share of the budget (got {transfer})")
    if certainty < 0:
        raise ValueError(f"certainty must be >= 0: below, it would reward doubt (got {certainty})")
    signs, sampled = SignActivation(StraightThrough()), StochasticSign(temperature)
    scores, box = output_scores(output), Box(bound)
    return Method(
        law=lambda shape, rng: Bernoulli.of_means(init * initial_uniform(shape, rng), geometry=box),
        train=lambda progress: Reading(Moments(), sampled),
        solvers=lambda model, budget: [
            GeometricAdam(binary_coordinates(model), lr=lr),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[
            *(mode(signs), mean(signs), ensemble(10, signs), ternary(signs)),
            propagate(sampled, scores, bits=None),
        ],
        normalisation="stochastic",
        loss=output_loss(output),
        objective=lambda loss, context: loss + certainty * undecided(context.model) if certainty else loss,
        prepare=(lambda given: transferred(given, make("full-precision"), transfer)) if transfer else None,
    )
