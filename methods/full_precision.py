"""Full-precision control: the same network with real weights, by Adam. Kingma & Ba 2015."""

from core.architectures import real_law
from core.claims import real_parameters
from core.interface import Method, Reading
from core.ops import ClippedStraightThrough, Identity
from core.predict import mode
from core.readings import Draw, SignActivation
from methods import register
from solvers.geometric import real_solvers


@register("full-precision")
def full_precision(*, lr: float = 7e-3, slope_window: float = 1.0) -> Method:
    """lr: Adam's rate. slope_window: where the slope of a binary activation is 1."""
    activations = SignActivation(ClippedStraightThrough(slope_window))
    return Method(
        law=real_law,
        train=lambda progress: Reading(Draw(Identity()), activations),
        solvers=lambda model, budget: real_solvers(real_parameters(model), lr=lr),
        predictors=[mode(activations, weight_bits=32)],
        weight_bits=32,
    )
