"""Packed networks in NumPy: what every operation means, run as it is written. The other backends are held to it.

Clarity before speed. Bits stay packed: sums of bits are popcounts. Nothing is fused, so `trace` shows every value.
Denormals are numbers, but in a process that flushes them: NumPy follows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from core.deploy import reference_sums as sums
from core.deploy.form import Graph, Input, Operation, Value
from core.deploy.operations import (
    Add,
    Affine,
    ArgMax,
    AveragePool,
    Binarize,
    Concat,
    Flatten,
    HardTanh,
    MaxPool,
    MaxPoolBits,
    Relu,
    Threshold,
    ToF32,
    Window,
)
from core.deploy.packing import pack_bits, unpack, unpack_bits
from core.deploy.sums import (
    BinConv2d,
    BinLinear,
    F32BinConv2d,
    F32BinLinear,
    F32Conv2d,
    F32Linear,
    IntConv2d,
    IntLinear,
)

Rule = Callable[..., np.ndarray]  # operation, arrays, their values, the value made -> its array
Slices = tuple[slice, slice, slice]
AT_ONCE = 1 << 22  # numbers of the largest value of a part of a batch: 32 MB where they are float64


class Executor:
    """Runs one graph on arrays (B, *raw_shape) of uint8 or float32, a part of the batch at a time."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        largest = max(math.prod(value.shape) for value in graph.values.values())
        self._at_once = max(1, AT_ONCE // largest)

    def run(self, x: np.ndarray) -> np.ndarray:
        """The output value of each example, (B, *array_shape)."""
        return np.concatenate([self._made(part, keep=False)[self.graph.output] for part in self._parts(x)])

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The value of every node by its name, (B, *array_shape) each."""
        parts = [self._made(part, keep=True) for part in self._parts(x)]
        return {node.name: np.concatenate([made[node.name] for made in parts]) for node in self.graph.nodes}

    def _parts(self, x: np.ndarray) -> Iterator[np.ndarray]:
        return (x[first : first + self._at_once] for first in range(0, max(1, len(x)), self._at_once))

    def _made(self, x: np.ndarray, *, keep: bool) -> dict[str, np.ndarray]:
        """Every value, or without `keep` those still needed at the end: the output."""
        made = {"input": arranged(x, self.graph.input)}
        last = {name: node.name for node in self.graph.nodes for name in node.inputs}
        for node, values, value in self.graph.steps():
            with np.errstate(over="ignore", invalid="ignore"):  # infinities are values here, as on every backend
                made[node.name] = compute(node.operation, [made[name] for name in node.inputs], values, value)
            for name in node.inputs:
                if not keep and last[name] == node.name and name != self.graph.output:
                    made.pop(name, None)
        return made


def arranged(x: np.ndarray, given: Input) -> np.ndarray:
    """Raw inputs (B, *raw_shape) as nodes see them: images with channels last, or vectors (B, 1, 1, F)."""
    if given.image and len(given.raw_shape) == 3:
        x = x.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x).reshape(len(x), *given.value.shape)


def compute(operation: Operation, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    """What one operation makes of its inputs, (B, *array_shape) each."""
    return _RULES[type(operation)](operation, arrays, values, made)


def _linear(product: sums.Product) -> Rule:
    return lambda operation, arrays, values, made: sums.linear(operation, product, arrays[0], values[0])


def _convolution(product: sums.Product) -> Rule:
    return lambda operation, arrays, values, made: sums.convolution(operation, product, arrays[0], values[0], made)


def _binarize(operation: Binarize, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    return pack_bits(arrays[0].astype(np.float32) >= operation.at)


def _threshold(operation: Threshold, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    bits: np.ndarray = pack_bits(arrays[0] >= operation.at) ^ operation.flip
    return bits


def _affine(operation: Affine, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    product = arrays[0].astype(np.float32) * operation.scale  # rounded here, and again below: two calls never fuse
    shifted: np.ndarray = product + operation.bias
    return shifted


def _to_f32(operation: ToF32, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    numbers = unpack(arrays[0], made.channels) if values[0].kind == "bits" else arrays[0]
    return numbers.astype(np.float32)


def _relu(operation: Relu, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    return np.where(arrays[0] <= 0, np.float32(0), arrays[0])


def _hard_tanh(operation: HardTanh, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    clipped: np.ndarray = np.clip(arrays[0], np.float32(-1), np.float32(1))
    return clipped


def _max_pool(operation: MaxPool, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    least = -np.inf if made.kind == "f32" else np.iinfo(np.int32).min
    pooled = np.full((len(arrays[0]), *made.array_shape), least, arrays[0].dtype)
    for outputs, inputs in _windows(operation, values[0], made):
        np.maximum(pooled[outputs], arrays[0][inputs], out=pooled[outputs])
    return pooled


def _max_pool_bits(
    operation: MaxPoolBits, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value
) -> np.ndarray:
    any_of = np.zeros((len(arrays[0]), *made.array_shape), np.uint32)
    all_of = ~any_of
    for outputs, inputs in _windows(operation, values[0], made):
        any_of[outputs] |= arrays[0][inputs]
        all_of[outputs] &= arrays[0][inputs]
    pooled: np.ndarray = (any_of & ~operation.smallest) | (all_of & operation.smallest)
    return pooled


def _average_pool(
    operation: AveragePool, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value
) -> np.ndarray:
    total = np.zeros((len(arrays[0]), *made.shape), np.float32)
    count = np.zeros((1, *made.shape), np.float32)
    rows, columns, _ = values[0].shape
    for row in sums.taps(min(operation.height, rows), length=rows, outputs=made.shape[0], stride=operation.height):
        for column in sums.taps(
            min(operation.width, columns), length=columns, outputs=made.shape[1], stride=operation.width
        ):
            total[:, row.outputs, column.outputs] += arrays[0][:, row.inputs, column.inputs]
            count[:, row.outputs, column.outputs] += 1
    return total / count


def _windows(window: Window, value: Value, made: Value) -> Iterator[tuple[Slices, Slices]]:
    """For each place in a window: where that place lies inside, as slices of the outputs and of the inputs."""
    steps = {"stride": window.stride, "padding": window.padding}
    for row in sums.taps(window.size, length=value.shape[0], outputs=made.shape[0], **steps):
        for column in sums.taps(window.size, length=value.shape[1], outputs=made.shape[1], **steps):
            yield (slice(None), row.outputs, column.outputs), (slice(None), row.inputs, column.inputs)


def _add(operation: Add, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    total: np.ndarray = arrays[0] + arrays[1]
    return total


def _flatten(operation: Flatten, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    batch = len(arrays[0])
    if made.kind == "bits":
        return pack_bits(unpack_bits(arrays[0], values[0].channels).reshape(batch, *made.shape))
    return arrays[0].reshape(batch, *made.shape)


def _concat(operation: Concat, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    return np.concatenate(arrays, axis=-1)


def _arg_max(operation: ArgMax, arrays: list[np.ndarray], values: tuple[Value, ...], made: Value) -> np.ndarray:
    places: np.ndarray = arrays[0].argmax(axis=-1, keepdims=True).astype(np.int32)
    return places


_RULES: dict[type, Rule] = {
    BinLinear: _linear(sums.sum_of_bits),
    IntLinear: _linear(sums.sum_of_pixels),
    F32BinLinear: _linear(sums.sum_of_signed_reals),
    F32Linear: _linear(sums.sum_of_reals),
    BinConv2d: _convolution(sums.sum_of_bits),
    IntConv2d: _convolution(sums.sum_of_pixels),
    F32BinConv2d: _convolution(sums.sum_of_signed_reals),
    F32Conv2d: _convolution(sums.sum_of_reals),
    Binarize: _binarize,
    Threshold: _threshold,
    Affine: _affine,
    ToF32: _to_f32,
    Relu: _relu,
    HardTanh: _hard_tanh,
    MaxPool: _max_pool,
    MaxPoolBits: _max_pool_bits,
    AveragePool: _average_pool,
    Add: _add,
    Flatten: _flatten,
    Concat: _concat,
    ArgMax: _arg_max,
}
