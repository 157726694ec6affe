"""Gaussian variational inference, independent weights, m^2 + s^2 = 1: the diagonal family of VISPA (NeurIPS 2024)."""

from typing import Literal

import torch

from core.claims import binary_coordinates, real_parameters
from core.gaussian_laws import UnitGaussian
from core.interface import Method, Reading, Rng
from core.laws import initial_uniform
from core.ops import ClippedStraightThrough, Identity, StraightThrough
from core.predict import ensemble, mean, mode, ternary
from core.readings import Draw, SignActivation
from methods import register
from solvers.geometric import GeometricSGD, real_solvers


@register("gaussian-vi")
def gaussian_vi(
    *,
    lr: float = 1000.0,
    estimator: Literal["rounded", "smooth"] = "rounded",
    init: float = 0.5,
    momentum: float = 0.98,
    slope_window: float = 1.0,
) -> Method:
    """lr: of projected gradient descent on the means, in the box [-1, 1]. init: half-width of their uniform start.

    estimator: what the training pass sees of z = m + s eps. rounded: sign(z), its gradient passed on to m as it is,
    straight through; smooth: z itself, the exact gradient of the relaxed expectation, s moving with m.
    momentum: of the bias-corrected average of gradients. slope_window: of a binary activation's slope.
    """
    if estimator not in ("rounded", "smooth"):
        raise ValueError(f"estimator must be rounded or smooth (got {estimator!r})")
    if not 0 < init <= 1:
        raise ValueError(f"init must be in (0, 1]: the largest initial |mean| (got {init})")
    activations = SignActivation(ClippedStraightThrough(slope_window))
    rounded = estimator == "rounded"
    reading = Reading(Draw(StraightThrough() if rounded else Identity()), activations)

    def law(shape: torch.Size, rng: Rng) -> UnitGaussian:
        return UnitGaussian(init * initial_uniform(shape, rng), spread="held" if rounded else "moving")

    return Method(
        law=law,
        train=lambda progress: reading,
        solvers=lambda model, budget: [
            GeometricSGD(binary_coordinates(model), lr=lr, momentum=momentum),
            *real_solvers(real_parameters(model)),
        ],
        predictors=[mode(activations), mean(activations), ensemble(10, activations), ternary(activations)],
    )
