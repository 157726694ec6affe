"""The native engine under AddressSanitizer and ThreadSanitizer: networks, changed files, changed programs, threads.

BITRELAX_FUZZ sets how many changed files are read; 100000 take some minutes.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import nanobind
import pytest

from core import extension

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "core" / "_native"
CHILD = Path(__file__).with_name("sanitized.py")
FILES = int(os.environ.get("BITRELAX_FUZZ", "3000"))
COMPILER = shutil.which("g++")
BUNDLED = Path(nanobind.source_dir())
INCLUDES = [
    nanobind.include_dir(),
    BUNDLED.parent / "ext" / "robin_map" / "include",
    NATIVE,
    sysconfig.get_paths()["include"],
]
COMMON = ["-std=c++17", "-fPIC", "-g1", "-O1", "-ffp-contract=off", "-DNDEBUG", *(f"-I{path}" for path in INCLUDES)]
LEVELS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vpopcntdq", "vnni")],
}
LEVELED = ("bitsum", "packed_panels", "packed_moves")
ENGINE = ("packed_engine", "packed_steps", "packed_sums", "packed_threads", "packed_module")

pytestmark = pytest.mark.slow


def runtime(name: str) -> str:
    """The library of a sanitizer, or nothing where the compiler has none."""
    if COMPILER is None:
        return ""
    said = subprocess.run([COMPILER, f"-print-file-name=lib{name}.so"], capture_output=True, text=True).stdout.strip()
    return said if os.path.isabs(said) else ""


def compiled(folder: Path, sanitizer: str) -> Path:
    """The module `sanitized_module.cpp` with the kernels of every level."""
    x86 = extension.LEVELS if sysconfig.get_platform().endswith("x86_64") else extension.LEVELS[:1]
    flags = [*COMMON, f"-fsanitize={sanitizer}", *["-DBITRELAX_X86"] * (len(x86) > 1)]
    jobs = [(BUNDLED / "nb_combined.cpp", folder / "nb.o", COMMON)]
    jobs += [(NATIVE / f"{part}.cpp", folder / f"{part}.o", flags) for part in ENGINE]
    jobs += [(CHILD.with_name("sanitized_module.cpp"), folder / "module.o", flags)]
    jobs += [
        (
            NATIVE / f"{kernel}.cpp",
            folder / f"{kernel}.{level}.o",
            [*flags, *LEVELS[level], f"-DBITRELAX_LEVEL={level}"],
        )
        for level in x86
        for kernel in LEVELED
    ]
    for source, made, options in jobs:
        checked([COMPILER, *options, "-c", source, "-o", made])
    module = folder / "_kernels.so"
    checked([COMPILER, "-shared", f"-fsanitize={sanitizer}", *(made for _, made, _ in jobs), "-o", module])
    return module


def checked(command: list) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def module_under(sanitizer: str, library: str, folder: Path) -> Path:
    if not runtime(library):
        pytest.skip(f"no g++ with lib{library} here")
    return compiled(folder, sanitizer)


@pytest.fixture(scope="module")
def under_address(tmp_path_factory) -> Path:
    return module_under("address", "asan", tmp_path_factory.mktemp("address"))


@pytest.fixture(scope="module")
def under_thread(tmp_path_factory) -> Path:
    return module_under("thread", "tsan", tmp_path_factory.mktemp("thread"))


def run_child(module: Path, library: str, what: str, count: int) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LD_PRELOAD": f"{runtime(library)} {runtime('stdc++')}",
        "PYTHONMALLOC": "malloc",  # else the interpreter's own blocks hide what is read beyond an array
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "TSAN_OPTIONS": "halt_on_error=1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    start = time.perf_counter()
    command = [sys.executable, str(CHILD), str(module), what, str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return f"{done.stdout.strip()} ({time.perf_counter() - start:.1f} s)"


def test_networks_of_every_operation_stay_within_their_memory(under_address, record_property):
    record_property("saw", run_child(under_address, "asan", "graphs", 60))


@pytest.mark.timeout(3300)
def test_changed_files_are_refused_or_run_within_their_memory(under_address, record_property):
    saw = run_child(under_address, "asan", "files", FILES)
    record_property("saw", saw)
    print(saw)
    numbers = {name: int(count) for count, name in (part.split()[:2] for part in saw.split(", "))}
    assert numbers["files"] == FILES and numbers["run"] > FILES / 100 and numbers["refused"] > FILES / 2


def test_changed_programs_are_refused_or_run_within_their_memory(under_address, record_property):
    record_property("saw", run_child(under_address, "asan", "programs", 4000))


def test_threads_share_steps_without_races(under_thread, record_property):
    record_property("saw", run_child(under_thread, "tsan", "threads", 12))
