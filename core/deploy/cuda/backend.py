"""Runs one graph on a GPU: constants uploaded once, one arena and one captured run a batch size."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from core.deploy.cuda.arena import arranged
from core.deploy.cuda.device import CupyLauncher
from core.deploy.cuda.launcher import Launcher, Memory, has_bit_tensor_cores
from core.deploy.cuda.plan import RAW, Plan, plan
from core.deploy.cuda.sum_steps import Sums
from core.deploy.form import Graph, Kind

MOST_NUMBERS = 1 << 28  # of the largest value of one part of a batch: kernels count in int32, memory stays bounded
MOST_RUNS = 8  # batch sizes whose arena and captured run are kept
DTYPES: dict[Kind, type] = {"bits": np.uint32, "i32": np.int32, "u8": np.uint8, "f32": np.float32}


class Run(NamedTuple):
    """What one batch size needs: its memory, where each place begins, and the captured calls."""

    arena: Memory
    offsets: dict[str, int]
    replay: Callable[[], None]


class Executor:
    """Runs one graph on arrays (B, *raw_shape) of uint8 or float32, without Python between its layers.

    launcher: the device, by default the current one of CuPy. sums: which kernels sum bits, for tests and benchmarks
    ("auto" chooses by the size of the layer). Threads may share one: their calls run one after the other. Raises
    DeviceError where there is no such device.
    """

    def __init__(self, graph: Graph, *, launcher: Launcher | None = None, sums: Sums = "auto") -> None:
        self.graph = graph
        self._launcher: Launcher = CupyLauncher() if launcher is None else launcher
        self._sums = sums
        self._programs: dict[bool, _Program] = {}
        largest = max(math.prod(value.shape) for value in graph.values.values())
        self._at_once = max(1, MOST_NUMBERS // largest)

    def run(self, x: np.ndarray) -> np.ndarray:
        """The output value of each example, (B, *array_shape)."""
        program, names = self._program(fused=True), (self.graph.output,)
        return np.concatenate([program.made(part, names)[0] for part in self._parts(x)])

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The value of every node by its name, (B, *array_shape) each, made one by one."""
        names = tuple(node.name for node in self.graph.nodes)
        parts = [self._program(fused=False).made(part, names) for part in self._parts(x)]
        return {name: np.concatenate(arrays) for name, *arrays in zip(names, *parts, strict=True)}

    def _parts(self, x: np.ndarray) -> Iterator[np.ndarray]:
        return (x[first : first + self._at_once] for first in range(0, max(1, len(x)), self._at_once))

    def _program(self, *, fused: bool) -> _Program:
        if fused not in self._programs:
            tensor_cores = has_bit_tensor_cores(self._launcher.capability)
            made = plan(self.graph, fused=fused, sums=self._sums, tensor_cores=tensor_cores)
            self._programs[fused] = _Program(self.graph, made, self._launcher, keep=not fused)
        return self._programs[fused]


class _Program:
    """A plan with its constants on a device. keep: whether every value keeps its memory to the end."""

    def __init__(self, graph: Graph, made: Plan, launcher: Launcher, *, keep: bool) -> None:
        self._graph, self._plan, self._launcher, self._keep = graph, made, launcher, keep
        self._constants = [
            {name: _uploaded(launcher, array) for name, array in step.constants.items()} for step in made.steps
        ]
        self._runs: OrderedDict[int, Run] = OrderedDict()
        self._lock = threading.Lock()

    def made(self, x: np.ndarray, names: tuple[str, ...]) -> list[np.ndarray]:
        """The values of these names for the raw inputs x."""
        values = [self._graph.values[name] for name in names]
        arrays: list[np.ndarray] = [np.empty((len(x), *value.array_shape), DTYPES[value.kind]) for value in values]
        if not len(x):
            return arrays
        with self._lock:  # an arena is of one call at a time
            run = self._run(len(x))
            self._launcher.write(run.arena, run.offsets[RAW], x)
            run.replay()
            for name, array in zip(names, arrays, strict=True):
                self._launcher.read(run.arena, run.offsets[self._plan.places[name]], array)
        return arrays

    def _run(self, batch: int) -> Run:
        if batch not in self._runs:
            while len(self._runs) >= MOST_RUNS:
                self._runs.popitem(last=False)
            self._runs[batch] = self._captured(batch)
        self._runs.move_to_end(batch)
        return self._runs[batch]

    def _captured(self, batch: int) -> Run:
        sizes = {place: batch * size for place, size in self._plan.sizes.items()}
        output = self._plan.places[self._graph.output]
        offsets, size = arranged(sizes, self._plan.first_uses(), self._plan.last_uses(), keep=self._keep, output=output)
        arena = self._launcher.allocate(size)
        values = {name: arena.address + offsets[place] for name, place in self._plan.places.items()}
        addresses = [{name: memory.address for name, memory in held.items()} for held in self._constants]
        calls = [
            step.launch(batch, values, constants) for step, constants in zip(self._plan.steps, addresses, strict=True)
        ]

        def issue() -> None:
            for call in calls:
                self._launcher.launch(call)

        return Run(arena, offsets, self._launcher.capture(issue))


def _uploaded(launcher: Launcher, array: np.ndarray) -> Memory:
    memory = launcher.allocate(array.nbytes)
    launcher.write(memory, 0, np.ascontiguousarray(array))
    return memory
