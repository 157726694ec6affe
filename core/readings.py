"""Readings: how one pass reads weights (Draw, MeanWeights, Fixed) and binary activations (SignActivation).

A reading is an argument of the pass. A draw is a leaf: backward ends at the drawn weights, and `Tape.pull_back`
turns their gradient into parameter gradients by the law's own pull-back and the surrogate's slope.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.claims import laws
from core.interface import Contract, Drawn, Gaussian, Rng, Signal, Surrogate, Tape, UnsupportedReading, WeightLaw
from core.ops import ExactSign, Identity, sign, surrogate_value


@dataclass(frozen=True)
class Draw:
    """One draw per layer and pass through a surrogate: value(latent) forward, slope(latent) backward.

    With a relaxed sign the weights of the pass are real; with an exact sign they are the law's own draw. A real law
    (levels None: a first or last layer kept real) is read as it is, whatever the surrogate.
    """

    surrogate: Surrogate

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Tensor:
        x = plain(x, "Draw")
        surrogate = Identity() if law.levels is None else self.surrogate
        with torch.no_grad():
            noise = law.noise(rng)
            latent = law.latent(noise)
            weights = surrogate(latent)
        if tape is not None:
            weights = weights.detach().requires_grad_()
            tape.drawn.append(Drawn(law, noise, latent.detach(), weights, surrogate))
        return contract(x, weights)


@dataclass(frozen=True)
class MeanWeights:
    """E[w] in place of w: a network with real weights, for prediction only."""

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Tensor:
        if tape is not None:
            raise UnsupportedReading("MeanWeights predicts and has no pull-back; train with Draw(surrogate)")
        return contract(plain(x, "MeanWeights"), law.mean().detach())


@dataclass(frozen=True)
class Fixed:
    """The same weights in every pass: one network, drawn once (an ensemble's member, or the mode)."""

    weights: Mapping[WeightLaw, Tensor]

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Tensor:
        if tape is not None:
            raise UnsupportedReading("Fixed weights predict and have no pull-back; train with Draw(surrogate)")
        if law not in self.weights:
            raise UnsupportedReading(
                f"fixed weights of another network: no weights for this {type(law).__name__} of shape "
                f"{tuple(law.shape)}; fix them anew with mode_weights(model) or drawn_weights(model, rng)"
            )
        return contract(plain(x, "Fixed"), self.weights[law])


def mode_weights(model: nn.Module) -> Fixed:
    """Every law's mode. Raises NoMode where a law has none."""
    return Fixed({law: law.mode().detach().clone() for _, law in laws(model)})


@torch.no_grad()
def drawn_weights(model: nn.Module, rng: Rng) -> Fixed:
    """One exact draw of every law (not of its relaxation)."""
    return Fixed({law: law.values(law.latent(law.noise(rng))).clone() for _, law in laws(model)})


@torch.no_grad()
def ternary_weights(model: nn.Module, threshold: float) -> Fixed:
    """sign(E[w]) where |E[w]| >= threshold, else 0, for every binary law; real laws as they are."""

    def kept(law: WeightLaw) -> Tensor:
        mean = law.mean()
        return mean.clone() if law.levels is None else sign(mean) * (mean.abs() >= threshold)

    return Fixed({law: kept(law) for _, law in laws(model)})


@dataclass(frozen=True)
class SignActivation:
    """Binary activations by an exact sign with a chosen slope. Deterministic; draws nothing."""

    surrogate: Surrogate

    def __call__(self, h: Signal, rng: Rng) -> Tensor:
        return surrogate_value(plain(h, "SignActivation"), ExactSign(self.surrogate))


def plain(x: Signal, reading: str) -> Tensor:
    """`x` itself. Raises UnsupportedReading where it is a Gaussian, which `reading` cannot take."""
    if isinstance(x, Gaussian):
        raise UnsupportedReading(
            f"{reading} reads tensors, and here comes a Gaussian: the pass propagates moments. Read weights with "
            "Moments() and activations with StochasticSign() or PropagatedSign(), all through the network"
        )
    return x
