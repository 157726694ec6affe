"""BayesBiNN as its released code computes it: temperature 1e-10, lambda0 = +-10, float32. Meng et al. 2020.

There 1 - tanh^2 underflows and the code's two 1e-10 are the step size: numerically a straight-through method.
"""

import torch

from core.claims import binary_laws, real_parameters
from core.geometry import DampedBernoulliFisher
from core.interface import Method, Reading, Rng
from core.laws import Bernoulli, initial_uniform
from core.ops import ClippedStraightThrough, FlooredRelaxedSign, sign
from core.predict import ensemble, mean, mode
from core.prefetch import Prefetched, Slots
from core.readings import SignActivation
from methods import register
from solvers.fused_rule import FusedLearningRule
from solvers.geometric import real_solvers


@register("bayesbinn-published")
def bayesbinn_published(
    *,
    lr: float = 2e-3,
    temperature: float = 1e-10,
    natural0: float = 10.0,
    stabiliser: float = 1e-10,
    momentum: float = 0.0,
    slope_window: float = 1.0,
) -> Method:
    """scale = (1 - w^2 + stabiliser) / temperature / (1 - mu^2 + stabiliser), N inside the solver; no bound on lambda.

    lr: alpha, 1e-4 for MNIST in the released scripts. mu is that of the current lambda (the code's lags a step).
    """
    activations, slots = SignActivation(ClippedStraightThrough(slope_window)), Slots()

    def law(shape: torch.Size, rng: Rng) -> Bernoulli:
        return Bernoulli(natural0 * sign(initial_uniform(shape, rng)), geometry=DampedBernoulliFisher(stabiliser))

    return Method(
        law=law,
        train=lambda progress: Reading(Prefetched(FlooredRelaxedSign(temperature, stabiliser), slots), activations),
        solvers=lambda model, budget: [
            FusedLearningRule(
                binary_laws(model), slots=slots, lr=lr, scale=float(budget.n_train), momentum=momentum, decay=1.0
            ),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[mode(activations), mean(activations), ensemble(10, activations)],
    )
