"""What a timing must be read beside: processor, cores, memory, load; and the peak memory of one cell."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def facts() -> dict[str, Any]:
    """Processor, usable cores, memory in MiB, operating system, load average over one minute."""
    return {"cpu": cpu(), "cores": cores(), "memory_mb": memory_mb(), "system": platform.platform(), "load": load()}


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_mb() -> float:
    """Physical memory, MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20


def load() -> float:
    """Load average over one minute."""
    return os.getloadavg()[0]


def reset_peak_memory() -> None:
    """Count the peak anew, where Linux lets a process do so; elsewhere the peak is that of the process so far."""
    if _CLEAR.exists() and os.access(_CLEAR, os.W_OK):
        _CLEAR.write_text("5")


def peak_memory_mb() -> float:
    """Largest resident memory since `reset_peak_memory`, MiB."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
