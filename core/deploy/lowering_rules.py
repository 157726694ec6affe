"""Which step of the native engine each operation of a packed network becomes, with what arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from core.deploy import lowering_layout as layout
from core.deploy.form import FormError, Node, Value, words
from core.deploy.lowering_state import Lowering
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
)
from core.deploy.sums import (
    BinConv2d,
    BinLinear,
    Convolution,
    F32BinConv2d,
    F32BinLinear,
    F32Conv2d,
    F32Linear,
    IntConv2d,
    IntLinear,
    Linear,
)

SUMS, BITS, AFFINE = 0, 1, 2  # what becomes of a sum
FEW_CHANNELS = 4  # of raw images that are read plane by plane; more are first put side by side


def add_node(lowering: Lowering, node: Node) -> None:
    """Adds the step that makes a node's value, and what it needs before. Raises FormError, which names the node."""
    try:
        _RULES[type(node.operation)](lowering, node)
    except FormError as error:
        raise FormError(f"node {node.name!r} ({type(node.operation).__name__}): {error}") from None


def _kernel(operation: Linear | Convolution, value: Value) -> list[int]:
    if isinstance(operation, Linear):
        return [value.shape[0], value.shape[1], 1, 1, 0, 1, len(operation.weights)]
    n_out, height, width, _ = operation.weights.shape
    return [height, width, operation.stride, operation.dilation, operation.padding, operation.groups, n_out]


def _groups(operation: Linear | Convolution) -> int:
    return operation.groups if isinstance(operation, Convolution) else 1


def _bit_sums(self: Lowering, node: Node) -> None:
    operation: Any = node.operation
    name, value = self.taken(node)
    groups, follow = _groups(operation), self.follows(node, _groups(operation))
    kernel, channels = _kernel(operation, value), value.channels // groups
    weights = operation.weights.reshape(kernel[6], kernel[0], kernel[1], words(channels))
    self.constants.take(8 * kernel[0] * kernel[1])  # where its taps lie
    if isinstance(operation, Linear):
        whole = (np.zeros(1, np.int64), np.full(1, kernel[0])), (np.zeros(1, np.int64), np.full(1, kernel[1]))
        bases = layout.Bases(weights, channels, groups, "minus", *whole)
        source = self.placed[name]
    else:
        made = self.graph.values[node.name]
        sides = (layout.inside(operation, value.shape[i], kernel[i], made.shape[i]) for i in (0, 1))
        bases = layout.Bases(weights, channels, groups, operation.pad if operation.padding else "minus", *sides)
        source = (
            self.bordered(name, operation.padding)
            if channels % 32 == 0 or groups == 1
            else _regrouped(self, name, operation)
        )
    after, table, flip, scale, bias = SUMS, None, None, None, None
    if follow is not None and isinstance(follow.operation, Threshold):
        after, table = BITS, bases.most(follow.operation.at, groups)
        (flip,) = self.constants.laid(follow.operation.flip, layout.flips, kernel[6])
    else:
        table = bases.table(groups)
        if follow is not None:
            after, scale, bias = AFFINE, *_affine_of(self, follow, groups)
    target = self.target(_made(self, node, follow))
    classes = bases.row_class.astype(np.uint16).ravel(), bases.column_class.astype(np.uint16).ravel()
    (bits,) = self.constants.laid(operation.weights, layout.bit_weights, groups)
    self.add(node.name, "sums", "bit_sums", source, target, bits, kernel, *classes, after, table, flip, scale, bias)


