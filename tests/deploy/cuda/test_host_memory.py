"""No kernel reads or writes beyond what it is given: memory that ends where no page is, in a process that may die."""

import subprocess
import sys
from pathlib import Path

from core.deploy.cuda.compiler import HERE

ROOT = HERE.parents[2]
GUARDED = """
import ctypes
import mmap
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(sys.argv[2])))
from conftest import Random
from core.deploy.cuda.backend import Executor
from core.deploy.cuda.host import HostLauncher
from core.deploy.cuda.launcher import Memory
from core.deploy.cuda.sum_steps import SUMS_BY

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

class Guarded(HostLauncher):
    def allocate(self, size):
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = mmap.mmap(-1, pages + 2 * mmap.PAGESIZE)
        array = np.frombuffer(whole, np.uint8)
        for start in (0, pages + mmap.PAGESIZE):
            assert not libc.mprotect(array.ctypes.data + start, mmap.PAGESIZE, 0)
        begin = mmap.PAGESIZE + pages - -(-size // 16) * 16  # kernels read at most 16 bytes at once, where those begin
        array[begin : begin + size] = 0xA5
        return Memory(array[begin : begin + size], array.ctypes.data + begin)

launcher = Guarded(Path(sys.argv[1]))
if sys.argv[3] == "beyond":
    memory = launcher.allocate(64)
    ctypes.string_at(memory.address, 65)
for seed in range(60):
    source = Random(np.random.default_rng(7000 + seed))
    graph = source.graph(4)
    x = source.inputs(graph, (1, 3, 9, 130)[seed % 4])
    Executor(graph, launcher=launcher, sums=SUMS_BY[seed % 3]).run(x)
print("done")
"""


def run(library: Path, how: str) -> subprocess.CompletedProcess[str]:
    """The child; 16 bytes are the grain of what it can see."""
    command = [sys.executable, "-c", GUARDED, str(library), str(Path(__file__).parent), how]
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)


def test_no_kernel_leaves_its_memory(library: Path) -> None:
    ran = run(library, "within")
    assert ran.returncode == 0 and ran.stdout == "done\n", (ran.returncode, ran.stderr[-2000:])


def test_the_guard_sees_one_byte_beyond(library: Path) -> None:
    assert run(library, "beyond").returncode == -11  # SIGSEGV
