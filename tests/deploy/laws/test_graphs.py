"""Random graphs of the form: every backend makes, of every node, the value that its twin on plain numbers makes.

Thresholds sit at, or one beside, sums that occur. Real values are multiples of 1/8 wherever they are summed, so that
their sums are exact in float32 in any order; everything is then compared to the bit.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.deploy.form import FormError, Graph, Input, Node, Value
from core.deploy.operations import (
    Add,
    Affine,
    ArgMax,
    AveragePool,
    Binarize,
    BinConv2d,
    BinLinear,
    Concat,
    F32BinConv2d,
    F32BinLinear,
    F32Conv2d,
    F32Linear,
    Flatten,
    HardTanh,
    IntConv2d,
    IntLinear,
    MaxPool,
    MaxPoolBits,
    Relu,
    Threshold,
    ToF32,
)

CHANNELS = (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 100, 127, 128, 129, 130)
LARGEST_EXACT = 2.0**24  # whole numbers up to it are float32 numbers
RARE = np.array([0.0, -0.0, 1e-40, -1e-40, 2.0**-149, 3e38, -1.0, 0.5], np.float32)


Pick = Callable[[Sequence[Any]], Any]  # one of what it is given


@dataclass
class Builder:
    """A graph as it grows, with the value of each node for one batch.

    grid: of f32 values that are multiples of `step` up to `most`, these two; others may not be summed.
    """

    twin: type
    pick: Pick
    rng: np.random.Generator
    input: Input
    x: np.ndarray
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    made: dict[str, np.ndarray] = field(default_factory=dict)
    grid: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values["input"] = self.input.value
        self.made["input"] = self.twin.seen(self.x, self.input.value)
        self.grid["input"] = (0.125, 8.0) if self.input.value.kind == "f32" else (1.0, 255.0)

    def add(self, operation, *inputs: str, grid: tuple[float, float] | None = None) -> str:
        name = f"{type(operation).__name__.lower()}.{len(self.nodes)}"
        value = operation.output(tuple(self.values[i] for i in inputs))
        self.nodes.append(Node(name, operation, inputs))
        self.values[name] = value
        self.made[name] = self.twin.apply(operation, [self.made[i] for i in inputs])
        if grid is not None and grid[1] / grid[0] < LARGEST_EXACT:
            self.grid[name] = grid
        return name

    def graph(self, output: str) -> Graph:
        return Graph(self.input, tuple(self.nodes), output)

    # ------------------------------------------------------------------ arrays

    def bits(self, *shape: int) -> np.ndarray:
        """Packed random bits, their last side `shape[-1]` channels."""
        return self.twin.pack(self.rng.integers(0, 2, shape) * 2 - 1)

    def near(self, name: str) -> np.ndarray:
        """A number a channel at, or right beside, one that occurs there; sometimes out of reach."""
        made = self.made[name]
        channels = made.shape[-1]
        flat = made.reshape(-1, channels)
        if len(flat):
            at = flat[self.rng.integers(0, len(flat), channels), np.arange(channels)].astype(np.float64)
        else:
            at = np.zeros(channels)
        return at

    def sums_fit(self, name: str, fan_in: int, weight: tuple[float, float]) -> tuple[float, float] | None:
        """The grid of sums of `fan_in` products, or None where they may round."""
        if name not in self.grid:
            return None
        step, most = self.grid[name]
        grid = step * weight[0], fan_in * most * weight[1]
        return grid if grid[1] / grid[0] < LARGEST_EXACT else None


def grow_input(pick: Pick, twin: type) -> Builder:
    rng = np.random.default_rng(pick(range(2**32)))
    kind = pick(("u8", "f32"))
    batch = pick(range(6))
    if pick((False, True)):
        channels = pick((1, 2, 3, 4, 5, 31, 33))
        height, width = pick(range(1, 10)), pick(range(1, 10))
        flat = channels == 1 and pick((False, True)) and (height, width) != (1, 1)
        raw = (height, width) if flat else (channels, height, width)
        value = Value(kind, (height, width, channels))
    else:
        raw = pick(((1,), (5, 1, 3), (31,), (32,), (33,), (2, 3, 7), (8, 8), (100,), (130,), (257,)))
        value = Value(kind, (1, 1, int(np.prod(raw))))
    if kind == "u8":
        x = rng.integers(0, 256, (batch, *raw), np.uint8)
        x[rng.random(x.shape) < 0.2] = 255
    else:
        x = (rng.integers(-64, 65, (batch, *raw)) / 8).astype(np.float32)
        x[rng.random(x.shape) < 0.1] = -0.0
    return Builder(twin, pick, rng, Input(raw, value), x)


def grow_linear(b: Builder, name: str) -> str:
    height, width, channels = b.values[name].shape
    n_out = b.pick(CHANNELS)
    kind, fan_in = b.values[name].kind, height * width * channels
    packed = b.bits(n_out, height, width, channels)
    if kind != "f32":
        return b.add({"bits": BinLinear, "u8": IntLinear}[kind](packed), name, grid=(1.0, fan_in * 255.0))
    real = b.pick((False, True))
    grid = b.sums_fit(name, fan_in, (1 / 16, 0.25) if real else (1.0, 1.0))
    if grid is None:
        return name
    if not real:
        return b.add(F32BinLinear(packed), name, grid=grid)
    weights = (b.rng.integers(-4, 5, (n_out, height, width, channels)) / 16).astype(np.float32)
    return b.add(F32Linear(weights), name, grid=grid)


def grow_convolution(b: Builder, name: str) -> str:
    height, width, channels = b.values[name].shape
    taps = b.pick(range(1, 5)), b.pick(range(1, 5))
    options = {
        "stride": b.pick(range(1, 4)),
        "dilation": b.pick((1, 1, 2, 3)),
        "padding": b.pick((0, 1, 1, 2, 3, 5)),
        "groups": b.pick([g for g in (1, 1, 2, 3, 4, 5, 8, channels) if channels % g == 0]),
    }
    n_out = options["groups"] * b.pick((1, 2, 5, 16, 17, 33, 64))
    n_out = n_out if n_out <= 260 else options["groups"]
    fan_in = (*taps, channels // options["groups"])
    kind, packed = b.values[name].kind, b.bits(n_out, *fan_in)
    real, grid = False, (1.0, 255.0 * float(np.prod(fan_in)))
    if kind == "bits":
        operation = BinConv2d(packed, **options, pad=b.pick(("zero", "zero", "minus", "plus")))
    elif kind == "u8":
        operation = IntConv2d(packed, **options)
    else:
        real = b.pick((False, True))
        grid = b.sums_fit(name, int(np.prod(fan_in)), (1 / 16, 0.25) if real else (1.0, 1.0))
        weights = (b.rng.integers(-4, 5, (n_out, *fan_in)) / 16).astype(np.float32)
        operation = F32Conv2d(weights, **options) if real else F32BinConv2d(packed, **options)
    if grid is None:
        return name
    try:
        return b.add(operation, name, grid=grid)
    except FormError:  # the kernel does not fit the image
        return name


def grow_threshold(b: Builder, name: str) -> str:
    at = b.near(name) + b.rng.integers(-1, 2, b.values[name].channels)
    far = b.rng.random(len(at)) < 0.15
    at[far] = b.rng.choice([-(2**31), -(2**31) + 1, 2**31 - 1, -70000, 70000, 0], far.sum())
    return b.add(Threshold(at.astype(np.int32), b.bits(len(at))), name)


def grow_binarize(b: Builder, name: str) -> str:
    at = b.near(name).astype(np.float32)
    for direction in (-np.inf, np.inf):
        moved = b.rng.random(len(at)) < 0.2
        at[moved] = np.nextafter(at[moved], np.float32(direction))
    rare = b.rng.random(len(at)) < 0.1
    at[rare] = b.rng.choice(RARE, rare.sum())
    return b.add(Binarize(np.where(np.isfinite(at), at, np.float32(0))), name)


def grow_affine(b: Builder, name: str) -> str:
    channels = b.values[name].channels
    if name in b.grid and b.pick((False, True)):
        step, most = b.grid[name]
        scale = b.rng.choice(np.array([-2, -1, -0.5, 0.5, 1, 2], np.float32), channels)
        bias = (b.rng.integers(-8, 9, channels) * step).astype(np.float32)
        return b.add(Affine(scale, bias), name, grid=(step / 2, 2 * most + 8 * step))
    scale, bias = (b.rng.standard_normal((2, channels)) * [[0.1], [3.0]]).astype(np.float32)
    ties = b.rng.random(channels) < 0.3  # x * scale + bias is exactly 0 somewhere
    bias = np.where(ties, -(b.near(name).astype(np.float32) * scale), bias)
    rare = b.rng.random(channels) < 0.1
    scale[rare] = b.rng.choice(np.array([0.0, -0.0, 1e-40, -1e-40, 1e-30], np.float32), rare.sum())
    bias[b.rng.random(channels) < 0.1] = -0.0
    return b.add(Affine(scale, bias), name)


def grow_window(b: Builder, name: str) -> tuple[int, int, int] | None:
    size, stride = b.pick(range(1, 5)), b.pick(range(1, 5))
    padding = b.pick(range(size // 2 + 1))
    fits = min(b.values[name].shape[:2]) + 2 * padding >= size
    return (size, stride, padding) if fits else None


def grow_pool(b: Builder, name: str) -> str:
    window = grow_window(b, name)
    if window is None:
        return name
    if b.values[name].kind == "bits":
        return b.add(MaxPoolBits(*window, smallest=b.bits(b.values[name].channels)), name)
    return b.add(MaxPool(*window), name, grid=b.grid.get(name))


def grow_average(b: Builder, name: str) -> str:
    return b.add(AveragePool(b.pick(range(1, 5)), b.pick(range(1, 5))), name)


def grow_sum(b: Builder, name: str) -> str:
    """The value plus an earlier one of the same kind and shape, or itself."""
    others = [other for other, value in b.values.items() if value == b.values[name]]
    other = b.pick(others)
    grids = b.grid.get(name), b.grid.get(other)
    grid = None if None in grids else (min(g[0] for g in grids), sum(g[1] for g in grids))
    return b.add(Add(), *b.pick(((name, other), (other, name))), grid=grid)


def grow_concat(b: Builder, name: str) -> str:
    mine = b.values[name]
    others = [n for n, v in b.values.items() if (v.kind, v.shape[:2]) == (mine.kind, mine.shape[:2])]
    whole = [n for n in others if b.values[n].channels % 32 == 0] if mine.kind == "bits" else others
    if not whole or mine.channels > 400:
        return name
    parts = [*(b.pick(whole) for _ in range(b.pick((1, 2)))), name]
    grids = [b.grid.get(part) for part in parts]
    grid = None if None in grids else (min(g[0] for g in grids), max(g[1] for g in grids))
    return b.add(Concat(), *parts, grid=grid)


def grow_simple(b: Builder, name: str) -> str:
    kinds = {
        "f32": (Relu, HardTanh, Flatten),
        "bits": (ToF32, Flatten),
        "u8": (ToF32, Flatten),
        "i32": (ToF32, Flatten),
    }
    operation = b.pick(kinds[b.values[name].kind])
    grid = b.grid.get(name, (1.0, 1.0) if b.values[name].kind == "bits" else None)
    return b.add(operation(), name, grid=grid)


STEPS = {
    "bits": (grow_linear, *[grow_convolution] * 3, grow_pool, grow_pool, grow_concat, grow_simple),
    "u8": (grow_linear, grow_convolution, grow_convolution, grow_binarize, grow_simple),
    "i32": (grow_threshold, grow_threshold, grow_threshold, grow_affine, grow_pool, grow_sum, grow_concat, grow_simple),
    "f32": (
        *(grow_linear, grow_convolution, grow_binarize, grow_binarize, grow_affine, grow_pool),
        *(grow_average, grow_sum, grow_concat, grow_simple),
    ),
}


def grow_network(pick: Pick, twin: type) -> tuple[Graph, np.ndarray]:
    """A graph of 1 to 11 steps, each on the newest value of some name, and a batch for it."""
    b = grow_input(pick, twin)
    name = "input"
    for _ in range(b.pick(range(1, 12))):
        if b.pick(range(10)) == 0:  # a fork: go on from an earlier value
            name = b.pick(list(b.values))
        name = b.pick(STEPS[b.values[name].kind])(b, name)
    if not b.nodes:
        name = b.add(Binarize(np.zeros(b.values["input"].channels, np.float32)), "input")
    name = name if name != "input" else b.nodes[-1].name
    value = b.values[name]
    if value.kind in ("f32", "i32") and value.shape[:2] == (1, 1) and b.pick((False, True)):
        name = b.add(ArgMax(), name)
    return b.graph(name), b.x


def told(graph: Graph) -> str:
    """The graph in a few lines, for a failing test."""
    lines = [f"input {graph.input}"]
    for node, _, made in graph.steps():
        options = {k: v for k, v in vars(node.operation).items() if not isinstance(v, np.ndarray)}
        lines.append(f"{node.name} {options or ''} <- {', '.join(node.inputs)}: {made.kind} {made.shape}")
    return "\n".join(lines)


def check(backends, twin, graph: Graph, x: np.ndarray) -> None:
    """Every value of every backend is the twin's; f32 to the bit, but for the sign of zeros that nobody promises."""
    expected = twin.run(graph, x)
    free = twin.free_zeros(graph)
    for backend, executor_of in backends.items():
        executor = executor_of(graph)
        trace, answer = executor.trace(x), executor.run(x)
        for name, value in list(graph.values.items())[1:]:
            compare(trace[name], twin.packed(expected[name], value), name in free, f"{backend}: {name}\n{told(graph)}")
        last = twin.packed(expected[graph.output], graph.values[graph.output])
        compare(answer, last, graph.output in free, f"{backend}: run, {graph.output}\n{told(graph)}")


def compare(got: np.ndarray, expected: np.ndarray, free_zero: bool, where: str) -> None:
    assert got.dtype == expected.dtype and got.shape == expected.shape, f"{where}\n{got.dtype} {got.shape}"
    exact = got.dtype != np.float32 or free_zero
    wrong = got != expected if exact else got.view(np.uint32) != expected.view(np.uint32)
    assert not wrong.any(), f"{where}\n{wrong.sum()} of {wrong.size} differ, first at {np.argwhere(wrong)[0]}"


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_every_backend_computes_what_the_form_says(twin, backends, data: st.DataObject) -> None:
    check(backends, twin, *grow_network(lambda known: data.draw(st.sampled_from(known)), twin))


@pytest.mark.parametrize("seed", range(8))
def test_so_they_do_of_graphs_drawn_evenly(seed: int, twin, backends, emulated) -> None:
    rng, every = random.Random(seed), backends | emulated(12)
    for _ in range(60):
        check(every, twin, *grow_network(rng.choice, twin))
