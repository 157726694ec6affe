"""What can run a packed network on this machine: the backends by name, and which one "auto" is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from core import extension
from core.deploy import native, reference
from core.deploy.form import Form

MOST_THREADS = 1024
WAY_OUT = "install a C++17 compiler and bitrelax again, or use backend='numpy'"


@runtime_checkable
class Executor(Protocol):
    """Runs one graph on checked inputs (B, *raw_shape): C-contiguous, uint8 or float32, no nan."""

    def run(self, x: np.ndarray) -> np.ndarray:
        """The output value, (B, *array_shape)."""
        ...

    def trace(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The value of every node by its name, (B, *array_shape) each."""
        ...


def automatic() -> str:
    """The backend that "auto" is: the native one, or NumPy, with one warning, where the extension is not built."""
    if extension.allowed():
        return "native"
    extension.warn_once()
    return "numpy"


def executors(form: Form, backend: str, threads: int) -> tuple[Executor, ...]:
    """One executor a network. Raises ValueError for what there is not, RuntimeError for what cannot run here."""
    check_choice(backend, threads)
    return _MAKERS[backend](form, threads)


def check_choice(backend: object, threads: object) -> None:
    """Raises ValueError for what no backend is called and for what is no number of threads."""
    if type(backend) is not str or backend not in _MAKERS:
        raise ValueError(f"backend must be one of auto, {', '.join(_MAKERS)} (got {backend!r})")
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads must be a whole number from 1 to {MOST_THREADS} (got {threads!r})")


def _native(form: Form, threads: int) -> tuple[Executor, ...]:
    return native.executors(form, threads=threads)


def _numpy(form: Form, threads: int) -> tuple[Executor, ...]:
    return tuple(reference.Executor(graph) for graph in form.networks)


def _cupy(form: Form, threads: int) -> tuple[Executor, ...]:
    from core.deploy.cuda import backend

    return tuple(backend.Executor(graph) for graph in form.networks)


_MAKERS: dict[str, Callable[[Form, int], tuple[Executor, ...]]] = {"native": _native, "numpy": _numpy, "cupy": _cupy}


@dataclass(frozen=True)
class Info:
    """What `backend="auto"` runs here: native kernels with their CPU level and compiler, or NumPy and why."""

    backend: str
    level: str = ""
    compiler: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.backend == "native":
            return f"packed networks run native kernels at CPU level {self.level} ({self.compiler})"
        return f"packed networks run in NumPy, the slow reference: {self.reason}; {WAY_OUT}"


def info() -> Info:
    """What runs packed networks on this machine where no backend is named."""
    about = extension.info()
    if about.path == "native":
        return Info("native", native.chosen_level(), about.compiler)
    return Info("numpy", reason=about.reason)
