"""A packed network that runs: inputs checked, a backend chosen, the networks of an ensemble averaged."""

from __future__ import annotations

import math
import os
from functools import cached_property
from typing import Any

import numpy as np

from core.deploy.backends import Executor, automatic, check_choice, executors
from core.deploy.file import form_to_bytes, load_form, save_form
from core.deploy.form import Form
from core.deploy.operations import ArgMax

FEW = 1 << 13


class PackedNetwork:
    """A form with what runs it. Executors are made once for a backend and a number of threads, and kept.

    backend: "auto" (native where the extension is built, else NumPy with one warning), "native", "numpy" or "cupy".
    threads: of the native backend; the others ignore it.
    """

    def __init__(self, form: Form) -> None:
        self.form = form
        first = form.networks[0]
        self._raw_shape = first.input.raw_shape
        self._real = first.input.value.kind == "f32"
        self._dtype = np.dtype(np.float32 if self._real else np.uint8)
        self._made = first.values[first.output]
        self._columns = self._made.array_shape[2] if self._made.shape[:2] == (1, 1) else None
        self._executors: dict[tuple[str, int], tuple[Executor, ...]] = {}

    def __repr__(self) -> str:
        networks = f"{len(self.form.networks)} networks, averaged" if len(self.form.networks) > 1 else "1 network"
        made = f"{self._made.kind} {self._made.shape}"
        arrays = sum({id(array): array.nbytes for graph in self.form.networks for array in graph.arrays()}.values())
        return f"PackedNetwork({networks}; {self._dtype} {self._raw_shape} -> {made}; {arrays} bytes of arrays)"

    def run(self, x: np.ndarray, *, backend: str = "auto", threads: int = 1) -> np.ndarray:
        """The output for each raw input of x (B, *raw_shape): (B, C) where it is a vector, else (B, H, W, C).

        Of several networks ((f_1 + f_2) + ... + f_k) / k in float32. Raises ValueError for inputs of another shape or
        dtype or with a nan and for an unknown backend, RuntimeError where the backend cannot run here.
        """
        x = self._checked(x)
        ready = self._ready(backend, threads)
        output = ready[0].run(x) if len(ready) == 1 else _average(ready, x)
        return output if self._columns is None else output.reshape(len(x), self._columns)

    def classes(self, x: np.ndarray, *, backend: str = "auto", threads: int = 1) -> np.ndarray:
        """The class of each raw input, (B,) of int64: the first of the largest outputs."""
        if self._columns is None or self._made.kind == "bits":
            raise ValueError(f"classes need one number a class, and this network makes {self._made}; use run")
        output = self.run(x, backend=backend, threads=threads)
        return (output[:, 0] if self._decides else output.argmax(axis=1)).astype(np.int64)

    def standardised(self, raw: np.ndarray) -> np.ndarray:
        """Inputs x of raw features (B, *raw_shape): (raw - mean) / deviation as in training, in float64, rounded once.

        The constants are the file's `facts["standardised"]`. Raises ValueError where it has none: its inputs are raw.
        """
        constants = self.form.facts.get("standardised")
        if constants is None:
            raise ValueError("this network takes its inputs as they are: its file holds no standardisation")
        mean, deviation = (np.reshape(constants[key], self._raw_shape) for key in ("mean", "deviation"))
        x: np.ndarray = ((np.asarray(raw, np.float64) - mean) / deviation).astype(np.float32)
        return x

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

    @cached_property
    def _decides(self) -> bool:
        """Whether the output is a class already."""
        graph = self.form.networks[0]
        return any(node.name == graph.output and isinstance(node.operation, ArgMax) for node in graph.nodes)

    def _ready(self, backend: str, threads: int) -> tuple[Executor, ...]:
        if type(backend) is str and backend == "auto":
            backend = automatic()
        if type(backend) is not str or type(threads) is not int:  # True and 1.0 would find what 1 has made
            check_choice(backend, threads)
        found = self._executors.get((backend, threads))
        if found is None:
            found = self._executors[backend, threads] = executors(self.form, backend, threads)
        return found

    def _checked(self, x: np.ndarray) -> np.ndarray:
        if type(x) is not np.ndarray or x.dtype != self._dtype or x.shape[1:] != self._raw_shape:
            x = _accepted(x, self._dtype, self._raw_shape)
        if self._real and _holds_nan(x):
            place = np.argwhere(np.isnan(x))[0].tolist()
            raise ValueError(f"x has a nan, first at {place}; no sign of a nan means anything: replace it, or drop it")
        return x if x.flags.c_contiguous else np.ascontiguousarray(x)


def load(path: str | os.PathLike[str]) -> PackedNetwork:
    """The packed network in the file at `path`, memory-mapped. Raises FileError for whatever is wrong in it."""
    return PackedNetwork(load_form(path))


def save(network: PackedNetwork | Form, path: str | os.PathLike[str]) -> None:
    """Writes the file of a packed network or a form, whole or not at all."""
    save_form(network.form if isinstance(network, PackedNetwork) else network, path)


def _average(networks: tuple[Executor, ...], x: np.ndarray) -> np.ndarray:
    total = networks[0].run(x)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are values here, as in every network
        for network in networks[1:]:
            total = total + network.run(x)
        average: np.ndarray = total / np.float32(len(networks))
    return average


def _holds_nan(x: np.ndarray) -> bool:
    """Whether float32 x has a nan: neither a sum of squares nor a minimum loses one.

    Of few numbers a dot product is three times as quick; of many it could wake the threads of BLAS.
    """
    return math.isnan(np.vdot(x, x) if x.size <= FEW else np.minimum.reduce(x, axis=None))


def _accepted(x: object, dtype: np.dtype[Any], raw_shape: tuple[int, ...]) -> np.ndarray:
    """x as a plain array, where it is one of a subclass. Raises ValueError that says what x should be and how."""
    if not isinstance(x, np.ndarray):
        raise ValueError(f"x must be a numpy array (got {type(x).__name__}); use numpy.asarray(x, numpy.{dtype})")
    if x.shape == raw_shape:
        raise ValueError(f"x has shape {x.shape}, one example without a batch; use x[numpy.newaxis]")
    if not x.ndim or x.shape[1:] != raw_shape:
        raise ValueError(f"x must have shape (batch, {', '.join(map(str, raw_shape))}) (got {x.shape})")
    if x.dtype != dtype:
        raise ValueError(f"x must be {dtype} (got {x.dtype}); {_way_out(x, dtype)}")
    return np.asarray(x)


def _way_out(x: np.ndarray, dtype: np.dtype[Any]) -> str:
    if x.dtype.kind not in "biuf":
        return "this network takes real numbers"
    if dtype == np.float32:
        return "use x.astype(numpy.float32)"
    if not x.size or bool(x.min() >= 0 and x.max() <= 255 and (x == np.floor(x)).all()):
        return "its values are whole numbers from 0 to 255, so use x.astype(numpy.uint8)"
    return f"it takes raw pixels, whole numbers from 0 to 255, and these values run from {x.min()} to {x.max()}"
