"""The sums of a packed network in NumPy: popcounts of words, exact sums of pixels, float32 products.

Every sum is made tap by tap, over the outputs whose tap lies inside, so no value is ever padded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from core.deploy.form import Value
from core.deploy.packing import pack_bits, unpack, unpack_bits
from core.deploy.sums import BinConv2d, Convolution, Linear

AT_ONCE = 1 << 18  # numbers formed at once: sums of bits, whose temporaries stay in the cache, and unpacked weights
OF_PADDING = {"zero": 0, "minus": -1, "plus": 1}

Product = Callable[[np.ndarray, np.ndarray, int], np.ndarray]  # (N, ..., last), (O, ..., last), channels -> (N, O)


def sum_of_bits(x: np.ndarray, weights: np.ndarray, channels: int) -> np.ndarray:
    """sum of w x over -1 and +1, int32, of packed x (N, ..., words) and weights (O, ..., words).

    With K numbers a sum that is K - 2 popcount(w xor x): pad bits are 0 in both and never differ.
    """
    numbers = channels * math.prod(x.shape[1:-1])
    x, columns = _flat(x), np.ascontiguousarray(_flat(weights).T)
    sums = np.empty((len(x), len(weights)), np.int32)
    rows = max(1, AT_ONCE // len(weights))
    for first in range(0, len(x), rows):
        part = x[first : first + rows]
        differing = np.zeros((len(part), len(weights)), np.int32)
        for word, column in enumerate(columns):
            differing += np.bitwise_count(part[:, word, np.newaxis] ^ column)
        sums[first : first + rows] = numbers - 2 * differing
    return sums


def sum_of_pixels(x: np.ndarray, weights: np.ndarray, channels: int) -> np.ndarray:
    """sum of w x, exact, int32, of uint8 x (N, ..., C) and packed weights (O, ..., words).

    Formed in float64, which holds every whole number below 2^53: 255 times the largest fan-in is below 2^30.
    """
    sums = _product(x.astype(np.float64), weights, lambda part: unpack(part, channels).astype(np.float64))
    return sums.astype(np.int32)


def sum_of_signed_reals(x: np.ndarray, weights: np.ndarray, channels: int) -> np.ndarray:
    """sum of w x, float32, of float32 x (N, ..., C) and packed weights (O, ..., words)."""
    return _product(x, weights, lambda part: unpack(part, channels).astype(np.float32))


def sum_of_reals(x: np.ndarray, weights: np.ndarray, channels: int) -> np.ndarray:
    """sum of w x, float32, of float32 x (N, ..., C) and weights (O, ..., C)."""
    return _product(x, weights, lambda part: part)


def _product(x: np.ndarray, weights: np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """x W', some outputs at a time: weights grow 32-fold and more when they are read."""
    x = _flat(x)
    sums = np.empty((len(x), len(weights)), x.dtype)
    outputs = max(1, AT_ONCE // x.shape[1])
    for first in range(0, len(weights), outputs):
        sums[:, first : first + outputs] = x @ _flat(read(weights[first : first + outputs])).T
    return sums


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), math.prod(array.shape[1:]))


@dataclass(frozen=True)
class Tap:
    """Along one side: outputs whose tap `index` lies inside, and where it lies, as slices of the outputs and inputs."""

    index: int
    outputs: slice
    inputs: slice


def taps(n_taps: int, *, length: int, outputs: int, stride: int, dilation: int = 1, padding: int = 0) -> Iterator[Tap]:
    """The taps of windows along a side of `length`; output o has its first tap at o * stride - padding."""
    for index in range(n_taps):
        offset = index * dilation - padding
        first = max(0, -(offset // stride))  # the least o with o * stride + offset >= 0
        last = min(outputs - 1, (length - 1 - offset) // stride)
        if first <= last:
            start = first * stride + offset
            yield Tap(index, slice(first, last + 1), slice(start, last * stride + offset + 1, stride))


def linear(operation: Linear, product: Product, x: np.ndarray, value: Value) -> np.ndarray:
    """Sums over the whole value: (B, H, W, last) -> (B, 1, 1, O)."""
    return product(x, operation.weights, value.channels)[:, np.newaxis, np.newaxis, :]


def convolution(operation: Convolution, product: Product, x: np.ndarray, value: Value, made: Value) -> np.ndarray:
    """Sums over the taps of each position: (B, H, W, last) -> (B, H', W', O), group by group."""
    parts = [
        _one_group(operation, product, part, weights, value.channels // operation.groups, made)
        for part, weights in zip(
            _grouped(x, value, operation.groups), np.split(operation.weights, operation.groups), strict=True
        )
    ]
    return np.concatenate(parts, axis=-1)


def _one_group(
    operation: Convolution, product: Product, x: np.ndarray, weights: np.ndarray, channels: int, made: Value
) -> np.ndarray:
    batch, height, width, _ = x.shape
    n_out, tall, wide, _ = weights.shape
    of_tap = _sums_of_padding(operation, weights, channels)
    dtype = np.int32 if made.kind == "i32" else np.float32
    total: np.ndarray = np.zeros((batch, *made.shape[:2], n_out), dtype) + of_tap.sum(axis=(1, 2), dtype=dtype)
    steps = {"stride": operation.stride, "dilation": operation.dilation, "padding": operation.padding}
    for row in taps(tall, length=height, outputs=made.shape[0], **steps):
        for column in taps(wide, length=width, outputs=made.shape[1], **steps):
            inside = x[:, row.inputs, column.inputs]
            sums = product(inside.reshape(-1, x.shape[-1]), weights[:, row.index, column.index], channels)
            sums -= of_tap[:, row.index, column.index]
            total[:, row.outputs, column.outputs] += sums.reshape(*inside.shape[:3], n_out)
    return total


def _sums_of_padding(operation: Convolution, weights: np.ndarray, channels: int) -> np.ndarray:
    """What each tap (O, h, w) adds where it lies outside: the sum of its weights times what padding holds."""
    held = OF_PADDING[operation.pad] if isinstance(operation, BinConv2d) else 0
    if not held:
        return np.zeros(weights.shape[:3], np.int32)
    signs: np.ndarray = 2 * np.bitwise_count(weights).sum(axis=-1, dtype=np.int32) - np.int32(channels)
    return signs * np.int32(held)


def _grouped(x: np.ndarray, value: Value, groups: int) -> list[np.ndarray]:
    """The channels of each group; packed ones are packed anew, from the group's first channel on."""
    if groups == 1:
        return [x]
    if value.kind != "bits":
        return np.split(x, groups, axis=-1)
    return [pack_bits(part) for part in np.split(unpack_bits(x, value.channels), groups, axis=-1)]
