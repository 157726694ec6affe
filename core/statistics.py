"""Batch-norm statistics as values, and the three phases of a pass that use them.

Statistics belong to a reading, not to the model: each prediction rule, each drawn network has its own, re-estimated
on training data. Training normalises with the batch; Estimation does too, without dropout, and records; Evaluation
applies a stored scale and bias, one multiply and one add in the tensor's dtype, which deployment repeats bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.interface import Rng


@dataclass
class Moments2:
    """Running count, mean and summed squared deviation of one layer's channels, in float64; merged exactly."""

    count: int
    mean: Tensor  # (C,)
    squares: Tensor  # (C,)

    def merged(self, other: Moments2) -> Moments2:
        """The moments of both samples together (Chan, Golub & LeVeque 1979)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        squares = self.squares + other.squares + shift * shift * (self.count * other.count / count)
        return Moments2(count, mean, squares)


@dataclass
class Statistics:
    """Mean and variance of every batch-norm layer of one network, by layer name."""

    layers: dict[str, Moments2] = field(default_factory=dict)

    def record(self, name: str, h: Tensor) -> None:
        """Merge a batch of pre-activations `h` (channels in dimension 1) into layer `name`."""
        axes = _axes(h)
        wide = h.detach().double()
        mean = wide.mean(axes)
        squares = wide.var(axes, correction=0) * (h.numel() // h.shape[1])
        new = Moments2(h.numel() // h.shape[1], mean, squares)
        self.layers[name] = self.layers[name].merged(new) if name in self.layers else new

    def mean(self, name: str) -> Tensor:
        return self._of(name).mean

    def variance(self, name: str) -> Tensor:
        """Unbiased, as torch's running variance."""
        moments = self._of(name)
        return moments.squares / max(1, moments.count - 1)

    def affine(self, name: str, norm: Any) -> tuple[Tensor, Tensor]:
        """(scale, bias) with norm(h) = h * scale + bias: formed in float64, rounded once to the layer's dtype."""
        scale = torch.rsqrt(self.variance(name) + norm.eps)
        bias = -self.mean(name) * scale
        if norm.weight is not None:
            gain = norm.weight.detach().double()
            scale, bias = scale * gain, bias * gain + norm.bias.detach().double()
        return scale.to(norm.dtype), bias.to(norm.dtype)

    def state(self) -> dict[str, Tensor]:
        """Flat tensors for a state file: NAME.count, NAME.mean, NAME.squares."""
        return {key: value for name, m in self.layers.items() for key, value in _named(name, m)}

    @staticmethod
    def from_state(state: Mapping[str, Tensor]) -> Statistics:
        """The inverse of `state`."""
        names = [key.removesuffix(".count") for key in state if key.endswith(".count")]
        return Statistics(
            {n: Moments2(int(state[f"{n}.count"]), state[f"{n}.mean"], state[f"{n}.squares"]) for n in names}
        )

    def _of(self, name: str) -> Moments2:
        if name not in self.layers:
            raise KeyError(
                f"no statistics for batch norm {name!r}; known: {sorted(self.layers)}; re-estimate them first"
            )
        return self.layers[name]


@dataclass(frozen=True)
class Training:
    """Batch statistics, running averages updated in the layer, dropout on, its masks drawn from `masks`."""

    masks: Rng | None = None
    training: bool = True

    def normalise(self, name: str, h: Tensor, norm: Any) -> Tensor:
        return F.batch_norm(
            h, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, norm.momentum, norm.eps
        )


@dataclass(frozen=True)
class Estimation:
    """Batch statistics recorded into `statistics`, dropout off, the layer untouched."""

    statistics: Statistics
    masks: Rng | None = None
    training: bool = False

    def normalise(self, name: str, h: Tensor, norm: Any) -> Tensor:
        self.statistics.record(name, h)
        return F.batch_norm(h, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


@dataclass(frozen=True)
class Evaluation:
    """Stored statistics, dropout off: h * scale + bias per channel, two roundings, no fused multiply-add."""

    statistics: Statistics
    masks: Rng | None = None
    training: bool = False

    def normalise(self, name: str, h: Tensor, norm: Any) -> Tensor:
        # formed anew for each batch (C numbers): a kept pair would go stale when the layer's gain moves
        scale, bias = (v.reshape(1, -1, *[1] * (h.ndim - 2)) for v in self.statistics.affine(name, norm))
        return torch.add(torch.mul(h, scale), bias)


def _axes(h: Tensor) -> tuple[int, ...]:
    return tuple(d for d in range(h.ndim) if d != 1)


def _named(name: str, m: Moments2) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.count", torch.tensor(m.count)
    yield f"{name}.mean", m.mean
    yield f"{name}.squares", m.squares
