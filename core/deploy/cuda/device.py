"""The launcher of a real device, through CuPy: kernels compiled for it at first use, and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from core.deploy.cuda.compiler import source_of
from core.deploy.cuda.launcher import LEAST_CAPABILITY, DeviceError, Memory
from core.deploy.cuda.loading import cubin
from core.deploy.cuda.records import THREADS
from core.deploy.cuda.steps import Launch

WAY_OUT = "use backend='native' or 'numpy'"


class CupyLauncher:
    """CuPy's current device, on a stream of its own. Raises DeviceError where none can run the kernels."""

    def __init__(self) -> None:
        self._cupy = _cupy()
        self.capability = _capability(self._cupy)
        self._stream = self._cupy.cuda.Stream(non_blocking=True)
        self._modules: dict[str, Any] = {}
        self._kernels: dict[str, Any] = {}

    @property
    def stream(self) -> Any:
        """The CuPy stream that everything runs on, for events."""
        return self._stream

    def allocate(self, size: int) -> Memory:
        """Memory of `size` bytes."""
        with self._stream:
            array = self._cupy.empty(size, self._cupy.uint8)
        return Memory(array, int(array.data.ptr))

    def write(self, memory: Memory, offset: int, array: np.ndarray) -> None:
        """Copies a C-contiguous array to `memory`, `offset` bytes in."""
        if array.nbytes:
            octets = array.reshape(-1).view(np.uint8)
            memory.array[offset : offset + array.nbytes].set(octets, stream=self._stream)

    def read(self, memory: Memory, offset: int, array: np.ndarray) -> None:
        """Fills a C-contiguous array from `memory`, `offset` bytes in."""
        if array.nbytes:
            octets = array.reshape(-1).view(np.uint8)
            memory.array[offset : offset + array.nbytes].get(stream=self._stream, out=octets)
        self.synchronise()

    def launch(self, call: Launch) -> None:
        """Calls one kernel."""
        kernel = self._kernel(call.kernel, call.shared)
        with self._stream:
            kernel(call.grid, (THREADS,), (call.parameters,), shared_mem=call.shared)

    def capture(self, issue: Callable[[], None]) -> Callable[[], None]:
        """One CUDA graph of the kernel calls. They run once before: kernels are compiled and loaded outside."""
        issue()
        self.synchronise()
        with self._stream:
            self._stream.begin_capture()
            try:
                issue()
            finally:
                graph = self._stream.end_capture()
        return lambda: graph.launch(stream=self._stream)

    def synchronise(self) -> None:
        """Waits until everything is done."""
        self._stream.synchronize()

    def _kernel(self, name: str, shared: int) -> Any:
        if name not in self._kernels:
            text = source_of(name)
            if text not in self._modules:
                self._modules[text] = self._cupy.RawModule(path=str(cubin(text, self.capability)))
            self._kernels[name] = self._loaded(name, self._modules[text], shared)
        return self._kernels[name]

    def _loaded(self, name: str, module: Any, shared: int) -> Any:
        cuda = self._cupy.cuda
        try:
            kernel = module.get_function(name)
            if shared > 48 << 10:  # beyond it a kernel has to ask
                kernel.max_dynamic_shared_size_bytes = shared
        except (cuda.driver.CUDADriverError, cuda.runtime.CUDARuntimeError) as error:
            major, minor = self.capability
            raise DeviceError(
                f"kernel {name} cannot be loaded on a device of compute capability {major}.{minor} ({error}); "
                f"the driver may be older than CuPy's CUDA: update it, or {WAY_OUT}"
            ) from None
        return kernel


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"backend 'cupy' needs CuPy, which cannot be imported here ({error}); "
            f"pip install -e '.[gpu]' in the clone brings it, or {WAY_OUT}"
        ) from None
    return cupy


def _capability(cupy: Any) -> tuple[int, int]:
    """Of the current device. Raises DeviceError without a driver or a device, or where it is too old."""
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"backend 'cupy' finds no NVIDIA driver or device here ({error}); {WAY_OUT}") from None
    if not count:
        raise DeviceError(f"backend 'cupy' finds no NVIDIA device here; {WAY_OUT}")
    device = cupy.cuda.Device()
    text = str(device.compute_capability)  # "90" is 9.0, "120" is 12.0
    capability = (int(text[:-1]), int(text[-1]))
    if capability < LEAST_CAPABILITY:
        raise DeviceError(
            f"backend 'cupy' needs compute capability {LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]} or later "
            f"(device {device.id} has {capability[0]}.{capability[1]}); {WAY_OUT}"
        )
    return capability
