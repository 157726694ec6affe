"""Prediction rules: mode, mean, ensemble(k), ternary, propagate. Each network has its own re-estimated statistics.

Re-estimation runs training inputs through the network with dropout off and the network's own weights, layer by layer
in one pass (each batch normalised by its own statistics, the batches' moments merged exactly). Without it, a net
trained on relaxed or sampled weights and deployed with signs can lose tens of points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.interface import ActivationReading, Predictor, Reading, Rng, Signal, plain_logits
from core.moments import Moments
from core.readings import MeanWeights, drawn_weights, mode_weights, ternary_weights
from core.statistics import Estimation, Evaluation, Statistics

ESTIMATION_EXAMPLES = 10_000
ESTIMATION_BATCH = 1_000
EVALUATION_BATCH = 2_000


def mode(activations: ActivationReading, *, weight_bits: int = 1) -> Predictor:
    """One network: every law's mode."""
    return Predictor("mode", 1, weight_bits, lambda model, rng: [Reading(mode_weights(model), activations)])


def mean(activations: ActivationReading) -> Predictor:
    """One network with real weights E[w]: not a binary net, so its rows carry 32 bits."""
    return Predictor("mean", 1, 32, lambda model, rng: [Reading(MeanWeights(), activations)])


def ensemble(
    k: int, activations: ActivationReading, *, combine: Literal["logits", "probabilities"] = "logits"
) -> Predictor:
    """The average of k networks drawn from the law: their logits, or their class probabilities."""
    if k < 1:
        raise ValueError(f"ensemble(k) needs k >= 1 (got {k})")
    suffix = "" if combine == "logits" else ", probabilities"

    def readings(model: nn.Module, rng: Rng) -> Iterator[Reading]:
        return (Reading(drawn_weights(model, rng), activations) for _ in range(k))

    return Predictor(f"ensemble({k}{suffix})", k, 1, readings, combine)


def ternary(activations: ActivationReading, *, threshold: float = 0.5) -> Predictor:
    """One network with weights sign(E[w]) where |E[w]| >= threshold, else 0; Peters & Welling 2018 take 1/2.

    At 1/2 a weight is kept where one of its signs has probability >= 3/4. Two bits a weight.
    """

    def readings(model: nn.Module, rng: Rng) -> list[Reading]:
        return [Reading(ternary_weights(model, threshold), activations)]

    return Predictor("ternary", 1, 2, readings, levels=(-1.0, 0.0, 1.0))


def propagate(activations: ActivationReading, scores: Callable[[Signal], Tensor], *, bits: int | None) -> Predictor:
    """The training-time pass itself: moments through every layer. Real weights E[w], so its rows carry 32 bits.

    bits: of its activations; None where it samples the network's own, 32 where it propagates their moments. Its
    batch norm is stochastic, with statistics re-estimated in the same pass.
    """
    readings = [Reading(Moments(), activations)]
    return Predictor("propagate", 1, 32, lambda model, rng: readings, activation_bits=bits, scores=scores)


@dataclass(frozen=True)
class Prediction:
    """What one rule says: scores per input set, and the statistics of each network it averaged."""

    scores: tuple[Float[Tensor, "N C"], ...]  # logits, or log of averaged probabilities
    statistics: tuple[Statistics, ...]


@torch.no_grad()
def predict(model: nn.Module, rule: Predictor, train_inputs: Tensor, sets: tuple[Tensor, ...], rng: Rng) -> Prediction:
    """Scores of `rule` on each of `sets` (N, *shape), statistics from `train_inputs` only.

    Both are raw inputs of the problem, any dtype. Raises ValueError when the rule yields another number of networks
    than it declares.
    """
    # probabilities are summed as logarithms: a class that every network excludes keeps a finite score
    add = torch.logaddexp if rule.combine == "probabilities" else torch.add
    totals: list[Tensor] = []
    statistics: list[Statistics] = []
    for reading in rule.readings(model, rng):
        statistics.append(reestimate(model, reading, train_inputs, rng))
        scores = [logits(model, reading, statistics[-1], inputs, rng, scores=rule.scores) for inputs in sets]
        if rule.combine == "probabilities":
            scores = [s.log_softmax(1) for s in scores]
        totals = scores if not totals else [add(t, s) for t, s in zip(totals, scores, strict=True)]
    if len(statistics) != rule.networks:
        raise ValueError(f"rule {rule.name!r} declares {rule.networks} networks but averaged {len(statistics)}")
    if rule.combine == "probabilities":
        averages = [t - math.log(rule.networks) for t in totals]
    else:
        averages = [t / rule.networks for t in totals]
    return Prediction(tuple(averages), tuple(statistics))


@torch.no_grad()
def reestimate(
    model: nn.Module, reading: Reading, inputs: Tensor, rng: Rng, *, examples: int = ESTIMATION_EXAMPLES
) -> Statistics:
    """Batch-norm statistics of the network that `reading` reads, from the first `examples` of `inputs`."""
    statistics = Statistics()
    chosen = inputs[:examples]
    # equal batches: a short last one would be normalised by the noisy statistics of a few examples
    for batch in chosen.tensor_split(max(1, -(-len(chosen) // ESTIMATION_BATCH))):
        model(as_float(batch, model), reading.during(Estimation(statistics)), rng)
    return statistics


@torch.no_grad()
def logits(
    model: nn.Module,
    reading: Reading,
    statistics: Statistics,
    inputs: Tensor,
    rng: Rng,
    *,
    scores: Callable[[Signal], Tensor] = plain_logits,
) -> Float[Tensor, "N C"]:
    """The network's logits under stored statistics, in batches; `scores` reads them from its output.

    The batches do not change the result: bit for bit where every sum is of whole numbers (signs on signs, signs on
    pixels), to rounding where activations or inputs are real (a matrix product may order its sums by its size).
    """
    evaluation = reading.during(Evaluation(statistics))
    batches = torch.split(inputs, EVALUATION_BATCH)
    return torch.cat([scores(model(as_float(batch, model), evaluation, rng)) for batch in batches])


def as_float(inputs: Tensor, model: nn.Module) -> Tensor:
    """A batch of raw inputs in the model's dtype; its first layer gives it the shape it needs."""
    dtype = next((t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), torch.float32)
    return inputs.to(dtype)
