"""The launcher of real devices: on a CuPy of our own that runs kernels on the host, and on a GPU where there is one."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from core.deploy import reference
from core.deploy.cuda import loading
from core.deploy.cuda.backend import Executor
from core.deploy.cuda.compiler import kernels
from core.deploy.cuda.device import CupyLauncher
from core.deploy.cuda.launcher import DeviceError
from core.deploy.cuda.rates import WORK, rates
from core.deploy.cuda.steps import Launch
from core.deploy.cuda.sum_steps import SUMS_BY


class StandIn:
    """As much of CuPy as the launcher uses, with the rules of streams: capture records, and a graph repeats."""

    class CUDARuntimeError(RuntimeError):
        pass

    class CUDADriverError(RuntimeError):
        pass

    def __init__(self, host, *, capability: str = "90", devices: int = 1) -> None:
        self.host, self.entered, self.recorded = host, [], None
        self.graphs = self.loaded = 0
        self.largest_shared: dict[str, int] = {}
        stand_in = self

        class Stream:
            def __init__(self, non_blocking: bool) -> None:
                assert non_blocking  # the default stream cannot be captured

            def __enter__(self) -> None:
                stand_in.entered.append(self)

            def __exit__(self, *error: object) -> None:
                stand_in.entered.pop()

            def begin_capture(self) -> None:
                stand_in.recorded = []

            def end_capture(self) -> SimpleNamespace:
                calls, stand_in.recorded = stand_in.recorded, None
                stand_in.graphs += 1
                return SimpleNamespace(launch=lambda stream: [stand_in.host.launch(call) for call in calls])

            def synchronize(self) -> None:
                assert stand_in.recorded is None, "a wait ends a capture with an error"

        class RawModule:
            def __init__(self, path: str) -> None:
                assert stand_in.recorded is None and Path(path).read_bytes() == b"machine code"
                stand_in.loaded += 1

            def get_function(self, name: str):
                return Function(name)

        class Function:
            max_dynamic_shared_size_bytes = 48 << 10

            def __init__(self, name: str) -> None:
                self.name = name

            def __call__(self, grid, block, args, *, shared_mem: int) -> None:
                assert stand_in.entered and block == (256,)
                assert shared_mem <= self.max_dynamic_shared_size_bytes
                (parameters,) = args
                assert isinstance(parameters, np.ndarray) and parameters.size == 1  # CuPy passes those by value
                call = Launch(self.name, grid, shared_mem, parameters.copy())
                stand_in.host.launch(call) if stand_in.recorded is None else stand_in.recorded.append(call)

        def count() -> int:
            if devices < 0:
                raise StandIn.CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
            return devices

        self.cuda = SimpleNamespace(
            Stream=Stream,
            Device=lambda: SimpleNamespace(id=0, compute_capability=capability),
            runtime=SimpleNamespace(getDeviceCount=count, CUDARuntimeError=self.CUDARuntimeError),
            driver=SimpleNamespace(CUDADriverError=self.CUDADriverError),
        )
        self.RawModule, self.uint8 = RawModule, np.uint8

    def empty(self, size: int, dtype: type) -> "Octets":
        assert self.recorded is None, "memory is allocated within a capture"
        memory = self.host.allocate(size)
        return Octets(memory.array, memory.address, memory)


class Octets:
    def __init__(self, array: np.ndarray, address: int, held: object = None) -> None:
        self.array, self.data, self.held = array, SimpleNamespace(ptr=address), held

    def __getitem__(self, key: slice) -> "Octets":
        return Octets(self.array[key], 0)

    def set(self, octets: np.ndarray, stream: object) -> None:
        self.array[:] = octets

    def get(self, stream: object, out: np.ndarray) -> None:
        out[:] = self.array


@pytest.fixture
def cupy(monkeypatch, host, tmp_path):
    """Puts a stand-in in place of CuPy and of its compiler."""
    monkeypatch.setattr(loading, "_folder", lambda: tmp_path)

    def place(**how) -> StandIn:
        module = StandIn(host(), **how)
        monkeypatch.setitem(sys.modules, "cupy", module)  # type: ignore[arg-type]
        for name in ("cupy_backends", "cupy_backends.cuda"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        libraries = SimpleNamespace(nvrtc=Compiler())
        monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", libraries)  # type: ignore[arg-type]
        return module

    return place


class Compiler:
    """As much of CuPy's NVRTC as the launcher uses."""

    class NVRTCError(RuntimeError):
        pass

    def __init__(self) -> None:
        self.programs: list[tuple[str, ...]] = []

    def getVersion(self) -> tuple[int, int]:
        return (13, 0)

    def createProgram(self, text: str, name: str, headers: tuple, include_names: tuple) -> int:
        assert "#include" not in text
        return 1

    def compileProgram(self, program: int, options: tuple[str, ...]) -> None:
        self.programs.append(options)
        if "sm_150" in options[-1]:
            raise self.NVRTCError("NVRTC_ERROR_INVALID_OPTION")

    def getCUBIN(self, program: int) -> bytes:
        return b"machine code"

    def getProgramLog(self, program: int) -> str:
        return "nvrtc: error: invalid value for --gpu-architecture"

    def destroyProgram(self, program: int) -> None:
        pass


