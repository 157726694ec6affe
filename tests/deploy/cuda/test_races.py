"""The kernels under ThreadSanitizer: no two threads of a block touch shared memory unordered, and it would be seen."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.deploy.cuda.compiler import HERE
from core.deploy.cuda.host import built
from core.deploy.cuda.launcher import DeviceError

ROOT = HERE.parents[2]
# 4 stages of 1024 bits and some: the ring of 3 comes round. 40 rows x 70 outputs end within tiles.
CHILD = """
import sys
from pathlib import Path
import numpy as np
from core.deploy import reference
from core.deploy.cuda.backend import Executor
from core.deploy.cuda.host import HostLauncher
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.operations import Binarize, Threshold
from core.deploy.packing import pack_bits
from core.deploy.sums import BinConv2d, BinLinear, IntConv2d

rng = np.random.default_rng(0)
def bits(*shape):
    return pack_bits(rng.integers(0, 2, shape).astype(np.bool_))
def linear(k, n):
    return Graph(Input((k,), Value("f32", (1, 1, k))), (
        Node("bits", Binarize(np.zeros(k, np.float32)), ("input",)),
        Node("sums", BinLinear(bits(n, 1, 1, k)), ("bits",)),
        Node("signs", Threshold(np.zeros(n, np.int32), bits(n)), ("sums",))), "signs")
def convolution():
    return Graph(Input((5, 6, 6), Value("u8", (6, 6, 5))), (
        Node("pixels", IntConv2d(bits(40, 3, 3, 5), padding=1), ("input",)),
        Node("signs", Threshold(np.full(40, 300, np.int32), bits(40)), ("pixels",)),
        Node("sums", BinConv2d(bits(70, 3, 3, 40), padding=1), ("signs",))), "sums")

launcher = HostLauncher(Path(sys.argv[1]))
launcher.skip_barriers(int(sys.argv[2]))
for graph, batch in ((linear(4500, 70), 40), (linear(300, 40), 3), (convolution(), 2)):
    real = graph.input.value.kind == "f32"
    x = rng.integers(-9 * real, 10, (batch, *graph.input.raw_shape)).astype(np.float32 if real else np.uint8)
    for sums in sys.argv[3].split(","):
        same = np.array_equal(Executor(graph, launcher=launcher, sums=sums).run(x), reference.Executor(graph).run(x))
        assert same or sys.argv[2] != "0", (graph, sums)
print("done")
"""


@pytest.fixture(scope="session")
def watched(folder: Path) -> tuple[Path, Path]:
    """The kernels built for ThreadSanitizer, and its library."""
    asked = subprocess.run(["g++", "-print-file-name=libtsan.so"], capture_output=True, text=True)
    runtime = Path(asked.stdout.strip())
    if not runtime.is_absolute():
        pytest.skip("this compiler has no ThreadSanitizer")
    try:
        return built(folder, sanitizer="thread"), runtime.resolve()
    except DeviceError as error:
        pytest.skip(str(error))


def reports(watched: tuple[Path, Path], *, without: int = 0, sums: str = "auto,tile,mma") -> list[str]:
    """The races seen while networks run, with the barriers on line `without` of a source taken out."""
    library, runtime = watched
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(library), str(without), sums],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"LD_PRELOAD": str(runtime), "TSAN_OPTIONS": "exitcode=0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert ran.stdout == "done\n", ran.stderr[-3000:]
    return re.findall(r"SUMMARY: ThreadSanitizer: (.*)", ran.stderr)


KERNELS = {"tile": "tile", "bit_mma": "mma", "few_rows": "auto"}  # a source, and the choice that runs its kernels


def barriers(name: str) -> list[int]:
    text = (HERE / f"{name}.cu").read_text().splitlines()
    return [number for number, line in enumerate(text, 1) if "__syncthreads()" in line]


def test_no_kernel_has_a_race(watched) -> None:
    assert reports(watched) == []


@pytest.mark.parametrize(
    ("name", "sums", "line"),
    [(name, sums, line) for name, sums in KERNELS.items() for line in barriers(name)],
)
def test_every_barrier_is_needed_and_its_loss_is_seen(watched, name, sums, line) -> None:
    found = reports(watched, without=line, sums=sums)
    assert found and all("data race" in report for report in found)
