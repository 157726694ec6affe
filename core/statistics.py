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
from torch.autograd.function import once_differentiable

from core.interface import Gaussian, Rng, Signal


@dataclass
class Moments2:
    """Running count, mean and summed squared deviation of one layer's channels, in float64; merged exactly.

    spread: summed variance of entries that are Gaussians themselves, whose means the other two then describe.
    """

    count: int
    mean: Tensor  # (C,)
    squares: Tensor  # (C,)
    spread: Tensor  # (C,), 0 where entries are plain numbers

    def merged(self, other: Moments2) -> Moments2:
        """The moments of both samples together (Chan, Golub & LeVeque 1979)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        squares = self.squares + other.squares + shift * shift * (self.count * other.count / count)
        return Moments2(count, mean, squares, self.spread + other.spread)

    def variance(self) -> Tensor:
        """Expectation of the unbiased sample variance: spread / count + squares / (count - 1)."""
        return self.spread / self.count + self.squares / max(1, self.count - 1)


def moments2(h: Signal) -> Moments2:
    """Of one batch of pre-activations, channels in dimension 1."""
    values = h.mean if isinstance(h, Gaussian) else h
    axes, count = _axes(values), values.numel() // values.shape[1]
    wide = values.detach().double()
    spread = h.variance.detach().double().sum(axes) if isinstance(h, Gaussian) else torch.zeros_like(wide.mean(axes))
    return Moments2(count, wide.mean(axes), wide.var(axes, correction=0) * count, spread)


@dataclass
class Statistics:
    """Mean and variance of every batch-norm layer of one network, by layer name."""

    layers: dict[str, Moments2] = field(default_factory=dict)

    def record(self, name: str, h: Signal) -> None:
        """Merge a batch of pre-activations `h` (channels in dimension 1) into layer `name`."""
        new = moments2(h)
        self.layers[name] = self.layers[name].merged(new) if name in self.layers else new

    def mean(self, name: str) -> Tensor:
        return self._of(name).mean

    def variance(self, name: str) -> Tensor:
        """Unbiased, as torch's running variance."""
        return self._of(name).variance()

    def affine(self, name: str, norm: Any) -> tuple[Tensor, Tensor]:
        """(scale, bias) with norm(h) = h * scale + bias: formed in float64, rounded once to the layer's dtype."""
        scale = torch.rsqrt(self.variance(name) + norm.eps)
        bias = -self.mean(name) * scale
        if norm.weight is not None:
            gain = norm.weight.detach().double()
            scale, bias = scale * gain, bias * gain + norm.bias.detach().double()
        return scale.to(norm.dtype), bias.to(norm.dtype)

    def state(self) -> dict[str, Tensor]:
        """Flat tensors for a state file: NAME.count, NAME.mean, NAME.squares, NAME.spread."""
        return {key: value for name, m in self.layers.items() for key, value in _named(name, m)}

    @staticmethod
    def from_state(state: Mapping[str, Tensor]) -> Statistics:
        """The inverse of `state`."""
        names = [key.removesuffix(".count") for key in state if key.endswith(".count")]
        parts = ("mean", "squares", "spread")
        return Statistics({n: Moments2(int(state[f"{n}.count"]), *(state[f"{n}.{p}"] for p in parts)) for n in names})

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

    def normalise(self, name: str, h: Signal, norm: Any) -> Signal:
        running_mean, running_var = norm.averages
        if isinstance(h, Gaussian):
            normalised, mean, variance = stochastic_batch_norm(h, norm)
            with torch.no_grad():
                running_mean.lerp_(mean, norm.momentum)
                running_var.lerp_(variance, norm.momentum)
            return normalised
        return F.batch_norm(h, running_mean, running_var, norm.weight, norm.bias, True, norm.momentum, norm.eps)


