"""Bernoulli weights, Gaussian pre-activations, sampled binary activations: BLRNet / PBNet-S. Peters & Welling 2018.

No weight is drawn in training: the mean and variance of every pre-activation are exact given independent weights,
batch norm and max pooling are stochastic, and only activations are sampled. In a network with real activations the
pre-activations are sampled instead, as LR-net does (Shayer, Levi & Fetaya 2018).
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from core.claims import binary_coordinates, laws, real_parameters
from core.fit import Run, fit
from core.geometry import Box
from core.interface import Context, Method, Preparation, Prepared, Reading, Rng, Signal
from core.laws import Bernoulli, initial_uniform
from core.moments import Moments, StochasticSign, bce_of_signs, ce_of_means, log_positive, means
from core.ops import ClippedStraightThrough
from core.predict import ensemble, mean, mode, propagate, ternary
from core.readings import SignActivation
from core.transfer import transfer as transfer_from
from methods import make, register
from solvers.geometric import GeometricAdam, real_solvers

OUTPUTS: dict[str, tuple[Callable[[Signal, Tensor], Tensor], Callable[[Signal], Tensor]]] = {
    "bce": (bce_of_signs, log_positive),
    "ce": (ce_of_means, means),
}


@register("blrnet")
def blrnet(
    *,
    lr: float = 1e-2,
    output: Literal["bce", "ce"] = "bce",
    temperature: float = 1.0,
    transfer: float = 0.3,
    init: float = 0.9,
    bound: float = 5.0,
    certainty: float = 0.0,
    slope_window: float = 1.0,
) -> Method:
    """lr: Adam's rate on the natural parameter lambda, mean tanh(lambda), |lambda| <= bound. output: bce (class
    probability P(logit > 0), the better one in the paper) or ce (softmax of the means).

    temperature: of the sampled signs' slope. transfer: share of the budget that trains the full-precision network
    whose weights set the initial means; 0 starts at init * U(-1, 1). certainty: weight of LR-net's regulariser, the
    sum of p (1 - p) over weights (0: none, as the paper). slope_window: of a sign that follows a real layer.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output must be bce or ce (got {output!r})")
    if not 0 <= transfer < 1:
        raise ValueError(f"transfer must be in [0, 1): a share of the budget (got {transfer})")
    if not 0 < init < 1:
        raise ValueError(f"init must be in (0, 1): the largest initial |mean| (got {init})")
    loss, scores = OUTPUTS[output]
    signs = SignActivation(ClippedStraightThrough(slope_window))
    sampled = StochasticSign(temperature, slope_window)

    def law(shape: torch.Size, rng: Rng) -> Bernoulli:
        return Bernoulli(torch.atanh(init * initial_uniform(shape, rng)), geometry=Box(bound))

    def objective(loss: Tensor, context: Context) -> Tensor:
        uncertain = [law.variance().sum() / 4 for _, law in laws(context.model) if law.levels is not None]
        return loss + certainty * torch.stack(uncertain).sum()

    method = Method(
        law=law,
        train=lambda progress: Reading(Moments(), sampled),
        solvers=lambda model, budget: [
            GeometricAdam(binary_coordinates(model), lr=lr),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[
            mode(signs),
            mean(signs),
            ensemble(10, signs),
            ternary(signs),
            propagate(sampled, scores, bits=None),
        ],
        normalisation="stochastic",
        loss=loss,
        prepare=(lambda given: transferred(given, transfer)) if transfer else None,
    )
    return dataclasses.replace(method, objective=objective) if certainty else method


def transferred(given: Preparation, share: float) -> Prepared:
    """Train a full-precision twin for `share` of the budget and start the binary means from its weights.

    Its sign activations become hardtanh, the real function they limit. Its steps are taken from the cell's budget.
    """
    steps = int(share * given.budget.steps)
    control = make("full-precision")
    changed = {"activation": "hardtanh"} if given.model.activation == "sign" else {}
    twin = given.twin(control.law, **changed)
    train = given.problem.train
    run = Run(
        twin,
        control,
        train.inputs,
        train.labels,
        dataclasses.replace(given.budget, steps=steps),
        schedule=given.schedule,
        order=given.order,
        noise=given.rng,
        masks=given.masks,
    )
    ended = fit(run)
    if ended.diverged is not None:
        raise RuntimeError(f"the full-precision network to transfer from has diverged: {ended.diverged}")
    transfer_from(twin, given.model)
    return Prepared(steps=ended.steps)
