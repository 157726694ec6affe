"""One graph in the making: its nodes, what was kept in float, and why its numbers may not be exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from core.deploy.export.refusals import ExportError, require_finite
from core.deploy.export.stream import Grid, Pooled, Scaled, Step, Stream
from core.deploy.export.thresholds import cut
from core.deploy.form import FormError, Graph, Input, Node, Operation, Value
from core.deploy.operations import Add, Affine, Binarize, MaxPool, MaxPoolBits, Threshold, ToF32
from core.deploy.packing import pack_bits
from core.interface import Reading

INPUT = "input"
REAL_ACTIVATIONS = "activations are real"


class Draft:
    """Nodes so far, under the `reading` (in its Evaluation) of one network.

    binary, real: weights of linear maps in bits and in float. reasons: why the graph is equal to torch only to
    rounding; none where every integer, bit and logit is the same.
    """

    def __init__(self, input: Input, reading: Reading, levels: tuple[float, ...] | None) -> None:
        self.input, self.reading, self.levels = input, reading, levels
        self.binary = self.real = 0
        self.reasons: dict[str, None] = {}  # in order, each once
        self._nodes: list[Node] = []
        self._values = {INPUT: input.value}
        self._floats: dict[str, Stream] = {}

    def graph(self, output: Stream) -> Graph:
        """The whole graph, whose answer is `output`."""
        return Graph(self.input, tuple(self._nodes), output.name)

    def start(self) -> Stream:
        """The raw input."""
        return Stream(INPUT, self.input.value)

    def add(self, name: str, operation: Operation, *inputs: str) -> Value:
        """A node. Raises ExportError where the operation cannot take its inputs."""
        try:
            value = operation.output(tuple(self._values[source] for source in inputs))
        except FormError as error:
            raise ExportError(f"{name}: {error}") from None
        self._nodes.append(Node(name, operation, inputs))
        self._values[name] = value
        return value

    def inexact(self, reason: str) -> None:
        """From here on numbers equal torch's to rounding only."""
        self.reasons[reason] = None

    def of_reals(self, name: str, verb: str) -> None:
        """The layer `name` sums or averages real values; of real activations that is said once, of the network."""
        if REAL_ACTIVATIONS not in self.reasons:
            self.inexact(f"{name} {verb} real values")

    def then(self, stream: Stream, step: Step) -> Stream:
        """`step` after `stream`: it waits after integer sums and is written down after anything else."""
        if stream.flat:
            raise ExportError(f"{step.name}: it follows a Flatten of images; the packed form needs it before")
        if isinstance(step, Scaled):
            self._check(step, stream.value.channels)
        if stream.value.kind == "i32":
            return replace(stream, steps=(*stream.steps, step))
        if isinstance(step, Pooled) and stream.value.kind == "bits":
            return self._pooled_bits(stream, step, step.name, np.zeros(stream.value.channels, bool))
        return self._written(self.real_numbers(stream), step)

    def real_numbers(self, stream: Stream) -> Stream:
        """`stream` as float32, with nothing waiting; made once for all who ask."""
        if stream.value.kind == "f32":
            return stream
        if stream.steps:
            written = replace(stream, steps=())
            for step in stream.steps:
                written = self._written(written, step)
            return self.real_numbers(written)
        if stream.name not in self._floats:
            name = f"{stream.name}.f32"
            made = Stream(name, self.add(name, ToF32(), stream.name), stream.flat, grid=_whole(stream))
            self._floats[stream.name] = made
        return self._floats[stream.name]

    def signs(self, stream: Stream, name: str) -> Stream:
        """The sign of `stream` as bits, by the activation `name`; signs are their own."""
        if stream.value.kind == "bits":
            return stream
        if stream.value.kind == "i32":
            return self._threshold(stream, name)
        at = np.zeros(stream.value.channels, np.float32)
        return Stream(name, self.add(name, Binarize(at), stream.name), stream.flat)

    def sum_of(self, name: str, a: Stream, b: Stream) -> Stream:
        """a + b, entry by entry, of float32."""
        a, b = self.real_numbers(a), self.real_numbers(b)
        if a.flat != b.flat:
            raise ExportError(f"{name}: one branch is flattened and the other is not")
        grid = Grid(min(a.grid.step, b.grid.step), a.grid.largest + b.grid.largest) if a.grid and b.grid else None
        return Stream(name, self.add(name, Add(), a.name, b.name), a.flat, grid=grid)

    def _threshold(self, stream: Stream, name: str) -> Stream:
        assert stream.reach is not None, "integers are sums, and those know their reach"
        found = cut(name, stream.steps, stream.reach)
        poolings = [step for step in stream.steps if isinstance(step, Pooled)]
        names = [f"{name}.unpooled", *(f"{name}.pooled{i}" for i in range(1, len(poolings)))][: len(poolings)] + [name]
        operation = Threshold(found.at, pack_bits(found.flip))
        bits = Stream(names[0], self.add(names[0], operation, stream.name), stream.flat)
        for step, smallest, label in zip(poolings, found.smallest, names[1:], strict=True):
            bits = self._pooled_bits(bits, step, label, smallest)
        return bits

    def _pooled_bits(self, stream: Stream, step: Pooled, name: str, smallest: np.ndarray) -> Stream:
        operation = MaxPoolBits(step.size, step.size, smallest=pack_bits(smallest))
        return Stream(name, self.add(name, operation, stream.name), stream.flat)

    def _written(self, stream: Stream, step: Step) -> Stream:
        """i32 or f32 with nothing waiting, and one step as an operation."""
        if isinstance(step, Pooled):
            value = self.add(step.name, MaxPool(step.size, step.size), stream.name)
            return replace(stream, name=step.name, value=value)
        operation = Affine(_array(step.scale), _array(step.bias))
        return Stream(step.name, self.add(step.name, operation, stream.name), stream.flat)

    def _check(self, step: Scaled, channels: int) -> None:
        for what, values in (("scale", step.scale), ("bias", step.bias)):
            if values.shape != (channels,):
                raise ExportError(f"{step.name}: it has {len(values)} channels, and what reaches it {channels}")
            require_finite(step.name, what, values)


def _whole(stream: Stream) -> Grid | None:
    if stream.reach is None:
        return Grid(1.0, 255.0 if stream.value.kind == "u8" else 1.0)
    return Grid(1.0, float(max(-stream.reach.least.min(), stream.reach.most.max())))


def _array(values: Tensor) -> np.ndarray:
    array: np.ndarray = values.detach().to(torch.float32).numpy().copy()
    return array
