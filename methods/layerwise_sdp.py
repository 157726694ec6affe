"""A full-precision network binarised layer by layer, every neuron by a certified semidefinite relaxation, rounded."""

from typing import Literal

from core.claims import real_parameters
from core.interface import Method, Preparation, Prepared, Reading
from core.laws import Settled, initial_uniform
from core.ops import ClippedStraightThrough, StraightThrough
from core.predict import as_float, mode
from core.readings import Draw, SignActivation
from core.transfer import trained_twin
from methods import make, register
from solvers.geometric import real_solvers
from solvers.layerwise import binarise
from solvers.sign_regression import Fitter, RelaxedAndRounded, descended, kept


@register("layerwise-sdp")
def layerwise_sdp(
    *,
    share: float = 0.8,
    signs: Literal["sdp", "descent", "own"] = "sdp",
    gap: float = 5e-2,
    turns: int = 2,
    hyperplanes: int = 20,
    largest: int = 1024,
    examples: int = 10_000,
    rows: int = 20_000,
    slope_window: float = 1.0,
) -> Method:
    """share: of the budget's steps, that train the full-precision network; the rest is charged for the binarisation.

    signs: of a neuron, fitted to the real network's pre-activations on inputs that are binary below: by the relaxation
    (sdp: proven to `gap`, rounded by `hyperplanes`, `turns` of signs and scale; by descent where a neuron has more than
    `largest` weights), by single flips (descent), or the real weights' own. examples: of the training set, which pass
    through at once; rows: of a layer's problem, at most. slope_window: where the slope of a binary activation is 1.
    """
    relaxed = RelaxedAndRounded(gap, turns, hyperplanes, largest)
    fits: dict[str, Fitter] = {"sdp": relaxed, "descent": descended, "own": kept}
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1]: of the budget's steps (got {share})")
    if signs not in fits:
        raise ValueError(f"signs must be sdp, descent or own (got {signs!r})")
    if min(examples, rows) < 2:
        raise ValueError(f"examples and rows must be >= 2: a regression (got {examples} and {rows})")
    activations = SignActivation(ClippedStraightThrough(slope_window))

    def prepare(given: Preparation) -> Prepared:
        twin = trained_twin(given, make("full-precision", slope_window=slope_window), int(share * given.budget.steps))
        inputs = as_float(given.problem.train.inputs[:examples], given.model)
        layers = binarise(given.model, twin, inputs, fits[signs], activations, given.rng, rows=rows)
        return Prepared(steps=given.budget.steps, facts={"layers": layers})

    return Method(
        law=lambda shape, rng: Settled(initial_uniform(shape, rng)),
        train=lambda progress: Reading(Draw(StraightThrough()), activations),
        solvers=lambda model, budget: real_solvers(real_parameters(model)),
        predictors=[mode(activations)],
        prepare=prepare,
    )
