"""Peak memory of a training run, each in a fresh process forked from one that has only imported.

In MiB of resident memory at its peak over five steps, above what the process held before; what torch loads at first use
is loaded before by two steps of a tiny network with the same layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context

import torch

from studies.runner import machine
from studies.speeding.steps import Entry, advance, started


def peaks_mb(entries: Sequence[Entry]) -> dict[Entry, float]:
    """MiB above the imported process, for each entry in a child of its own, one after the other."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return dict(zip(entries, pool.map(_peak_mb, entries, chunksize=1), strict=True))


def _peak_mb(entry: Entry) -> float:
    torch.set_num_threads(1)
    advance(started(replace(entry, network=f"{entry.network}, tiny")), entry.path, 2)
    machine.reset_peak_memory()
    before = machine.peak_memory_mb()
    advance(started(entry), entry.path, 5)
    return machine.peak_memory_mb() - before
