"""The kernels on the host: the same sources, compiled by the C++ compiler, blocks emulated one after the other.

For tests without a device: every index, tail, fragment map and barrier is run, not the speed and not the device's own
arithmetic. host.h says what is emulated and how strictly.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from core.deploy.cuda.arena import ALIGNMENT
from core.deploy.cuda.compiler import HERE, SOURCES
from core.deploy.cuda.launcher import DeviceError, Memory
from core.deploy.cuda.records import THREADS
from core.deploy.cuda.steps import Launch

FLAGS = ("-std=c++17", "-O2", "-march=native", "-ffp-contract=off", "-fPIC", "-shared", "-U_FORTIFY_SOURCE", "-w")
PROBLEMS = {1: "there is no such kernel", 2: "its struct has another size", 3: "it has another number of threads"}


class HostLauncher:
    """A launcher whose device is this process. capability: which device's choice of kernels it runs."""

    _turn = threading.Lock()  # a library has one emulated multiprocessor

    def __init__(self, library: Path, *, capability: tuple[int, int] = (9, 0)) -> None:
        self.capability = capability
        self._library = ctypes.CDLL(str(library))
        self._library.bitrelax_launch.argtypes = (
            ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p, ctypes.c_uint,
        )  # fmt: skip

    def allocate(self, size: int) -> Memory:
        """Garbage of `size` bytes, aligned as a device's."""
        garbage = np.full(size + ALIGNMENT, 0xA5, np.uint8)
        start = -garbage.ctypes.data % ALIGNMENT
        return Memory(garbage[start : start + size], garbage.ctypes.data + start)

    def write(self, memory: Memory, offset: int, array: np.ndarray) -> None:
        """Copies a C-contiguous array to `memory`, `offset` bytes in."""
        memory.array[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)

    def read(self, memory: Memory, offset: int, array: np.ndarray) -> None:
        """Fills a C-contiguous array from `memory`, `offset` bytes in."""
        array.reshape(-1).view(np.uint8)[:] = memory.array[offset : offset + array.nbytes]

    def launch(self, call: Launch) -> None:
        """Runs every block of one kernel."""
        grid = np.array(call.grid, np.uint32)
        parameters = np.ascontiguousarray(call.parameters)
        with self._turn:
            status = self._library.bitrelax_launch(
                call.kernel.encode(), grid.ctypes.data, THREADS, call.shared, parameters.ctypes.data, parameters.nbytes
            )
        if status:
            raise DeviceError(f"kernel {call.kernel}: {PROBLEMS[status]}")

    def capture(self, issue: Callable[[], None]) -> Callable[[], None]:
        """Calls are repeated as they are."""
        return issue

    def synchronise(self) -> None:
        """Nothing is ever under way."""

    def skip_barriers(self, line: int) -> None:
        """From now on `__syncthreads()` on this line of a source does nothing (0: all of them work again)."""
        self._library.bitrelax_skip(line)


def built(folder: Path, *, sanitizer: str = "") -> Path:
    """The library of all kernels for the host, built in `folder` unless it is there.

    sanitizer: "thread", or none. Raises DeviceError without a C++ compiler, or with its words.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if not compiler:
        raise DeviceError("the kernels' host build needs a C++ compiler (g++ or clang++, or name one in CXX)")
    texts = [path.read_bytes() for path in sorted(HERE.glob("*.h")) + sorted(HERE.glob("*.cu"))]
    flags = [*FLAGS, *(["-O1", "-g", f"-fsanitize={sanitizer}"] if sanitizer else [])]
    digest = hashlib.sha256(b"\0".join([*texts, compiler.encode(), " ".join(flags).encode()])).hexdigest()[:16]
    library = folder / f"kernels-{digest}.so"
    if not library.exists():
        includes = "".join(f'namespace in_{name} {{\n#include "{name}.cu"\n}}\n' for name in SOURCES)
        text = folder / f"kernels-{digest}-{os.getpid()}.cpp"
        text.write_text('#define BITRELAX_HOST\n#include "sums.h"\n' + includes)
        part = text.with_suffix(".so")
        ran = subprocess.run(
            [compiler, *flags, f"-I{HERE}", str(text), "-o", str(part)], capture_output=True, text=True
        )
        if ran.returncode:
            raise DeviceError(f"{compiler} does not build the kernels:\n{ran.stderr[-2000:]}")
        part.replace(library)
    return library
