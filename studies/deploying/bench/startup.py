"""C10: what running a packed network costs before and beside its work: import, one call, installation."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from core.deploy.form import Graph, Input, Node, Value
from core.deploy.native import Executor
from core.deploy.operations import Affine
from studies.deploying.bench.goals import Bench, Case, Failed, Found, Goal, Measured, Missing, Section, Unmeasured

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 600  # seconds for an installation
HEAVY = ("torch", "pandas", "scipy", "jaxtyping")
IMPORT = """
import sys, time
start = time.perf_counter()
import core.deploy
took = time.perf_counter() - start
print(took, *[name for name in {heavy!r} if name in sys.modules])
"""
GOALS = (
    Goal("C10 import", "import core.deploy in a fresh process, with numpy, without torch", 0.15, "s", least=False),
    Goal("C10 call", "one call of the native executor on the smallest network", 1.0, "us", least=False),
    Goal("C10 install", "pip install -e . in a fresh environment, without its dependencies", 60, "s", least=False),
)  # fmt: skip


def measure(bench: Bench) -> Found:
    """Import and installation by the clock on the wall, in processes of their own."""
    return {
        "C10 import": imported(3 if bench.quick else 11),
        "C10 call": _call(bench),
        "C10 install": Missing("left out of a quick run") if bench.quick else installed(),
    }


def section() -> Section:
    """C10."""
    return Section(GOALS, measure)


def imported(processes: int) -> Measured:
    """Median seconds of the import. Does not hold where a heavy package came with it."""
    words = [sys.executable, "-c", IMPORT.format(heavy=HEAVY)]
    answers = [
        subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(processes)
    ]
    seconds, heavy = [float(answer[0]) for answer in answers], answers[-1][1:]
    detail = f"median of {processes}, least {min(seconds):.3g} s; heavy packages imported: {', '.join(heavy) or 'none'}"
    return Measured(statistics.median(seconds), detail, not heavy)


def installed() -> Measured | Unmeasured:
    """Seconds of the editable install of a copy of the tracked files: build requirements, kernels and all."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        copy, environment = Path(folder) / "copy", Path(folder) / "environment"
        try:
            _copied(copy)
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, capture_output=True)
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
            return Failed(f"it took more than {PATIENCE} s")
        except (OSError, subprocess.CalledProcessError) as error:
            said = " ".join(str(getattr(error, "stderr", None) or error)[-200:].split())
            return Failed(f"it failed here: {said}")
        built = any((copy / "core" / "_native").glob("_kernels*.so"))
        detail = "wall clock, build requirements fetched and the extension compiled; torch and the like are not counted"
        return Measured(took, detail if built else "no compiler: the extension was not built", built)


def _copied(folder: Path) -> None:
    """The files that git tracks. Raises CalledProcessError outside a checkout."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if not name.startswith(("results/", "tests/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def _call(bench: Bench) -> Measured:
    """Checks, conversion of the arrays, one number's work, a new array for the answer."""
    ones = np.ones(1, np.float32)
    graph = Graph(Input((1,), Value("f32", (1, 1, 1))), (Node("answer", Affine(ones, ones), ("input",)),), "answer")
    executor, x = Executor(graph), np.ones((1, 1), np.float32)
    medians = bench.time(Case("call", "smallest network"), {"ours": bench.sampler(lambda: executor.run(x))})
    return Measured(medians["ours"] * 1e6, "one float32 number, one affine; the work itself included")
