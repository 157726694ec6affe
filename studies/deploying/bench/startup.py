"""C10: what running a packed network costs before and beside its work: import, one call, installation."""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from core import extension
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.lowering import lower
from core.deploy.native import Executor, chosen_level, kernels
from core.deploy.operations import Affine
from studies.deploying.bench import graphs
from studies.deploying.bench.goals import Bench, Case, Found, Goal, Measured, Missing, Section, Unmeasured

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 600  # seconds for an installation
HEAVY = ("torch", "pandas", "scipy", "jaxtyping")
IMPORT = """
import sys, time
start = time.process_time(), time.perf_counter()
import core.deploy
took = time.process_time() - start[0], time.perf_counter() - start[1]
print(*took, *[name for name in {heavy!r} if name in sys.modules])
"""
GOALS = (
    Goal("C10 import", "import core.deploy in a fresh process, with numpy, without torch", 0.15, "s", least=False),
    Goal("C10 call", "one native call that runs the smallest network, its two arrays checked", 1.0, "us", least=False),
    Goal("C10 install", "pip install -e . in a fresh environment, without its dependencies", 60, "s", least=False),
)  # fmt: skip


def measure(bench: Bench) -> Found:
    """Import and installation in processes of their own, installation by the clock on the wall."""
    return {
        "C10 import": imported(3 if bench.quick else 11),
        "C10 call": called(bench),
        "C10 install": Missing("left out of a quick run") if bench.quick else installed(),
    }


def section() -> Section:
    """C10."""
    return Section(GOALS, measure)


def imported(processes: int) -> Measured:
    """Median CPU seconds of the import. Does not hold where a heavy package came with it."""
    words = [sys.executable, "-c", IMPORT.format(heavy=HEAVY)]
    answers = [
        subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(processes)
    ]
    seconds, wall = (statistics.median(float(answer[place]) for answer in answers) for place in (0, 1))
    heavy = ", ".join(answers[-1][2:])
    detail = f"median CPU time of {processes}, {wall:.3g} s on the wall; heavy packages imported: {heavy or 'none'}"
    return Measured(seconds, detail, not heavy)


def installed() -> Measured | Unmeasured:
    """Seconds of the editable install of a copy of the tracked files: build requirements, kernels and all."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        copy, environment = Path(folder) / "copy", Path(folder) / "environment"
        try:
            _copied(copy)
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            return Missing(f"no copy of a checkout, or no environment, could be made: {_said(error, folder)}")
        try:
            words = [
                str(environment / "bin" / "python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "-e",
                str(copy),
            ]
            start = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True, text=True, timeout=PATIENCE)
            took = time.perf_counter() - start
        except subprocess.TimeoutExpired:
            return Measured(math.inf, f"it was stopped after {PATIENCE} s", False)
        except (OSError, subprocess.CalledProcessError) as error:
            return Measured(math.inf, f"it failed: {_said(error, folder)}", False)
        built = any((copy / "core" / "_native").glob("_kernels*.so"))
        detail = (
            "wall clock, build requirements fetched (pip's cache as found), the extension compiled; "
            "torch and the like are not counted"
        )
        return Measured(took, detail if built else "no compiler: the extension was not built", built)


def called(bench: Bench) -> Measured | Unmeasured:
    """The native call alone; beside it what making the answer's array and checking the input's values add."""
    if extension.module() is None:
        return Missing(extension.info().reason)
    ones = np.ones(1, np.float32)
    graph = Graph(Input((1,), Value("f32", (1, 1, 1))), (Node("answer", Affine(ones, ones), ("input",)),), "answer")
    level = extension.LEVELS.index(chosen_level())
    native = lower(graph, kernels(), level=level, threads=1).program.run
    executor, network = Executor(graph), graphs.packed(graph)
    x, answer = np.ones((1, 1), np.float32), np.empty((1, 1, 1, 1), np.float32)
    runs = {
        "native call": lambda: native(x, answer),
        "Executor.run": lambda: executor.run(x),
        "PackedNetwork.run": lambda: network.run(x, backend="native"),
    }
    medians = bench.time(Case("call", "smallest network"), {name: bench.sampler(run) for name, run in runs.items()})
    told = ", ".join(f"{name} {seconds * 1e6:.3g} us" for name, seconds in medians.items())
    return Measured(medians["native call"] * 1e6, f"{told}; one float32 number, one affine, the work itself included")


def _said(error: Exception, folder: str) -> str:
    """The end of what a command said, without this machine's paths."""
    said = str(getattr(error, "stderr", None) or error).replace(folder, ".").replace(str(ROOT), ".")
    return " ".join(said[-200:].split())


def _copied(folder: Path) -> None:
    """The files that git tracks. Raises CalledProcessError outside a checkout."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("results/", "tests/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
