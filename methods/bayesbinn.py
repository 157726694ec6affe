"""Mean-field Bernoulli by the Bayesian learning rule, true relaxation. Meng, Bachmann & Khan 2020 (BayesBiNN)."""

import torch

from core.claims import binary_laws, real_parameters
from core.geometry import BernoulliFisher
from core.interface import Method, Reading, Rng
from core.laws import Bernoulli, initial_uniform
from core.ops import ClippedStraightThrough, RelaxedSign, sign
from core.predict import ensemble, mean, mode
from core.prefetch import Prefetched, Slots
from core.readings import SignActivation
from methods import register
from solvers.fused_rule import FusedLearningRule
from solvers.geometric import real_solvers

LARGEST_BOUND = 30.0  # beyond it a draw's slope and 1 / Fisher leave float32, each alone, though not their product


@register("bayesbinn")
def bayesbinn(
    *,
    lr: float = 5e-2,
    temperature: float = 0.1,
    natural0: float = 5.0,
    bound: float = 6.0,
    momentum: float = 0.9,
    draws: int = 1,
    slope_window: float = 1.0,
) -> Method:
    """lr: alpha of lambda <- (1 - alpha) lambda - alpha (N grad_mu loss - lambda0); prior: fair coins (lambda0 = 0).

    temperature: of tanh((lambda + delta) / temperature). natural0: |lambda| at the start, with random signs. bound:
    |lambda| stays within it; at most 30. momentum: of the averaged natural gradient. draws: weight draws averaged per
    step. slope_window: of a binary activation's slope.
    """
    if not 0 < bound <= LARGEST_BOUND:
        raise ValueError(f"bound must be in (0, {LARGEST_BOUND:g}] (got {bound})")
    activations, slots = SignActivation(ClippedStraightThrough(slope_window)), Slots()

    def law(shape: torch.Size, rng: Rng) -> Bernoulli:
        return Bernoulli(natural0 * sign(initial_uniform(shape, rng)), geometry=BernoulliFisher(bound))

    return Method(
        law=law,
        train=lambda progress: Reading(Prefetched(RelaxedSign(temperature), slots), activations),
        solvers=lambda model, budget: [
            FusedLearningRule(
                binary_laws(model), slots=slots, lr=lr, scale=float(budget.n_train), momentum=momentum, decay=1.0
            ),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[mode(activations), mean(activations), ensemble(10, activations)],
        draws=draws,
    )
