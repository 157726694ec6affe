"""Q5: peak memory of a solve above what the process held before, each in a process of its own.

`python -m solvers.bench.memory FILE GAP` prints it in MB.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

from solvers.bench.goals import Goal, Measured, Missing, Setting, path_of
from solvers.sdp.files.readers import read
from solvers.sdp.solver import solve

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(file: str, gap: float, _setting: Setting) -> Measured:
    """Of solving a file to a proven gap."""
    path = path_of(file)
    if not RESET.exists():
        raise Missing("only Linux resets a process's peak of memory (/proc/self/clear_refs)")
    words = [sys.executable, "-m", "solvers.bench.memory", str(path), str(gap)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr[-300:]}")
    above, before, reached = done.stdout.split()
    return Measured(float(above), f"above {float(before):.0f} MB before, gap {float(reached):.1e} proven")


def main(file: str, gap: str) -> None:
    """Solve and print MB above before, MB before, and the gap."""
    C = read(file).folded().C
    solve(np.array([[0.0, 1.0], [1.0, 0.0]]))  # loads what a first solve loads
    RESET.write_text("5")
    before = _megabytes("VmRSS")
    found = solve(C, gap=float(gap))
    if not found.proven:
        raise SystemExit(f"no proof: {found.note}")
    print(_megabytes("VmHWM") - before, before, found.gap)


def _megabytes(field: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def goals() -> list[Goal]:
    """Q5."""
    return [
        Goal("Q5 G22", "peak memory of a solve to 1e-6, n = 2000", 50, "MB", partial(peak, "gset/G22.gz", 1e-6), False),
        Goal(
            "Q5 G67",
            "peak memory of a solve to 1e-5, torus of n = 10000",
            200,
            "MB",
            partial(peak, "gset/G67.gz", 1e-5),
            False,
        ),
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
