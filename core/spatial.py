"""Layers over images (B, C, H, W): convolutions through a weight law, pooling, flatten, residual sums, channel scales.

Each takes tensors or, where moments are propagated, Gaussians; its docstring says what is exact then. Stochastic max
pooling: Peters & Welling 2018 (arXiv 1809.03368).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.contractions import Convolution
from core.interface import Gaussian, Reading, Rng, Signal, WeightLaw
from core.layers import Chain, FirstLayer, moment_reading
from core.signals import rearranged


class BinaryConv2d(nn.Module):
    """x (B, I, H, W) -> (B, O, H', W') through a law over (O, I / groups, h, w) weights, no bias, zero padding.

    signs: x is -1 or +1 everywhere. A padded tap adds nothing to a mean nor to a variance: of moments both are exact
    at borders too. Covariances between positions, which share weights, are dropped.
    """

    def __init__(
        self, law: WeightLaw, *, stride: int = 1, padding: int = 0, groups: int = 1, signs: bool = False
    ) -> None:
        super().__init__()
        _check_convolution(law, stride, padding, groups)
        self.law = law
        self.contract = Convolution(stride, padding, groups, signs)

    def forward(self, x: Signal, reading: Reading, rng: Rng) -> Signal:
        return reading.weights(self.law, self.contract, x, rng, reading.tape)


class InputConv2d(FirstLayer):
    """A first layer of (O, C, h, w) weights: raw images of `shape` (C, H, W) -> (B, O, H', W').

    Their values may come flat or, of one channel, as (B, H, W). Raises ValueError for another number of values.
    """

    def __init__(
        self,
        law: WeightLaw,
        *,
        shape: tuple[int, int, int],
        stride: int = 1,
        padding: int = 0,
        shift: float,
        scale: float,
        maximum: float,
        dropout: float,
    ) -> None:
        _check_convolution(law, stride, padding, groups=1)
        contract = Convolution(stride, padding)
        super().__init__(law, contract, shift=shift, scale=scale, maximum=maximum, dropout=dropout)
        if law.shape[1] != shape[0]:
            raise ValueError(f"first layer: weights {tuple(law.shape)} do not fit images of shape {shape}")
        self.shape = shape

    def arranged(self, x: Tensor) -> Tensor:
        if math.prod(x.shape[1:]) != math.prod(self.shape):
            raise ValueError(f"first layer: inputs {tuple(x.shape[1:])} are no images of shape {self.shape}")
        return x.reshape(-1, *self.shape)


class MaxPool(nn.Module):
    """The largest of each `size` x `size` window; rows and columns that fill no window are left out.

    Of Gaussians, before a sign stochastic max pooling: the mean and variance of one entry, chosen with the probability
    that it is the largest. `function` is the activation that follows, or that follows a batch norm: where it is real
    and the pass samples, the largest of one sample.
    """

    def __init__(self, size: int, function: str = "sign") -> None:
        super().__init__()
        self.function = function
        _require_at_least("pool size", size, 1)
        self.size = size

    def forward(self, x: Signal, reading: Reading, rng: Rng) -> Signal:
        if isinstance(x, Gaussian):
            pool = moment_reading(reading, "max pooling").pool
            return pool(x, (self.size, self.size), self.function, rng)
        return F.max_pool2d(x, self.size)


class AveragePool(nn.Module):
    """The mean of each window of `size` (height, width); a window that ends outside counts the entries inside.

    Of Gaussians: mean of the means, sum of the variances / count^2, exact for independent entries.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        for side in size:
            _require_at_least("pool size", side, 1)
        self.size = size

    def forward(self, x: Signal, reading: Reading, rng: Rng) -> Signal:
        if isinstance(x, Gaussian):
            count = self._sums(torch.ones_like(x.mean[:1, :1]))
            return Gaussian(self._sums(x.mean) / count, self._sums(x.variance) / count**2)
        return self._sums(x) / self._sums(torch.ones_like(x[:1, :1]))

    def _sums(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.size, ceil_mode=True, divisor_override=1)


class Flatten(nn.Module):
    """(B, C, H, W) -> (B, C * H * W)."""

    def forward(self, x: Signal, reading: Reading, rng: Rng) -> Signal:
        return rearranged(x, lambda values: values.flatten(1))


class Residual(nn.Module):
    """branch(x) + shortcut(x); an empty shortcut is x itself.

    A Gaussian x is forked by the pass's activation reading: a sample, after which means and variances of the sum are
    exact given that sample (the branches' weights are independent), or its moments, whose dependence is then ignored
    (assume_independent). Raises UnsupportedReading where moments would be added and nobody said so.
    """

    def __init__(self, branch: Chain, shortcut: Chain, *, assume_independent: bool = False) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.assume_independent = assume_independent

    def forward(self, x: Signal, reading: Reading, rng: Rng) -> Signal:
        if isinstance(x, Gaussian):
            fork = moment_reading(reading, "a residual block").fork
            x = fork(x, rng, assume_independent=self.assume_independent)
        return added(self.branch(x, reading, rng), self.shortcut(x, reading, rng))


class ChannelScale(nn.Module):
    """A trained real factor per channel (dimension 1), 1 at the start: the scale of binary weights. XNOR-Net's place of
    it, trained as in VISPA (whose code starts it from U(0, 1); a batch norm after it removes the difference).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Signal, reading: Reading, rng: Rng) -> Signal:
        scale = self.scale.reshape(1, -1, *[1] * (len(x.shape) - 2))
        return Gaussian(x.mean * scale, x.variance * scale * scale) if isinstance(x, Gaussian) else x * scale


def added(a: Signal, b: Signal) -> Signal:
    """a + b of independent signals; a tensor is a signal of variance 0."""
    if isinstance(a, Gaussian) and isinstance(b, Gaussian):
        return Gaussian(a.mean + b.mean, a.variance + b.variance)
    if isinstance(a, Gaussian):
        return added(b, a)
    return Gaussian(a + b.mean, b.variance) if isinstance(b, Gaussian) else a + b


def _check_convolution(law: WeightLaw, stride: int, padding: int, groups: int) -> None:
    if len(law.shape) != 4:
        raise ValueError(f"a convolution needs weights (O, I / groups, h, w), not {tuple(law.shape)}")
    _require_at_least("stride", stride, 1)
    _require_at_least("padding", padding, 0)
    _require_at_least("groups", groups, 1)
    if law.shape[0] % groups:
        raise ValueError(f"groups must divide the {law.shape[0]} output channels (got {groups})")


def _require_at_least(name: str, value: int, bound: int) -> None:
    if value < bound:
        raise ValueError(f"{name} must be >= {bound} (got {value})")
