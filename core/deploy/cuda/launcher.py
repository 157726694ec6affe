"""What the backend asks of a device: memory, copies, kernel calls, and a run of them recorded once and repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from core.deploy.cuda.steps import Launch

LEAST_CAPABILITY = (8, 0)  # bit tensor cores with `and`, asynchronous copies
BIT_TENSOR_CORES = ((8, 0), (10, 0))  # from and below which compute capability they are there


class DeviceError(RuntimeError):
    """Packed networks cannot run on a GPU here; the message says why and the way out."""


@dataclass(frozen=True)
class Memory:
    """Bytes on a device, held as long as this lives: a flat array of the launcher's own kind, and its address."""

    array: Any
    address: int


@runtime_checkable
class Launcher(Protocol):
    """One device. Everything it is told happens in order; `read` waits for it."""

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability, such as (9, 0)."""
        ...

    def allocate(self, size: int) -> Memory:
        """Memory of `size` bytes, at least one."""
        ...

    def write(self, memory: Memory, offset: int, array: np.ndarray) -> None:
        """Copies a C-contiguous array to `memory`, `offset` bytes in."""
        ...

    def read(self, memory: Memory, offset: int, array: np.ndarray) -> None:
        """Fills a C-contiguous array from `memory`, `offset` bytes in."""
        ...

    def launch(self, call: Launch) -> None:
        """Calls one kernel."""
        ...

    def capture(self, issue: Callable[[], None]) -> Callable[[], None]:
        """What repeats the kernel calls that `issue` makes, as one call from the host."""
        ...

    def synchronise(self) -> None:
        """Waits until everything is done."""
        ...


def has_bit_tensor_cores(capability: tuple[int, int]) -> bool:
    """Whether the bit mma is an instruction there, not a call: sm_80 to sm_90."""
    first, beyond = BIT_TENSOR_CORES
    return first <= capability < beyond