@dataclass(frozen=True)
class Estimation:
    """Batch statistics recorded into `statistics`, dropout off, the layer untouched."""

    statistics: Statistics
    masks: Rng | None = None
    training: bool = False

    def normalise(self, name: str, h: Signal, norm: Any) -> Signal:
        self.statistics.record(name, h)
        if isinstance(h, Gaussian):
            return stochastic_batch_norm(h, norm)[0]
        return F.batch_norm(h, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


@dataclass(frozen=True)
class Evaluation:
    """Stored statistics, dropout off: h * scale + bias per channel, two roundings, no fused multiply-add."""

    statistics: Statistics
    masks: Rng | None = None
    training: bool = False

    def normalise(self, name: str, h: Signal, norm: Any) -> Signal:
        # formed anew for each batch (C numbers): a kept pair would go stale when the layer's gain moves
        scale, bias = (_per_channel(v, h) for v in self.statistics.affine(name, norm))
        if isinstance(h, Gaussian):
            return Gaussian(h.mean * scale + bias, h.variance * scale * scale)
        return torch.add(torch.mul(h, scale), bias)


def stochastic_batch_norm(h: Gaussian, norm: Any) -> tuple[Gaussian, Tensor, Tensor]:
    """Batch norm of Gaussian pre-activations, with the mean m and variance v (C,) that it used.

    m = mean(mu), v = E[unbiased sample variance] = sum(sigma^2) / M + sum (mu - m)^2 / (M - 1) over the M entries of a
    channel; mu' = gain (mu - m) / sqrt(v + eps) + bias, sigma'^2 = gain^2 sigma^2 / (v + eps). Peters & Welling 2018
    print sum(sigma^2) / (M - 1), which is the same to O(1 / M).
    """
    gain, bias = norm.weight, norm.bias
    mean, spread, *used = _StochasticBatchNorm.apply(h.mean, h.variance, gain, bias, norm.eps)  # type: ignore[no-untyped-call]
    return Gaussian(mean, spread), *used


class _StochasticBatchNorm(torch.autograd.Function):
    """(mu, sigma^2, gain, bias) -> (mu', sigma'^2, m, v) with a closed-form backward; m and v carry no gradient.

    With o = mu - m, s = gain / sqrt(v + eps), a and b the gradients by mu' and sigma'^2, and sums over a channel:
    ds = sum(a o) + 2 s sum(b sigma^2), dv = -s ds / (2 (v + eps)), d sigma^2 = s^2 b + dv / M,
    d mu = s (a - mean a) + 2 dv o / (M - 1), d gain = ds / sqrt(v + eps), d bias = sum a.
    """

    @staticmethod
    def forward(
        ctx: Any, mu: Tensor, square: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, ...]:
        axes, count = _axes(mu), mu.numel() // mu.shape[1]
        centre = mu.mean(axes)
        offset = mu - _per_channel(centre, mu)
        variance = square.mean(axes) + (offset * offset).sum(axes) / max(1, count - 1)
        root = torch.rsqrt(variance + eps)
        scale = root if gain is None else root * gain
        mean = offset * _per_channel(scale, mu)
        if bias is not None:
            mean += _per_channel(bias, mu)
        ctx.save_for_backward(offset, square, scale, root)
        ctx.mark_non_differentiable(centre, variance)
        return mean, square * _per_channel(scale * scale, mu), centre, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        offset, square, scale, root = ctx.saved_tensors
        by_mean, by_spread = gradients[:2]
        axes, count = _axes(offset), offset.numel() // offset.shape[1]
        total = by_mean.sum(axes)
        by_scale = (by_mean * offset).sum(axes) + 2 * scale * (by_spread * square).sum(axes)
        by_variance = -0.5 * scale * root * root * by_scale
        to_square = torch.addcmul(
            _per_channel(by_variance / count, offset), by_spread, _per_channel(scale * scale, offset)
        )
        to_mean = (by_mean - _per_channel(total / count, offset)).mul_(_per_channel(scale, offset))
        to_mean.addcmul_(offset, _per_channel(by_variance * (2 / max(1, count - 1)), offset))
        to_gain = by_scale * root if ctx.needs_input_grad[2] else None
        return to_mean, to_square, to_gain, total if ctx.needs_input_grad[3] else None, None


def _per_channel(values: Tensor, h: Signal) -> Tensor:
    return values.reshape(1, -1, *[1] * (len(h.shape) - 2))


def _axes(h: Tensor) -> tuple[int, ...]:
    return tuple(d for d in range(h.ndim) if d != 1)


def _named(name: str, m: Moments2) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.count", torch.tensor(m.count)
    yield f"{name}.mean", m.mean
    yield f"{name}.squares", m.squares
    yield f"{name}.spread", m.spread
