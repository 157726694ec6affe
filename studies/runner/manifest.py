"""What a folder of results must say of its making: command, versions, commit, machine, times."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from core import extension
from studies.runner import machine

PACKAGES = (
    "bitrelax",
    "torch",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "seaborn",
    "scikit-learn",
)


def manifest(command: Sequence[str], *, started: datetime, workers: int, backend: str) -> dict[str, Any]:
    """The manifest of a run that ends now, as plain JSON data; who publishes adds which records were used.

    command: program and arguments as typed. started: with time zone.
    """
    return {
        "command": shlex.join(command),
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "source": checkout(Path(__file__).resolve().parents[2]),
        "machine": machine.facts(),
        "fused_passes": str(extension.info()),
        "backend": backend,
        "workers": workers,
        "threads_per_worker": 1,
    }


def versions() -> dict[str, str | None]:
    """Python's version and those of the packages that numbers or figures depend on; None where not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def checkout(folder: Path) -> dict[str, Any]:
    """{"commit", "dirty"} of the git checkout whose root is `folder`; both None where it is not one."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():  # an installed copy inside someone else's checkout
        return {"commit": None, "dirty": None}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, None where git is absent or refuses."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
