"""The operations that sum: linear maps and convolutions over bits, pixels and real values.

Sums of bits and of pixels are exact integers. Sums of float32 values may be formed in any order: what follows from them
is equal to rounding, not to the bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from core.deploy.checks import check_fan_in, check_weights, check_whole, one
from core.deploy.form import LARGEST_SIDE, FormError, Kind, Value

Padding = Literal["zero", "minus", "plus"]
PADDINGS: tuple[Padding, ...] = ("zero", "minus", "plus")
LARGEST_KERNEL = 1 << 12


@dataclass(frozen=True, eq=False)
class Linear:
    """Every output sums the whole value: (H, W, C) -> (1, 1, O). One class below for each kind of input and weight.

    weights: (O, H, W, words(C)) uint32, packed as bits are (1 is +1), pad bits 0; real ones (O, H, W, C) float32.
    """

    weights: np.ndarray
    takes: ClassVar[Kind]
    makes: ClassVar[Kind]
    packed: ClassVar[bool] = True

    def output(self, inputs: tuple[Value, ...]) -> Value:
        value = one(inputs, self.takes)
        check_weights(self.weights, value.shape, packed=self.packed)
        check_fan_in(math.prod(value.shape))
        return Value(self.makes, (1, 1, self.weights.shape[0]))


class BinLinear(Linear):
    """bits -> i32: s = sum of w x over -1 and +1, which is K - 2 popcount(w xor x)."""

    takes, makes = "bits", "i32"


class IntLinear(Linear):
    """u8 -> i32: s = sum of w x over raw values 0..255, exact."""

    takes, makes = "u8", "i32"


class F32BinLinear(Linear):
    """f32 -> f32: real inputs, binary weights."""

    takes, makes = "f32", "f32"


class F32Linear(Linear):
    """f32 -> f32: real inputs and weights, of a layer kept real."""

    takes, makes, packed = "f32", "f32", False


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution (cross-correlation) over (H, W, C) -> (H', W', O), one stride, dilation and padding for both sides.

    H' = (H + 2 padding - dilation (h - 1) - 1) // stride + 1. weights: (O, h, w, words(C / groups)) uint32, packed as
    bits are; real ones (O, h, w, C / groups) float32. Group g makes outputs g O / groups and on, of inputs g C / groups
    and on. A padded tap adds nothing to a sum; bits may be padded with -1 or +1 instead (`pad`).
    """

    weights: np.ndarray
    stride: int = 1
    dilation: int = 1
    padding: int = 0
    groups: int = 1
    takes: ClassVar[Kind]
    makes: ClassVar[Kind]
    packed: ClassVar[bool] = True

    def output(self, inputs: tuple[Value, ...]) -> Value:
        value = one(inputs, self.takes)
        for name, number, least in (
            ("stride", self.stride, 1),
            ("dilation", self.dilation, 1),
            ("groups", self.groups, 1),
        ):
            check_whole(name, number, least, LARGEST_SIDE)
        check_whole("padding", self.padding, 0, LARGEST_KERNEL)
        if self.weights.ndim != 4:
            raise FormError(f"weights of a convolution have 4 dimensions (got shape {self.weights.shape})")
        n_out, height, width = self.weights.shape[:3]
        if value.channels % self.groups or n_out % self.groups:
            raise FormError(f"groups={self.groups} must divide the {value.channels} inputs and {n_out} outputs")
        if max(height, width) > LARGEST_KERNEL:
            raise FormError(f"a kernel side is at most {LARGEST_KERNEL} (got {height} x {width})")
        fan_in = (height, width, value.channels // self.groups)
        check_weights(self.weights, fan_in, packed=self.packed)
        check_fan_in(math.prod(fan_in))
        sides = [self._side(n, k) for n, k in zip(value.shape[:2], (height, width), strict=True)]
        return Value(self.makes, (sides[0], sides[1], n_out))

    def _side(self, length: int, kernel: int) -> int:
        room = length + 2 * self.padding - self.dilation * (kernel - 1) - 1
        if room < 0:
            raise FormError(
                f"a kernel of {kernel} (dilation {self.dilation}) does not fit {length} + 2 x {self.padding}"
            )
        return room // self.stride + 1


@dataclass(frozen=True, eq=False)
class BinConv2d(Convolution):
    """bits -> i32. pad: what padded taps hold, zero (nothing), minus (-1) or plus (+1), on every channel."""

    pad: Padding = "zero"
    takes, makes = "bits", "i32"

    def output(self, inputs: tuple[Value, ...]) -> Value:
        if self.pad not in PADDINGS:
            raise FormError(f"pad must be one of {', '.join(PADDINGS)} (got {self.pad!r})")
        return super().output(inputs)


class IntConv2d(Convolution):
    """u8 -> i32, padded with raw value 0."""

    takes, makes = "u8", "i32"


class F32BinConv2d(Convolution):
    """f32 -> f32: real inputs, binary weights."""

    takes, makes = "f32", "f32"


class F32Conv2d(Convolution):
    """f32 -> f32: real inputs and weights, of a layer kept real."""

    takes, makes, packed = "f32", "f32", False
