"""The operations of a packed network: their parameters, what they take and make, and what they mean to the bit.

Those that sum are in `core.deploy.sums`. Affine is one rounded product and one rounded sum in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from core.deploy.checks import check_array, check_bits, check_finite, check_whole, one, told
from core.deploy.form import LARGEST_SIDE, FormError, Operation, Value
from core.deploy.sums import (
    LARGEST_KERNEL,
    BinConv2d,
    BinLinear,
    F32BinConv2d,
    F32BinLinear,
    F32Conv2d,
    F32Linear,
    IntConv2d,
    IntLinear,
)


@dataclass(frozen=True, eq=False)
class Binarize:
    """f32 or u8 -> bits: +1 where x >= at[c] (C,) float32, compared as float32. nan is -1; -0.0 >= 0.0 holds."""

    at: np.ndarray

    def output(self, inputs: tuple[Value, ...]) -> Value:
        value = one(inputs, "f32", "u8")
        check_array("at", self.at, np.float32, (value.channels,))
        check_finite("at", self.at)
        return Value("bits", value.shape)


@dataclass(frozen=True, eq=False)
class Threshold:
    """i32 -> bits: (s >= at[c]) != flip[c]. at: (C,) int32; flip: (words(C),) uint32, packed, pad bits 0.

    What is left of batch norm and sign after integer sums. A negative gain flips: (s <= t) is not (s >= t + 1).
    """

    at: np.ndarray
    flip: np.ndarray

    def output(self, inputs: tuple[Value, ...]) -> Value:
        value = one(inputs, "i32")
        check_array("at", self.at, np.int32, (value.channels,))
        check_bits("flip", self.flip, value.channels)
        return Value("bits", value.shape)


@dataclass(frozen=True, eq=False)
class Affine:
    """i32 or f32 -> f32: x * scale[c] + bias[c], two roundings, never fused; int32 is first rounded to float32.

    scale, bias: (C,) float32. A bias of -0.0 adds nothing, to the bit.
    """

    scale: np.ndarray
    bias: np.ndarray

    def output(self, inputs: tuple[Value, ...]) -> Value:
        value = one(inputs, "i32", "f32")
        for name, array in (("scale", self.scale), ("bias", self.bias)):
            check_array(name, array, np.float32, (value.channels,))
            check_finite(name, array)
        return Value("f32", value.shape)


@dataclass(frozen=True)
class ToF32:
    """bits, u8 or i32 -> f32: the same numbers (-1 and +1 for bits); int32 rounded to the nearest."""

    def output(self, inputs: tuple[Value, ...]) -> Value:
        return Value("f32", one(inputs, "bits", "u8", "i32").shape)


@dataclass(frozen=True)
class Relu:
    """f32 -> f32: 0 where x <= 0, else x; nan stays nan."""

    def output(self, inputs: tuple[Value, ...]) -> Value:
        return one(inputs, "f32")


@dataclass(frozen=True)
class HardTanh:
    """f32 -> f32: x clipped to [-1, 1]; nan stays nan."""

    def output(self, inputs: tuple[Value, ...]) -> Value:
        return one(inputs, "f32")


@dataclass(frozen=True)
class Window:
    """Square windows of `size` at steps of `stride`, over sides padded with `padding` entries that no window counts."""

    size: int
    stride: int
    padding: int = 0

    def pooled(self, value: Value) -> tuple[int, int, int]:
        """The shape after pooling; rows and columns that fill no window are left out."""
        check_whole("size", self.size, 1, LARGEST_KERNEL)
        check_whole("stride", self.stride, 1, LARGEST_SIDE)
        check_whole("padding", self.padding, 0, self.size // 2)
        height, width, channels = value.shape
        if min(height, width) + 2 * self.padding < self.size:
            raise FormError(f"a window of {self.size} does not fit {height} x {width} + 2 x {self.padding}")
        height, width = ((n + 2 * self.padding - self.size) // self.stride + 1 for n in (height, width))
        return height, width, channels


@dataclass(frozen=True)
class MaxPool(Window):
    """f32 or i32: the largest of each window."""

    def output(self, inputs: tuple[Value, ...]) -> Value:
        value = one(inputs, "f32", "i32")
        return Value(value.kind, self.pooled(value))


@dataclass(frozen=True, eq=False)
class MaxPoolBits(Window):
    """bits: +1 where any of the window is (or), and on the channels of `smallest` where all are (and).

    smallest: (words(C),) uint32, packed, pad bits 0: channels whose sign falls as the pooled sum rises, where pooling
    came before a batch norm of negative gain.
    """

    smallest: np.ndarray = field(kw_only=True)

    def output(self, inputs: tuple[Value, ...]) -> Value:
        value = one(inputs, "bits")
        check_bits("smallest", self.smallest, value.channels)
        return Value("bits", self.pooled(value))


@dataclass(frozen=True)
class AveragePool:
    """f32: the mean of each window of (height, width), side by side; a window that ends outside counts what is inside.

    The sum of a window, row by row from the first, divided by the count, in float32.
    """

    height: int
    width: int

    def output(self, inputs: tuple[Value, ...]) -> Value:
        value = one(inputs, "f32")
        check_whole("height", self.height, 1, LARGEST_SIDE)
        check_whole("width", self.width, 1, LARGEST_SIDE)
        rows, columns, channels = value.shape
        return Value("f32", (-(-rows // self.height), -(-columns // self.width), channels))


@dataclass(frozen=True)
class Add:
    """i32 + i32 or f32 + f32 of one shape, entry by entry: a residual sum, or bases of a multi-base weight.

    Sums beyond an int32 wrap around, as no export makes them.
    """

    def output(self, inputs: tuple[Value, ...]) -> Value:
        if len(inputs) != 2 or inputs[0] != inputs[1] or inputs[0].kind not in ("i32", "f32"):
            raise FormError(f"needs two i32 or two f32 values of one shape (got {told(inputs)})")
        return inputs[0]


@dataclass(frozen=True)
class Flatten:
    """(H, W, C) -> (1, 1, H W C), channels fastest."""

    def output(self, inputs: tuple[Value, ...]) -> Value:
        value = one(inputs, "bits", "i32", "u8", "f32")
        return Value(value.kind, (1, 1, math.prod(value.shape)))


@dataclass(frozen=True)
class Concat:
    """Channels side by side, of values of one kind, height and width. Of bits, all but the last fill whole words."""

    def output(self, inputs: tuple[Value, ...]) -> Value:
        if len(inputs) < 2 or len({(v.kind, v.shape[:2]) for v in inputs}) != 1:
            raise FormError(f"needs values of one kind, height and width (got {told(inputs)})")
        if inputs[0].kind == "bits" and any(v.channels % 32 for v in inputs[:-1]):
            raise FormError(f"bits are joined at whole words of 32 channels (got {told(inputs)})")
        height, width, _ = inputs[0].shape
        return Value(inputs[0].kind, (height, width, sum(v.channels for v in inputs)))


@dataclass(frozen=True)
class ArgMax:
    """(1, 1, C) of f32 or i32 -> i32 (1, 1, 1): the first channel of the largest value."""

    def output(self, inputs: tuple[Value, ...]) -> Value:
        value = one(inputs, "f32", "i32")
        if value.shape[:2] != (1, 1):
            raise FormError(f"needs one number a channel (got shape {value.shape})")
        return Value("i32", (1, 1, 1))


OPERATIONS: dict[str, type[Operation]] = {
    kind.__name__: kind
    for kind in (
        *(BinLinear, IntLinear, F32BinLinear, F32Linear, BinConv2d, IntConv2d, F32BinConv2d, F32Conv2d),
        *(Binarize, Threshold, Affine, ToF32, Relu, HardTanh, MaxPool, MaxPoolBits, AveragePool),
        *(Add, Flatten, Concat, ArgMax),
    )
}
