"""What `solve` and `solve_batch` are asked for, checked before any work, and the memory there is for it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np


def check_options(gap: float, rank: object, certify: str, seed: int, time_limit: float | None) -> None:
    """Raises ValueError naming the option, what it was and what it may be."""
    if not (0 < gap < math.inf):
        raise ValueError(f"gap must be a positive number, the relative gap to prove (got {gap})")
    if rank != "auto" and not (isinstance(rank, (int, np.integer)) and rank >= 1):
        raise ValueError(f"rank must be 'auto' or a positive integer, the columns to start with (got {rank!r})")
    if certify not in ("rigorous", "estimate", "none"):
        raise ValueError(f"certify must be 'rigorous', 'estimate' or 'none' (got {certify!r})")
    if seed < 0:
        raise ValueError(f"seed must be >= 0 (got {seed})")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit must be positive seconds or None (got {time_limit})")


def available_memory() -> int:
    """Bytes that can be allocated without swapping; huge where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return 2**62
    whole = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    try:  # of a container (cgroup v2): "max" where it has no limit
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return whole
    return whole if limit == "max" else min(whole, int(limit) - int(used))