def test_networks_run_captured_once_a_batch_size(cupy, random) -> None:
    module = cupy()
    source = random(11)
    graph = source.graph()
    executor = Executor(graph)
    for batch in (3, 5, 3, 3):
        x = source.inputs(graph, batch)
        assert np.array_equal(executor.run(x), reference.Executor(graph).run(x))
    assert module.graphs == 2
    before = module.loaded
    executor.trace(x)
    assert module.loaded <= before + 2  # each source once, not once a kernel


def test_many_networks_run_through_the_launcher(cupy, random) -> None:
    cupy()
    for seed in range(20):
        source = random(seed + 50)
        graph = source.graph()
        x = source.inputs(graph, 3)
        found, expected = Executor(graph, sums=SUMS_BY[seed % 3]).trace(x), reference.Executor(graph).trace(x)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_without_cupy_the_error_says_how_to_get_it(monkeypatch, random) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"needs CuPy.*pip install -e '\.\[gpu\]' in the clone.*backend='native'"):
        Executor(random(0).graph())


def test_without_a_driver_or_a_device_the_error_says_so(cupy) -> None:
    cupy(devices=-1)
    with pytest.raises(DeviceError, match="no NVIDIA driver or device.*InsufficientDriver.*native"):
        CupyLauncher()
    cupy(devices=0)
    with pytest.raises(DeviceError, match="no NVIDIA device.*native"):
        CupyLauncher()


@pytest.mark.parametrize(("capability", "told"), [("75", "7.5"), ("61", "6.1")])
def test_a_device_that_is_too_old_is_refused_with_both_versions(cupy, capability, told) -> None:
    cupy(capability=capability)
    with pytest.raises(DeviceError, match=rf"8\.0 or later \(device 0 has {told}\).*native"):
        CupyLauncher()


def test_a_device_newer_than_the_compiler_is_refused_with_its_log(cupy, random) -> None:
    cupy(capability="150")
    source = random(0)
    graph = source.graph()
    with pytest.raises(DeviceError, match=r"NVRTC 13\.0 .*sm_150.*invalid value.*update cupy.*native"):
        Executor(graph).run(source.inputs(graph, 1))


def test_a_driver_that_does_not_load_the_kernels_is_told_from_a_compiler(cupy, random) -> None:
    module = cupy()

    def refuse(self, name: str):
        raise StandIn.CUDADriverError("CUDA_ERROR_NO_BINARY_FOR_GPU")

    module.RawModule.get_function = refuse
    source = random(0)
    graph = source.graph()
    with pytest.raises(DeviceError, match=r"loaded on .*9\.0 \(CUDA_ERROR_NO_BINARY.*driver may be older"):
        Executor(graph).run(source.inputs(graph, 1))


def test_kernels_are_compiled_once_and_kept_between_processes(cupy, random, monkeypatch, tmp_path) -> None:
    source = random(1)
    graph = source.graph()
    for programs in (1, 0):
        cupy()
        Executor(graph).run(source.inputs(graph, 2))
        compiler = sys.modules["cupy_backends.cuda.libs"].nvrtc
        assert bool(compiler.programs) == bool(programs)
        assert all("-ftz" not in option for options in compiler.programs for option in options)


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_the_real_cupy_without_a_device_gives_our_error(random) -> None:
    cupy: ModuleType = pytest.importorskip("cupy")
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        devices = 0
    if devices:
        pytest.skip("there is a device")
    with pytest.raises(DeviceError, match="no NVIDIA"):
        Executor(random(0).graph())


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="CuPy is not installed")
def test_the_compiler_of_the_real_cupy_makes_machine_code_without_a_device(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(loading, "_folder", lambda: tmp_path)
    try:
        code = loading.cubin("few_rows", (9, 0)).read_bytes()
    except DeviceError as error:
        assert "finds no NVRTC" in str(error) and "pip install -e '.[gpu]'" in str(error)
        pytest.skip(str(error))
    assert code[:4] == b"\x7fELF" and all(name.encode() in code for name in kernels("few_rows"))
    with pytest.raises(DeviceError, match=r"NVRTC .*sm_150.*update cupy"):
        loading.cubin("few_rows", (15, 0))


@pytest.mark.gpu
@pytest.mark.parametrize("sums", SUMS_BY)
def test_every_value_of_random_networks_on_a_device_is_the_reference(random, sums) -> None:
    launcher = CupyLauncher()
    for seed in range(100):  # 300 networks, each of several shapes
        source = random(seed)
        graph = source.graph()
        x = source.inputs(graph, (1, 2, 8, 9, 130)[seed % 5])
        executor, expected = Executor(graph, launcher=launcher, sums=sums), reference.Executor(graph).trace(x)
        found = executor.trace(x)
        assert all(np.array_equal(found[name], expected[name]) for name in expected), graph.nodes
        assert np.array_equal(executor.run(x), expected[graph.output]), graph.nodes


@pytest.mark.gpu
def test_rates_on_a_device_are_measured() -> None:
    found = rates(CupyLauncher(), turns=256)
    assert set(found) == set(WORK) and all(rate.operations > 0 for rate in found.values())
