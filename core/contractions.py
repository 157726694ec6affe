"""The linear maps of layers as the two sums a reading may need: sum w x and sum w x^2. See `Contract`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Size, Tensor

from core.interface import Contract, UnsupportedReading


@runtime_checkable
class Rows(Protocol):
    """A contraction that is one matrix product."""

    def rows(self, x: Tensor, shape: Size) -> Tensor:
        """(B * positions, I'), examples outermost: times weights of `shape` (O, ...) flattened to (O, I'), the outputs.

        A first layer's raw inputs come out normalised.
        """
        ...


class Map(Contract, Rows, Protocol):
    """A linear map that may pad its input: `pad` and the same map without padding."""

    def pad(self, x: Tensor, value: float) -> Tensor: ...

    def bare(self) -> Map: ...


@dataclass(frozen=True)
class Dense:
    """(B, I), (O, I) -> (B, O). signs: every input is -1 or +1, so that sums of squares need no product."""

    signs: bool = False

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        return F.linear(x, weights)

    def squares(self, x: Tensor, weights: Tensor) -> Tensor:
        return weights.sum(1)[None] if self.signs else F.linear(x * x, weights)

    def pad(self, x: Tensor, value: float) -> Tensor:
        return x

    def bare(self) -> Dense:
        return self

    def rows(self, x: Tensor, shape: Size) -> Tensor:
        return x


@dataclass(frozen=True)
class Convolution:
    """(B, C, H, W), (O, C / groups, h, w) -> (B, O, H', W'), padded with zeros.

    A padded tap is a third value beside the signs: it adds nothing to a sum, nor to a sum of squares. signs: every
    input but the padding is -1 or +1; a sum of squares then is that of one image of ones.
    """

    stride: int = 1
    padding: int = 0
    groups: int = 1
    signs: bool = False

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        return F.conv2d(x, weights, stride=self.stride, padding=self.padding, groups=self.groups)

    def squares(self, x: Tensor, weights: Tensor) -> Tensor:
        return self(torch.ones_like(x[:1]) if self.signs else x * x, weights)

    def pad(self, x: Tensor, value: float) -> Tensor:
        return F.pad(x, [self.padding] * 4, value=value)

    def bare(self) -> Convolution:
        return replace(self, padding=0)

    def rows(self, x: Tensor, shape: Size) -> Tensor:
        if self.groups > 1:
            raise UnsupportedReading(f"a convolution in {self.groups} groups is no one product of patches and weights")
        patches = F.unfold(x, shape[2:], padding=self.padding, stride=self.stride)  # (B, I', positions)
        return patches.transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True)
class Pixels:
    """A first layer's map of raw values, normalised as (x - shift) * inverse_scale after the sum.

    Integer values are summed exactly in float32; then one multiply and one add per output. Padding is raw value 0.
    """

    inner: Map
    shift: Tensor
    inverse_scale: Tensor

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        return self.of_sums(self.inner(x, weights), weights)

    def of_sums(self, sums: Tensor, weights: Tensor) -> Tensor:
        """The layer's outputs, given the sums (B, O, ...) of its raw inputs."""
        offset = self.offset(weights).reshape(1, -1, *[1] * (sums.ndim - 2))
        return torch.add(torch.mul(sums, self.inverse_scale), offset)

    def offset(self, weights: Tensor) -> Tensor:
        """(O,), what the shift adds to every output: -shift * inverse_scale * sum(w)."""
        return -self.shift * self.inverse_scale * weights.flatten(1).sum(1)

    def squares(self, x: Tensor, weights: Tensor) -> Tensor:
        return self.inner.bare().squares(self.normalised(x), weights)

    def rows(self, x: Tensor, shape: Size) -> Tensor:
        return self.inner.bare().rows(self.normalised(x), shape)

    def normalised(self, x: Tensor) -> Tensor:
        """The padded input as training contracts it."""
        # padded while raw: the border's value then needs no read of `shift`, which would stall a GPU
        return (self.inner.pad(x, 0.0) - self.shift) * self.inverse_scale


@dataclass(frozen=True)
class Watched:
    """A contract that shows the weights it is given to `look` before it uses them (audits, counts)."""

    inner: Contract
    look: Callable[[Tensor], None]

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        self.look(weights)
        return self.inner(x, weights)

    def squares(self, x: Tensor, weights: Tensor) -> Tensor:
        self.look(weights)
        return self.inner.squares(x, weights)
