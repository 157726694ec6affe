"""Peak memory of a training run, in a fresh process: `python -m studies.speeding.memory NETWORK METHOD PATH`.

Prints MiB of resident memory at its peak over five steps, above what the imported process held before the run.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import torch

from studies.runner import machine
from studies.speeding.steps import Entry, advance, started


def peak_mb(entry: Entry) -> float:
    """MiB above the imported process, measured in a child."""
    words = [sys.executable, "-m", __name__, entry.network, entry.method, entry.path]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {entry} failed:\n{done.stderr.strip()}")
    return float(done.stdout)


def _measured(entry: Entry) -> float:
    torch.set_num_threads(1)
    advance(started(replace(entry, network=f"{entry.network}, tiny")), entry.path, 2)  # what torch loads at first use
    machine.reset_peak_memory()
    before = machine.peak_memory_mb()
    advance(started(entry), entry.path, 5)
    return machine.peak_memory_mb() - before


if __name__ == "__main__":
    print(_measured(Entry(*sys.argv[1:])))
