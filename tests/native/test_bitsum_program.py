"""The bit kernels in a C++ program of their own: on an emulated ARM core, and under the address and overflow checks."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from core import extension

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "core" / "_native"
SOURCES = [str(NATIVE / "bitsum.cpp"), str(Path(__file__).with_name("bitsum_exact.cpp"))]
COMMON = ["-std=c++17", "-ffp-contract=off", f"-I{NATIVE}"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
FLAGS = {
    "portable": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vpopcntdq", "vnni")],
}


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed here: {', '.join(missing)}")


def built(compiler: str, program: Path, flags: list[str]) -> Path:
    done = subprocess.run([compiler, *COMMON, *flags, *SOURCES, "-o", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


def check_exact(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "400 cases\n"), done.stderr


@pytest.fixture(scope="module")
def on_arm(tmp_path_factory) -> Path:
    program = tmp_path_factory.mktemp("arm") / "exact"
    return built("aarch64-linux-gnu-g++", program, ["-O3", "-static", "-DBITRELAX_LEVEL=portable"])


@needs("aarch64-linux-gnu-g++", "qemu-aarch64")
def test_neon_counts_exactly_on_an_emulated_core(on_arm):
    check_exact(["qemu-aarch64", str(on_arm)])


@needs("aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump")
def test_neon_is_what_is_compiled_for_arm(on_arm):
    listing = subprocess.run(["aarch64-linux-gnu-objdump", "-d", on_arm], capture_output=True, text=True, check=True)
    kernel = listing.stdout.partition("bit_sums_to_bits")[2]
    assert "cnt\tv" in kernel and "uaddlp\tv" in kernel


@needs("g++")
@pytest.mark.parametrize("level", extension.LEVELS if X86 else extension.LEVELS[:1])
def test_kernels_are_clean_under_sanitizers(tmp_path, level):
    if not runs(level):
        pytest.skip(f"this CPU has no {level} kernels of packed networks")
    # Not optimised: an access the optimiser would remove is checked too, and the compiler is done in two seconds.
    checked = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-DBITRELAX_LEVEL={level}"]
    check_exact([str(built("g++", tmp_path / level, [*checked, *["-DBITRELAX_X86"] * X86, *FLAGS[level]]))])


def runs(level: str) -> bool:
    kernels = extension.module()
    return level == "portable" or (kernels is not None and extension.LEVELS.index(level) <= kernels.best_packed_level())
