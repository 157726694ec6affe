"""A packed network that runs: inputs checked, a backend chosen, the networks of an ensemble averaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, Protocol, runtime_checkable

import numpy as np

from core.deploy import reference
from core.deploy.file import form_to_bytes, load_form, save_form
from core.deploy.form import Form, Graph
from core.deploy.operations import ArgMax

BACKENDS = ("auto", "native", "numpy", "cupy")
MOST_THREADS = 1024


@runtime_checkable
class Executor(Protocol):
    """Runs one graph on checked inputs (B, *raw_shape): C-contiguous, uint8 or float32, no nan."""

    def run(self, x: np.ndarray) -> np.ndarray:
        """The output value, (B, *array_shape)."""
        ...

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The value of every node by its name, (B, *array_shape) each."""
        ...


class PackedNetwork:
    """A form with what runs it. Executors are made once for a backend and a number of threads, and kept."""

    def __init__(self, form: Form) -> None:
        first = form.networks[0]
        self.form = form
        self._dtype = np.dtype(np.uint8 if first.input.value.kind == "u8" else np.float32)
        self._raw_shape = first.input.raw_shape
        self._output = first.values[first.output]
        self._executors: dict[tuple[str, int], tuple[Executor, ...]] = {}

    def __repr__(self) -> str:
        networks = f"{len(self.form.networks)} networks, averaged" if len(self.form.networks) > 1 else "1 network"
        made = f"{self._output.kind} {self._output.shape}"
        return f"PackedNetwork({networks}; {self._dtype} {self._raw_shape} -> {made}; {self.size} bytes)"

    def run(self, x: np.ndarray, *, backend: str = "auto", threads: int = 1) -> np.ndarray:
        """The output of each of the raw inputs x (B, *raw_shape): (B, C) where it is a vector, else (B, H, W, C).

        Of several networks ((f_1 + f_2) + ... + f_k) / k in float32. threads: for the native backend; the others
        ignore it. Raises ValueError for inputs of another shape or dtype or with a nan, and for an unknown backend;
        RuntimeError where the backend cannot run here.
        """
        first, *others = self._ready(backend, threads)
        x = self._checked(x)
        output = first.run(x)
        if others:
            for other in others:
                output = output + other.run(x)
            output = output / np.float32(1 + len(others))
        return output.reshape(len(x), self._output.array_shape[2]) if self._output.shape[:2] == (1, 1) else output

    def classes(self, x: np.ndarray, *, backend: str = "auto", threads: int = 1) -> np.ndarray:
        """The class of each raw input, (B,) of int64: the first of the largest outputs."""
        if self._output.shape[:2] != (1, 1) or self._output.kind == "bits":
            raise ValueError(f"classes need one number a class (this network makes {self._output}); use run")
        output = self.run(x, backend=backend, threads=threads)
        decided = any(
            isinstance(n.operation, ArgMax) and n.name == g.output for g in self.form.networks for n in g.nodes
        )
        return (output[:, 0] if decided else output.argmax(axis=1)).astype(np.int64)

    def trace(self, x: np.ndarray, *, backend: str = "auto", network: int = 0) -> dict[str, np.ndarray]:
        """The value of every node of one of the networks, by name: (B, *array_shape), bits packed as uint32."""
        if not 0 <= network < len(self.form.networks):
            raise ValueError(f"network must be 0 to {len(self.form.networks) - 1} (got {network})")
        return self._ready(backend, 1)[network].trace(self._checked(x))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, whole or not at all."""
        save_form(self.form, path)

    @cached_property
    def size(self) -> int:
        """The bytes of its file."""
        return len(form_to_bytes(self.form))

    def _ready(self, backend: str, threads: int) -> tuple[Executor, ...]:
        if backend == "auto":
            backend = "numpy"  # until the native executor is here
        found = self._executors.get((backend, threads))
        if found is None:
            found = self._executors[backend, threads] = _executors(self.form, backend, threads)
        return found

    def _checked(self, x: np.ndarray) -> np.ndarray:
        if type(x) is not np.ndarray or x.dtype != self._dtype or x.shape[1:] != self._raw_shape:
            _refuse(x, self._dtype, self._raw_shape)
        if self._dtype == np.float32 and x.size and np.isnan(np.minimum.reduce(x, axis=None)):  # nan wins a minimum
            place = tuple(int(i) for i in np.argwhere(np.isnan(x))[0])
            raise ValueError(f"x holds nan, first at {list(place)}; a sign of nan means nothing, so replace or drop it")
        return x if x.flags.c_contiguous else np.ascontiguousarray(x)


def load(path: str | os.PathLike[str]) -> PackedNetwork:
    """The packed network in the file at `path`, memory-mapped. Raises FileError for whatever is wrong in it."""
    return PackedNetwork(load_form(path))


def save(network: PackedNetwork | Form, path: str | os.PathLike[str]) -> None:
    """Writes the file of a packed network or a form, whole or not at all."""
    save_form(network.form if isinstance(network, PackedNetwork) else network, path)


@dataclass(frozen=True)
class Info:
    """What `backend="auto"` runs here: the backend, its CPU level and compiler, or why it is not the native one."""

    backend: str
    level: str = ""
    compiler: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.backend == "native":
            return f"packed networks run native kernels at CPU level {self.level} ({self.compiler})"
        return f"packed networks run in NumPy, many times slower: {self.reason}"


def info() -> Info:
    """What runs packed networks on this machine where no backend is named."""
    return Info("numpy", reason="the native executor is not here yet")


def _executors(form: Form, backend: str, threads: int) -> tuple[Executor, ...]:
    if backend not in _MAKERS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)} (got {backend!r})")
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads must be a whole number from 1 to {MOST_THREADS} (got {threads!r})")
    return tuple(_MAKERS[backend](graph, threads) for graph in form.networks)


def _numpy(graph: Graph, threads: int) -> Executor:
    return reference.Executor(graph)


_MAKERS: dict[str, Callable[[Graph, int], Executor]] = {"numpy": _numpy}


def _refuse(x: object, dtype: np.dtype[Any], raw_shape: tuple[int, ...]) -> NoReturn:
    """Raises ValueError that says what x should be and how to make it so."""
    if not isinstance(x, np.ndarray):
        raise ValueError(f"x must be a numpy array (got {type(x).__name__}); use numpy.asarray(x, numpy.{dtype})")
    if x.shape == raw_shape:
        raise ValueError(f"x has shape {x.shape}, one example without a batch; use x[numpy.newaxis]")
    if x.shape[1:] != raw_shape:
        raise ValueError(f"x must have shape (batch, {', '.join(map(str, raw_shape))}) (got {x.shape})")
    raise ValueError(f"x must be {dtype} (got {x.dtype}); {_way_out(x, dtype)}")


def _way_out(x: np.ndarray, dtype: np.dtype[Any]) -> str:
    if x.dtype.kind not in "biuf":
        return "this network takes real numbers"
    if dtype == np.float32:
        return "use x.astype(numpy.float32)"
    if not x.size or (x.min() >= 0 and x.max() <= 255 and (x == np.floor(x)).all()):
        return "its values are whole numbers from 0 to 255, so use x.astype(numpy.uint8)"
    return f"this network takes raw pixels from 0 to 255, unscaled, and these values run from {x.min()} to {x.max()}"