def _regrouped(self: Lowering, name: str, operation: BinConv2d) -> int:
    """The bits of each group from a word's first bit on."""
    height, width, channels = self.graph.values[name].shape
    wide = operation.groups * words(channels // operation.groups) * 32
    target = self.new_buffer(Value("bits", (height, width, wide)), border=operation.padding)
    self.add(name, "other", "regroup", self.placed[name], target, operation.groups)
    return target


def _affine_of(self: Lowering, node: Node, groups: int) -> tuple[np.ndarray, ...]:
    operation: Any = node.operation
    laid = self.constants.laid
    return *laid(operation.scale, layout.padded, groups), *laid(operation.bias, layout.padded, groups)


def _made(self: Lowering, node: Node, follow: Node | None) -> str:
    """The name of the value that a sum and what is fused to it make."""
    if follow is None:
        return node.name
    self.skipped.add(follow.name)
    return follow.name


def _row_sums(step: str, lay: Callable[[np.ndarray, int], np.ndarray], kind: str) -> Callable[[Lowering, Node], None]:
    """Sums over pixels or real values."""

    def rule(self: Lowering, node: Node) -> None:
        operation: Any = node.operation
        name, value = self.taken(node)
        groups, kernel = _groups(operation), _kernel(operation, value)
        self.constants.take(8 * kernel[0] * FEW_CHANNELS)  # where rows of taps begin
        planar = name == "input" and self.planar and value.channels <= FEW_CHANNELS
        source = self.placed[name] if planar else self.source(name)
        follow = self.follows(node, groups)
        after, table, flip, scale, bias = SUMS, None, None, None, None
        if follow is not None and isinstance(follow.operation, Threshold):
            after, (table,) = BITS, self.constants.laid(follow.operation.at, layout.padded, groups)
            (flip,) = self.constants.laid(follow.operation.flip, layout.flips, kernel[6])
        elif follow is not None:
            after, scale, bias = AFFINE, *_affine_of(self, follow, groups)
        packed = self.graph.values[node.inputs[0]].channels // groups if operation.packed else 0
        taps = (*kernel[:2], value.channels // groups)
        (laid,) = self.constants.laid(operation.weights, layout.row_weights, lay, groups, packed, taps, planar)
        target = self.target(_made(self, node, follow))
        self.add(node.name, kind, step, source, target, laid, kernel, after, table, flip, scale, bias)

    return rule


def _binarize(self: Lowering, node: Node) -> None:
    operation: Any = node.operation
    pixels = self.graph.values[node.inputs[0]].kind == "u8"
    lay = layout.pixel_thresholds if pixels else np.ascontiguousarray
    constants = self.constants.laid(operation.at, lay)
    source = self.source(node.inputs[0])
    self.add(node.name, "pack", "binarize_u8" if pixels else "binarize_f32", source, self.target(node.name), *constants)


def _threshold(self: Lowering, node: Node) -> None:
    operation: Any = node.operation
    source, constants = self.source(node.inputs[0]), map(np.ascontiguousarray, (operation.at, operation.flip))
    self.add(node.name, "pack", "threshold", source, self.target(node.name), *constants)


def _affine(self: Lowering, node: Node) -> None:
    operation: Any = node.operation
    source, constants = self.source(node.inputs[0]), map(np.ascontiguousarray, (operation.scale, operation.bias))
    self.add(node.name, "other", "affine", source, self.target(node.name), *constants)


def _plain(step: str) -> Callable[[Lowering, Node], None]:
    """A step without constants."""

    def rule(self: Lowering, node: Node) -> None:
        sources = [self.source(name) for name in node.inputs]
        self.add(node.name, "other", step, *sources, self.target(node.name))

    return rule


def _concat(self: Lowering, node: Node) -> None:
    sources = [self.source(name) for name in node.inputs]
    self.add(node.name, "other", "concat", sources, self.target(node.name))


def _pool(self: Lowering, node: Node) -> None:
    window: Any = node.operation
    smallest = np.ascontiguousarray(window.smallest) if isinstance(window, MaxPoolBits) else None
    source = self.source(node.inputs[0])
    self.add(
        node.name, "pool", "pool", source, self.target(node.name), window.size, window.stride, window.padding, smallest
    )


def _mean_pool(self: Lowering, node: Node) -> None:
    window: Any = node.operation
    height, width, _ = self.graph.values[node.inputs[0]].shape
    sides = min(window.height, height), min(window.width, width)
    self.add(node.name, "pool", "mean_pool", self.source(node.inputs[0]), self.target(node.name), *sides)


def _flatten(self: Lowering, node: Node) -> None:
    value = self.graph.values[node.inputs[0]]
    readable = value.kind != "bits" or value.channels % 32 == 0 or value.shape[:2] == (1, 1)
    if (
        node.name not in self.outputs
        and readable
        and all(isinstance(user.operation, Linear) for user in self.users[node.name])
    ):
        self.skipped.add(node.name)
        return
    self.add(node.name, "other", "copy", self.source(node.inputs[0]), self.target(node.name))


_RULES: dict[type, Callable[[Lowering, Node], None]] = {
    BinLinear: _bit_sums,
    BinConv2d: _bit_sums,
    IntLinear: _row_sums("pixel_sums", layout.pixel_weights, "first layer"),
    IntConv2d: _row_sums("pixel_sums", layout.pixel_weights, "first layer"),
    F32BinLinear: _row_sums("sign_sums", layout.sign_weights, "real layers"),
    F32BinConv2d: _row_sums("sign_sums", layout.sign_weights, "real layers"),
    F32Linear: _row_sums("real_sums", layout.real_weights, "real layers"),
    F32Conv2d: _row_sums("real_sums", layout.real_weights, "real layers"),
    Binarize: _binarize,
    Threshold: _threshold,
    Affine: _affine,
    ToF32: _plain("floats"),
    Relu: _plain("relu"),
    HardTanh: _plain("hard_tanh"),
    MaxPool: _pool,
    MaxPoolBits: _pool,
    AveragePool: _mean_pool,
    Add: _plain("add"),
    Flatten: _flatten,
    Concat: _concat,
    ArgMax: _plain("arg_max"),
}
