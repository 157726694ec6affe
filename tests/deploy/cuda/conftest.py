"""The kernels built for the host, once a session, and random graphs whose every value is exact on every backend."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from core.deploy.cuda.host import HostLauncher, built
from core.deploy.cuda.launcher import DeviceError
from core.deploy.form import FormError, Graph, Input, Node, Operation, Value
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
from core.deploy.packing import pack_bits
from core.deploy.sums import (
    PADDINGS,
    BinConv2d,
    BinLinear,
    F32BinConv2d,
    F32BinLinear,
    F32Conv2d,
    F32Linear,
    IntConv2d,
    IntLinear,
)

EXACT = 1 << 24  # whole numbers below are exact in float32, in whatever order they are summed


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this session's libraries lie; its workers share it."""
    base = tmp_path_factory.getbasetemp()
    found = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels-on-the-host"
    found.mkdir(exist_ok=True)
    return found


@pytest.fixture(scope="session")
def library(folder: Path) -> Path:
    """The kernels for the host."""
    try:
        return built(folder)
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def host(library: Path) -> Callable[..., HostLauncher]:
    """Launchers of emulated devices, by compute capability."""
    return lambda capability=(9, 0): HostLauncher(library, capability=capability)


@dataclass
class Random:
    """Random values, operations and graphs from one seed.

    Real numbers are multiples of 1 / `parts` below `bound`, known for every value, so that sums of them are exact.
    """

    rng: np.random.Generator
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    steps: dict[str, tuple[float, float]] = field(default_factory=dict)  # of reals: bound, parts

    def bits(self, *shape: int) -> np.ndarray:
        return pack_bits(self.rng.integers(0, 2, shape).astype(np.bool_))

    def whole(self, *shape: int, below: int = 9) -> np.ndarray:
        return self.rng.integers(1 - below, below, shape)

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def size(self, most: int) -> int:
        return int(self.rng.integers(1, most + 1))

    def graph(self, length: int = 6) -> Graph:
        """A graph of about `length` nodes; its output is the last of them."""
        image = self.rng.random() < 0.7
        shape = (self.size(9), self.size(9), self.size(40)) if image else (1, 1, self.size(300))
        kind = self.one_of("u8", "f32")
        raw = (shape[2], *shape[:2]) if shape[:2] != (1, 1) else (shape[2],)
        given = Input(raw, Value(kind, shape))
        self.nodes, self.values = [], {"input": given.value}
        self.steps = {"input": (255.0 if kind == "u8" else 8.0, 1.0)}
        while len(self.nodes) < length and self._grown():
            pass
        return Graph(given, tuple(self.nodes), self.nodes[-1].name)

    def inputs(self, graph: Graph, batch: int) -> np.ndarray:
        shape = (batch, *graph.input.raw_shape)
        if graph.input.value.kind == "u8":
            return self.rng.integers(0, 256, shape).astype(np.uint8)
        return self.whole(*shape).astype(np.float32)

    def _grown(self) -> bool:
        """Adds a node that takes the last value, or another one."""
        for _ in range(100):
            name = list(self.values)[-1] if self.rng.random() < 0.8 else self.one_of(*self.values)
            value = self.values[name]
            operation, names = self._operation(name, value)
            try:
                made = operation.output(tuple(self.values[n] for n in names))
            except FormError:
                continue  # a window that does not fit, say
            if math.prod(made.shape) > 1 << 15 or not self._keep_exact(operation, name, value, made):
                continue
            self.nodes.append(Node(f"node {len(self.nodes)}", operation, names))
            self.values[self.nodes[-1].name] = made
            self.steps[self.nodes[-1].name] = self.steps.pop("new")
            return True
        return False

    def _keep_exact(self, operation: Operation, name: str, value: Value, made: Value) -> bool:
        bound, parts = self.steps[name]
        match operation:
            case F32Linear() | F32Conv2d() | F32BinLinear() | F32BinConv2d():
                fan_in = value.channels * math.prod(operation.weights.shape[1:3])
                bound, parts = bound * 8 * fan_in, parts * 2
            case BinLinear() | BinConv2d() | IntLinear() | IntConv2d():
                bound = bound * value.channels * math.prod(operation.weights.shape[1:3])
            case Affine():
                bound, parts = bound * 4 + 8, parts * 8
            case AveragePool():
                parts = math.inf  # a quotient is rounded: no sums of it
            case Add():
                bound = 2 * bound
                parts = max(parts, *(self.steps[n][1] for n in self.values if self.values[n] == value))
                bound = max(bound, *(2 * self.steps[n][0] for n in self.values if self.values[n] == value))
            case Concat():
                others = [n for n in self.values if self.values[n].kind == value.kind]
                bound, parts = (max(self.steps[n][i] for n in others) for i in (0, 1))
            case Binarize() | Threshold():
                bound, parts = 1.0, 1.0
            case _:
                bound = max(bound, 1.0)
        self.steps["new"] = bound, parts
        exact = isinstance(operation, F32Linear | F32Conv2d | F32BinLinear | F32BinConv2d)
        return bound * parts < EXACT or (not exact and bound < 1 << 30)

    def _operation(self, name: str, value: Value) -> tuple[Operation, tuple[str, ...]]:
        h, w, c = value.shape
        alike = [n for n in self.values if self.values[n] == value]
        beside = [n for n in self.values if (self.values[n].kind, self.values[n].shape[:2]) == (value.kind, (h, w))]
        match value.kind:
            case "bits":
                makers = [self._linear, self._linear, self._conv, self._conv, self._pool, lambda v: ToF32(), _flat]
            case "i32":
                makers = [self._threshold] * 4 + [self._affine] * 2 + [self._pool, lambda v: ToF32(), _flat]
            case "u8":
                makers = [self._linear, self._conv, self._binarize, lambda v: ToF32(), _flat]
            case _:
                makers = [self._linear, self._conv, self._binarize, self._binarize, self._affine, self._pool]
                makers += [lambda v: Relu(), lambda v: HardTanh(), self._average, _flat]
        if value.kind in ("i32", "f32"):
            makers.append(lambda v: ArgMax())
            if len(alike) > 1 and self.rng.random() < 0.3:
                return Add(), (name, self.one_of(*alike))
        if len(beside) > 1 and self.rng.random() < 0.2:
            return Concat(), (name, self.one_of(*beside))
        return self.one_of(*makers)(value), (name,)

    def _weights(self, kind: type, *shape: int) -> np.ndarray:
        return self.whole(*shape).astype(np.float32) / 2 if not kind.packed else self.bits(*shape)

    def _linear(self, value: Value) -> Operation:
        kind = {"bits": (BinLinear,), "u8": (IntLinear,), "f32": (F32BinLinear, F32Linear)}[value.kind]
        kind = self.one_of(*kind)
        return kind(self._weights(kind, self.size(140), *value.shape))

    def _conv(self, value: Value) -> Operation:
        kind = {"bits": (BinConv2d,), "u8": (IntConv2d,), "f32": (F32BinConv2d, F32Conv2d)}[value.kind]
        kind = self.one_of(*kind)
        divisors = [n for n in range(1, value.channels + 1) if value.channels % n == 0]
        groups = self.one_of(1, 1, self.one_of(*divisors))
        outputs = groups * self.one_of(1, 3, 16, 32, self.size(80))
        padding = int(self.rng.integers(0, 4))
        weights = self._weights(kind, outputs, self.size(4), self.size(4), value.channels // groups)
        pad = {"pad": self.one_of(*PADDINGS)} if kind is BinConv2d else {}
        return kind(weights, self.size(3), self.size(2), padding, groups, **pad)

    def _binarize(self, value: Value) -> Operation:
        most = 255 if value.kind == "u8" else 4
        return Binarize(self.rng.integers(-most, most + 1, value.channels).astype(np.float32))

    def _threshold(self, value: Value) -> Operation:
        at = self.whole(value.channels, below=20).astype(np.int32)
        at[self.rng.random(value.channels) < 0.1] = np.iinfo(np.int32).max  # never
        at[self.rng.random(value.channels) < 0.1] = np.iinfo(np.int32).min  # always
        return Threshold(at, self.bits(value.channels))

    def _affine(self, value: Value) -> Operation:
        scale = self.one_of(1, 2, 4, -1, 0.5, -0.25) * self.rng.choice([-1, 1], value.channels)
        return Affine(scale.astype(np.float32), self.whole(value.channels).astype(np.float32) / 8)

    def _pool(self, value: Value) -> Operation:
        size = self.size(4)
        window = size, self.size(3), int(self.rng.integers(0, size // 2 + 1))
        return MaxPoolBits(*window, smallest=self.bits(value.channels)) if value.kind == "bits" else MaxPool(*window)

    def _average(self, value: Value) -> Operation:
        return AveragePool(self.size(4), self.size(4))


def _flat(value: Value) -> Operation:
    return Flatten()


@pytest.fixture
def random() -> Callable[[int], Random]:
    """A source of random graphs by its seed."""
    return lambda seed: Random(np.random.default_rng(seed))
