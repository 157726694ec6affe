"""Everything between sums as calls of the kernels of moves.cu."""

from __future__ import annotations

import math
from collections.abc import Callable

from core.deploy.cuda.steps import MoveStep
from core.deploy.form import Node, Value, words
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

Values = tuple[Value, ...]


def move_steps(node: Node, values: Values, made: Value) -> list[MoveStep]:
    """The calls that make `node`, one each but for a concatenation."""
    return _MAKERS[type(node.operation)](node, values, made)


def channels_last(source: str, value: Value) -> MoveStep:
    """Raw images (channels, height, width) to the value that nodes see under the name "input"."""
    height, width, channels = value.shape
    numbers = {"height": height, "width": width, "channels": channels}
    return MoveStep("input", (source,), f"channels_last_{value.kind}", math.prod(value.shape), numbers=numbers)


def part_groups(source: str, output: str, value: Value, groups: int) -> MoveStep:
    """Bits whose groups of channels begin in the middle of words, each group from a whole word on."""
    height, width, channels = value.shape
    each = channels // groups
    numbers = {"channels": channels, "pitch": each, "groups": groups}
    count = height * width * groups * words(each)
    return MoveStep(output, (source,), "part_groups", count, warps=True, numbers=numbers)


def _step(node: Node, kernel: str, made: Value, **more: object) -> list[MoveStep]:
    """One thread a number of `made`, channels fastest."""
    numbers = {"channels": made.channels} | dict(more.pop("numbers", {}))  # type: ignore[call-overload]
    return [MoveStep(node.name, node.inputs, kernel, math.prod(made.shape), numbers=numbers, **more)]  # type: ignore[arg-type]


def _pack(node: Node, kernel: str, made: Value, **constants: object) -> list[MoveStep]:
    """One warp a word of `made`."""
    numbers = {"channels": made.channels}
    count = math.prod(made.array_shape)
    return [MoveStep(node.name, node.inputs, kernel, count, warps=True, constants=constants, numbers=numbers)]  # type: ignore[arg-type]


def _binarize(node: Node, values: Values, made: Value) -> list[MoveStep]:
    assert isinstance(node.operation, Binarize)
    return _pack(node, f"binarize_{values[0].kind}", made, a=node.operation.at)


def _threshold(node: Node, values: Values, made: Value) -> list[MoveStep]:
    assert isinstance(node.operation, Threshold)
    return _pack(node, "threshold_i32", made, a=node.operation.at, b=node.operation.flip)


def _affine(node: Node, values: Values, made: Value) -> list[MoveStep]:
    assert isinstance(node.operation, Affine)
    constants = {"a": node.operation.scale, "b": node.operation.bias}
    return _step(node, f"affine_{values[0].kind}", made, constants=constants)


def _to_f32(node: Node, values: Values, made: Value) -> list[MoveStep]:
    return _step(node, f"float_{values[0].kind}", made)


def _relu(node: Node, values: Values, made: Value) -> list[MoveStep]:
    return _step(node, "relu", made)


def _hardtanh(node: Node, values: Values, made: Value) -> list[MoveStep]:
    return _step(node, "hardtanh", made)


def _add(node: Node, values: Values, made: Value) -> list[MoveStep]:
    return _step(node, f"add_{made.kind}", made)


def _window(window: Window) -> dict[str, int]:
    size, stride = window.size, window.stride
    return {"size_y": size, "size_x": size, "stride_y": stride, "stride_x": stride, "padding": window.padding}


def _sides(value: Value, made: Value) -> dict[str, int]:
    return {"height": value.shape[0], "width": value.shape[1], "out_height": made.shape[0], "out_width": made.shape[1]}


def _max_pool(node: Node, values: Values, made: Value) -> list[MoveStep]:
    assert isinstance(node.operation, MaxPool)
    return _step(node, f"max_pool_{made.kind}", made, numbers=_window(node.operation) | _sides(values[0], made))


def _max_pool_bits(node: Node, values: Values, made: Value) -> list[MoveStep]:
    assert isinstance(node.operation, MaxPoolBits)
    numbers = _window(node.operation) | _sides(values[0], made) | {"channels": words(made.channels)}
    constants = {"a": node.operation.smallest}
    count = math.prod(made.array_shape)
    return [MoveStep(node.name, node.inputs, "max_pool_bits", count, constants=constants, numbers=numbers)]


def _average_pool(node: Node, values: Values, made: Value) -> list[MoveStep]:
    assert isinstance(node.operation, AveragePool)
    height, width = node.operation.height, node.operation.width
    size = {"size_y": height, "stride_y": height, "size_x": width, "stride_x": width}
    return _step(node, "average_pool", made, numbers=size | _sides(values[0], made))


def _flatten(node: Node, values: Values, made: Value) -> list[MoveStep]:
    """Only of bits that fill no whole words; all others keep their bytes."""
    height, width, channels = values[0].shape
    numbers = {"channels": channels, "pitch": height * width}
    return [MoveStep(node.name, node.inputs, "flatten_bits", words(made.channels), warps=True, numbers=numbers)]


def _concat(node: Node, values: Values, made: Value) -> list[MoveStep]:
    kernel, pitch, offset = "concat_u8" if made.kind == "u8" else "concat_32", made.array_shape[2], 0
    steps = []
    for name, value in zip(node.inputs, values, strict=True):
        numbers = {"channels": value.array_shape[2], "pitch": pitch, "offset": offset}
        steps.append(MoveStep(node.name, (name,), kernel, math.prod(value.array_shape), numbers=numbers))
        offset += value.array_shape[2]
    return steps


def _argmax(node: Node, values: Values, made: Value) -> list[MoveStep]:
    numbers = {"channels": values[0].channels}
    return [MoveStep(node.name, node.inputs, f"argmax_{values[0].kind}", 1, warps=True, numbers=numbers)]


_MAKERS: dict[type, Callable[[Node, Values, Value], list[MoveStep]]] = {
    Binarize: _binarize,
    Threshold: _threshold,
    Affine: _affine,
    ToF32: _to_f32,
    Relu: _relu,
    HardTanh: _hardtanh,
    MaxPool: _max_pool,
    MaxPoolBits: _max_pool_bits,
    AveragePool: _average_pool,
    Add: _add,
    Flatten: _flatten,
    Concat: _concat,
    ArgMax: _argmax,
}
