"""What propagating moments through a residual network costs: its outputs against those of drawn networks.

The branches of a residual sum both come from one signal; propagation that assumes them independent
(network.assume_independent=true) is an approximation, and its error goes on record.
"""

from __future__ import annotations

from typing import Any

import torch

from core.interface import Gaussian, Reading
from core.ops import StraightThrough
from core.predict import as_float, reestimate
from core.readings import SignActivation, drawn_weights
from core.spatial import Residual
from core.statistics import Evaluation
from studies.runner.built import Built

EXAMPLES = 256
DRAWS = 128


@torch.no_grad()
def propagation_error(built: Built) -> dict[str, Any] | None:
    """Mean and variance of the logits by propagation and over drawn networks; None where nothing was assumed.

    Both use the batch-norm statistics of the propagated pass, on the first validation examples. mean: root mean square
    difference of the means, in deviations of the drawn networks' logits; noise: what it would be by chance alone, were
    there no error. variance: ratio of the average variances, propagated over drawn.
    """
    assumed = any(isinstance(m, Residual) and m.assume_independent for m in built.model.modules())
    rule = next((r for r in built.method.predictors if r.name == "propagate" and r.activation_bits == 32), None)
    if not assumed or rule is None:
        return None
    rng = built.rng("propagation error")
    (reading,) = rule.readings(built.model, rng)
    statistics = reestimate(built.model, reading, built.problem.train.inputs, rng)
    inputs = as_float(built.problem.validation.inputs[:EXAMPLES], built.model)

    def output(weights_and_signs: Reading) -> Any:
        return built.model(inputs, weights_and_signs.during(Evaluation(statistics)), rng)

    propagated = output(reading)
    if not isinstance(propagated, Gaussian):
        return None
    signs = SignActivation(StraightThrough())
    drawn = torch.stack([output(Reading(drawn_weights(built.model, rng), signs)) for _ in range(DRAWS)])
    centre, spread = drawn.mean(0), drawn.var(0)
    return {
        "mean": ((propagated.mean - centre).square().mean() / spread.mean()).sqrt().item(),
        "noise": DRAWS**-0.5,
        "variance": (propagated.variance.mean() / spread.mean()).item(),
        "draws": DRAWS,
        "examples": len(inputs),
    }
