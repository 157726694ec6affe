"""The native extension: whether it is built, what it runs on this machine, and how to do without it for a while.

Every kernel has a twin in torch or NumPy that gives the same answers; which of the two runs is decided here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Literal

_LAST = "PackedProgram"  # the newest that callers need: a module without it was built from older sources

try:
    from core._native import _kernels as _module
except ImportError as error:
    _module = None  # type: ignore[assignment]
    _REASON = str(error).partition(" (")[0]  # without the path of this machine: the reason goes into manifests
else:
    if not hasattr(_module, _LAST):
        _module = None  # type: ignore[assignment]
        _REASON = "built from older sources; install bitrelax again"

_ALLOWED: ContextVar[bool] = ContextVar("native kernels allowed", default=True)
LEVELS = ("portable", "avx2", "avx512")


def module() -> ModuleType | None:
    """The extension, or None where it is not built, or from older sources."""
    return _module


def allowed() -> bool:
    """Whether the extension is built and may be used in this thread (not within `twins_only`)."""
    return _module is not None and _ALLOWED.get()


@dataclass(frozen=True)
class Info:
    """Which path runs: "native" with CPU level and flags, or "torch" (the twins in torch and NumPy) and why."""

    path: Literal["native", "torch"]
    level: str = ""
    compiler: str = ""
    flags: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.path == "native":
            return f"native kernels at CPU level {self.level} ({self.compiler}; {self.flags})"
        return f"twins in torch and NumPy: {self.reason}"


@cache
def info() -> Info:
    """What fused passes and the solvers' loops run on this machine."""
    if _module is None:
        return Info("torch", reason=f"the native extension is not built here ({_REASON})")
    return Info("native", LEVELS[_module.best_level()], _module.COMPILER, _module.FLAGS)


@cache
def warn_once() -> None:
    """One warning, the first time a fused pass that could be native is not. It names the way out."""
    if _module is None:
        warnings.warn(
            f"bitrelax runs its slower {info()}. To build it, install a C++17 compiler and bitrelax again",
            RuntimeWarning,
            stacklevel=3,
        )


@contextmanager
def twins_only() -> Iterator[None]:
    """Within it, in this thread, `allowed` says no: for comparing the two paths in one process."""
    token = _ALLOWED.set(False)
    try:
        yield
    finally:
        _ALLOWED.reset(token)
