"""Metrics of predictions and of laws, in float64. Scores are logits (N, C); labels (N,) integer classes.

ECE: Guo et al. 2017 (15 bins). NLL in nats per example; Brier is the sum over classes, in [0, 2].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from core.claims import laws
from core.interface import WeightLaw

Scores = Float[Tensor, "N C"]
Labels = Int[Tensor, " N"]
DECIDED = 0.99  # a weight with |mean| above this is called decided


def accuracy(scores: Scores, labels: Labels) -> float:
    """Share of examples whose largest score is the label's, in [0, 1]."""
    return (scores.argmax(1) == labels).double().mean().item()


def nll(scores: Scores, labels: Labels) -> float:
    """Mean negative log-likelihood of softmax(scores), nats per example."""
    return F.cross_entropy(scores.double(), labels.long()).item()


def brier(scores: Scores, labels: Labels) -> float:
    """Mean over examples of sum_c (p_c - 1[c = label])^2, in [0, 2]."""
    p = scores.double().softmax(1)
    target = F.one_hot(labels.long(), scores.shape[1]).double()
    return (p - target).square().sum(1).mean().item()


def ece_equal_width(scores: Scores, labels: Labels, *, bins: int = 15) -> float:
    """sum_b n_b / N |accuracy_b - confidence_b| over `bins` equal intervals (lo, hi] of the top probability."""
    confidence, correct = _confidence(scores, labels)
    index = (torch.ceil(confidence * bins).long() - 1).clamp(0, bins - 1)
    return _gap(confidence, correct, index, bins)


def ece_equal_mass(scores: Scores, labels: Labels, *, bins: int = 15) -> float:
    """The same over `bins` groups of (nearly) equally many examples, sorted by the top probability."""
    confidence, correct = _confidence(scores, labels)
    order = torch.argsort(confidence, stable=True)
    n = len(order)
    index = torch.empty_like(order)
    index[order] = torch.arange(n, device=order.device) * bins // n
    return _gap(confidence, correct, index, bins)


def fit_temperature(scores: Scores, labels: Labels) -> float:
    """The T > 0 that minimises NLL of softmax(scores / T), by bisection on its derivative in log T; T in [e^-7, e^7].

    NLL is convex in 1 / T. At separable data the lower end is returned. The same rule for every method.
    """
    wide = scores.double()
    chosen = wide.gather(1, labels.long()[:, None]).squeeze(1)
    low, high = -7.0, 7.0
    for _ in range(60):
        middle = (low + high) / 2
        inverse = torch.tensor(-middle, dtype=torch.float64).exp()
        expected = ((wide * inverse).softmax(1) * wide).sum(1)
        # d NLL / d(1/T) = E[expected score - label's score]: positive means 1/T is too large
        if (expected - chosen).mean() > 0:
            low = middle
        else:
            high = middle
    return float(torch.tensor((low + high) / 2, dtype=torch.float64).exp())


def scores_at(scores: Scores, temperature: float) -> Scores:
    """scores / temperature, in float64."""
    return scores.double() / temperature


def summary(scores: Scores, labels: Labels) -> dict[str, float]:
    """Every metric of one set of (already tempered) scores by name."""
    return {
        "accuracy": accuracy(scores, labels),
        "nll": nll(scores, labels),
        "brier": brier(scores, labels),
        "ece": ece_equal_width(scores, labels),
        "ece_mass": ece_equal_mass(scores, labels),
    }


@torch.no_grad()
def decided_share(model: nn.Module) -> float:
    """Share of binary weights with |E w| > 0.99; nan for a net without binary weights."""
    means = [law.mean().abs().flatten() for _, law in laws(model) if law.levels is not None]
    return (torch.cat(means) > DECIDED).double().mean().item() if means else float("nan")


@torch.no_grad()
def modes(model: nn.Module) -> dict[WeightLaw, Tensor]:
    """A copy of every binary law's mode, to count flips against later."""
    return {law: law.mode().clone() for _, law in laws(model) if law.levels is not None}


def flip_rate(before: Mapping[WeightLaw, Tensor], after: Mapping[WeightLaw, Tensor]) -> float:
    """Share of binary weights whose mode changed between two `modes`; nan where there are none."""
    flips = [(before[law] != after[law]).flatten() for law in before]
    return torch.cat(flips).double().mean().item() if flips else float("nan")


def _confidence(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    confidence, guess = scores.double().softmax(1).max(1)
    return confidence, (guess == labels).double()


def _gap(confidence: Tensor, correct: Tensor, index: Tensor, bins: int) -> float:
    zeros = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    difference = zeros.scatter_add(0, index, correct - confidence)
    return (difference.abs().sum() / len(confidence)).item()
