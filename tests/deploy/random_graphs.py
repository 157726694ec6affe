"""Random packed networks and inputs for them: every operation, ragged shapes, branches that meet again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.deploy.form import Graph, Input, Node, Value
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
from core.deploy.packing import pack
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

Rng = np.random.Generator


def random_graph(seed: int, *, steps: int = 6, largest: int = 6, channels: int = 70) -> Graph:
    """A graph of up to `steps` operations, drawn one after the other among those that fit a value made before."""
    rng = np.random.default_rng(seed)
    given = _input(rng, largest, channels)
    made, nodes = {"input": given.value}, []
    for step in range(int(rng.integers(1, steps + 1))):
        name = _recent(rng, list(made))
        drawn = _operation(rng, made, name, channels)
        if drawn is None:
            continue
        operation, inputs = drawn
        node = Node(f"n{step}", operation, inputs)
        made[node.name] = operation.output(tuple(made[i] for i in inputs))
        nodes.append(node)
    if not nodes:
        nodes = [Node("n0", Flatten(), ("input",))]
    return Graph(given, tuple(nodes), nodes[-1].name)


def inputs_of(graph: Graph, batch: int, seed: int = 0) -> np.ndarray:
    """Raw inputs: any byte, or reals of moderate size that are exact in few bits, so that their sums are too."""
    rng = np.random.default_rng(seed)
    shape = (batch, *graph.input.raw_shape)
    if graph.input.value.kind == "u8":
        return rng.integers(0, 256, shape, np.uint8)
    return (rng.integers(-64, 65, shape) / 16).astype(np.float32)


def bits(rng: Rng, *shape: int) -> np.ndarray:
    """Random signs, the last axis packed."""
    return pack(rng.integers(0, 2, shape).astype(np.int8) * 2 - 1)


def reals(rng: Rng, *shape: int) -> np.ndarray:
    """Multiples of 1/8 from -2 to 2: sums of a few thousand products of them are exact."""
    return (rng.integers(-16, 17, shape) / 8).astype(np.float32)


def _input(rng: Rng, largest: int, channels: int) -> Input:
    kind = str(rng.choice(["u8", "f32"]))
    if rng.random() < 0.3:
        count = int(rng.integers(1, 4 * channels))
        return Input((count,), Value(kind, (1, 1, count)))
    height, width = (int(n) for n in rng.integers(2, largest + 1, 2))
    depth = int(rng.choice([1, 3, int(rng.integers(1, channels))]))
    raw = (height, width) if depth == 1 and rng.random() < 0.5 else (depth, height, width)
    return Input(raw, Value(kind, (height, width, depth)))


def _recent(rng: Rng, names: list[str]) -> str:
    return names[-1] if rng.random() < 0.8 else str(rng.choice(names))


def _operation(rng: Rng, made: dict[str, Value], name: str, channels: int):
    value = made[name]
    others = [n for n, v in made.items() if v == value]
    beside = [n for n, v in made.items() if (v.kind, v.shape[:2]) == (value.kind, value.shape[:2])]
    choices: list[Callable] = [lambda: (Flatten(), (name,))]
    if value.kind in ("i32", "f32"):
        choices.append(lambda: (Add(), (name, str(rng.choice(others)))))
    if value.kind != "bits" or value.channels % 32 == 0:
        choices.append(lambda: (Concat(), (name, str(rng.choice(beside)))))
    choices += [lambda make=make: (make(rng, value, channels), (name,)) for make in _OF_KIND[value.kind]]
    for _ in range(4):
        drawn = choices[int(rng.integers(len(choices)))]()
        if drawn[0] is not None:
            return drawn
    return None


def _convolution(kind: type) -> Callable:
    def make(rng: Rng, value: Value, channels: int):
        height, width, depth = value.shape
        if (height, width) == (1, 1) and rng.random() < 0.7:
            return None
        divisors = [g for g in (1, 2, 3, 4, depth) if depth % g == 0]
        groups = int(rng.choice(divisors)) if rng.random() < 0.4 else 1
        outputs = groups * int(rng.integers(1, channels // groups + 2))
        if groups > 1 and rng.random() < 0.3:
            outputs = groups * 32
        padding, dilation = int(rng.integers(0, 3)), int(rng.choice([1, 1, 2]))
        sides = [1 + int(rng.integers(0, min(3, (n + 2 * padding - 1) // dilation + 1))) for n in (height, width)]
        shape = (outputs, *sides, depth // groups)
        weights = bits(rng, *shape) if kind.packed else reals(rng, *shape)
        more = {"pad": str(rng.choice(["zero", "minus", "plus"]))} if kind is BinConv2d else {}
        stride = int(rng.choice([1, 1, 2, 3]))
        return kind(weights, stride=stride, dilation=dilation, padding=padding, groups=groups, **more)

    return make


def _linear(kind: type) -> Callable:
    def make(rng: Rng, value: Value, channels: int):
        shape = (int(rng.integers(1, 2 * channels)), *value.shape)
        return kind(bits(rng, *shape) if kind.packed else reals(rng, *shape))

    return make


def _binarize(rng: Rng, value: Value, channels: int):
    if value.kind == "u8":
        at = rng.choice([-3.5, 0.0, 0.5, 127.0, 127.5, 255.0, 255.5, 300.0], value.channels)
    else:
        at = rng.integers(-3, 4, value.channels) / 2
    return Binarize(at.astype(np.float32))


def _threshold(rng: Rng, value: Value, channels: int):
    at = rng.integers(-20, 21, value.channels).astype(np.int32)
    extremes = rng.random(value.channels)
    at[extremes < 0.05], at[extremes > 0.95] = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    return Threshold(at, bits(rng, value.channels))


def _affine(rng: Rng, value: Value, channels: int):
    return Affine(*(rng.normal(size=(2, value.channels)) / 8).astype(np.float32))


def _window(rng: Rng, value: Value) -> dict[str, int] | None:
    size = int(rng.integers(1, 4))
    padding = int(rng.integers(0, size // 2 + 1))
    if min(value.shape[:2]) + 2 * padding < size:
        return None
    return {"size": size, "stride": int(rng.integers(1, 4)), "padding": padding}


def _pool(rng: Rng, value: Value, channels: int):
    window = _window(rng, value)
    return window and MaxPool(**window)


def _pool_bits(rng: Rng, value: Value, channels: int):
    window = _window(rng, value)
    return window and MaxPoolBits(**window, smallest=bits(rng, value.channels))


def _mean(rng: Rng, value: Value, channels: int):
    return AveragePool(int(rng.integers(1, 5)), int(rng.integers(1, 5)))


def _plain(kind: type) -> Callable:
    return lambda rng, value, channels: kind()


def _arg_max(rng: Rng, value: Value, channels: int):
    return ArgMax() if value.shape[:2] == (1, 1) and rng.random() < 0.3 else None


_OF_KIND: dict[str, list[Callable]] = {
    "bits": [*[_convolution(BinConv2d)] * 3, *[_linear(BinLinear)] * 2, _plain(ToF32), _pool_bits],
    "u8": [_convolution(IntConv2d), _linear(IntLinear), _binarize, _plain(ToF32)],
    "i32": [*[_threshold] * 4, _affine, _plain(ToF32), _pool, _arg_max],
    "f32": [
        *[_binarize] * 3,
        *(_convolution(F32BinConv2d), _convolution(F32Conv2d), _linear(F32BinLinear), _linear(F32Linear)),
        *(_affine, _plain(Relu), _plain(HardTanh), _pool, _mean, _arg_max),
    ],
}
