"""Packed networks in native code: one call runs the whole network, and the values of every node where asked.

Integer results are those of the NumPy backend to the bit, at every CPU level and with any number of threads.
"""

from __future__ import annotations

import os
from functools import cached_property
from types import ModuleType

import numpy as np

from core import extension
from core.deploy.form import Form, Graph
from core.deploy.lowering import Lowered, lower
from core.deploy.lowering_constants import Constants
from core.deploy.lowering_state import Step

DTYPES = {kind: np.dtype(name) for kind, name in (("bits", "u4"), ("i32", "i4"), ("u8", "u1"), ("f32", "f4"))}
LEVEL_VARIABLE = "BITRELAX_CPU_LEVEL"


class Executor:
    """Runs one graph on arrays (B, *raw_shape) of uint8 or float32, contiguous.

    level: "portable", "avx2" or "avx512"; None for what BITRELAX_CPU_LEVEL names, else the best of this CPU.
    Several Python threads may call one executor at once: each call has memory of its own. All executors of one number
    of threads share them, and of calls at once one has them. Denormals are numbers here also where the process flushes
    them. constants: those of all networks of a form. Raises RuntimeError where the extension is not built, ValueError
    for a level not to be had, FormError for what the engine cannot hold.
    """

    def __init__(
        self, graph: Graph, *, threads: int = 1, level: str | None = None, constants: Constants | None = None
    ) -> None:
        self.graph = graph
        self.level = chosen_level(level)
        self.threads = threads
        self._kernels = kernels()
        number = extension.LEVELS.index(self.level)
        self._lowered = lower(graph, self._kernels, level=number, threads=threads, constants=constants)
        self._run = self._lowered.program.run
        value = graph.values[graph.output]
        self._shape, self._dtype = value.array_shape, DTYPES[value.kind]

    def run(self, x: np.ndarray) -> np.ndarray:
        """The output value of each example, (B, *array_shape)."""
        height, width, channels = self._shape
        output = np.empty((len(x), height, width, channels), self._dtype)
        self._run(x, output)
        return output

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The value of every node by its name, (B, *array_shape) each; nothing is fused."""
        values = [self.graph.values[name] for name in self._unfused.outputs]
        made = [np.empty((len(x), *value.array_shape), DTYPES[value.kind]) for value in values]
        self._unfused.program.run_all(x, made)
        return {name: array for name, array in zip(self._unfused.outputs, made, strict=True) if name != "input"}

    def profile(self, x: np.ndarray) -> list[tuple[str, str, float]]:
        """Each step of one call: the node it makes, the kind of work, its seconds.

        Kinds: pack, sums (over bits), first layer, real layers, pool, other.
        """
        output = np.empty((len(x), *self._shape), self._dtype)
        seconds = self._lowered.program.seconds(x, [output])
        return [(step.name, step.kind, taken) for step, taken in zip(self.steps, seconds, strict=True)]

    @property
    def steps(self) -> tuple[Step, ...]:
        """What one call does, in order."""
        return self._lowered.steps

    @cached_property
    def _unfused(self) -> Lowered:
        level = extension.LEVELS.index(self.level)
        return lower(self.graph, self._kernels, level=level, threads=1, fuse=False)


def executors(form: Form, *, threads: int = 1, level: str | None = None) -> tuple[Executor, ...]:
    """One executor a network of a form; what they share is laid out once."""
    constants = Constants(form.networks)
    return tuple(Executor(graph, threads=threads, level=level, constants=constants) for graph in form.networks)


def kernels() -> ModuleType:
    """The native extension. Raises RuntimeError where it is not built."""
    module = extension.module()
    if module is None:
        raise RuntimeError(
            f"backend='native': {extension.info().reason}; install a C++17 compiler and bitrelax again, "
            "or use backend='numpy'"
        )
    return module


def levels() -> tuple[str, ...]:
    """The CPU levels at which packed networks can run here, the best last."""
    return extension.LEVELS[: kernels().best_packed_level() + 1]


def chosen_level(level: str | None = None) -> str:
    """The level that is asked for, by name or by BITRELAX_CPU_LEVEL, or the best. Raises ValueError."""
    here = levels()
    asked, by = (level, "level") if level is not None else (os.environ.get(LEVEL_VARIABLE) or None, LEVEL_VARIABLE)
    if asked is None:
        return here[-1]
    if asked not in here:
        known = (
            "is none of " + ", ".join(extension.LEVELS) if asked not in extension.LEVELS else "is not one of this CPU"
        )
        raise ValueError(f"{by}={asked!r} {known}; here it may be {', '.join(here)}")
    return asked
