"""What a goal is, what was measured against it, and why one cannot be measured on this machine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeAlias

from solvers.sdp.files.instance import Instance
from solvers.sdp.files.readers import read
from solvers.sdp.solution import Solution
from solvers.sdp.solver import solve


class Unmeasured(Exception):
    """Why a goal has no number; its row says so, and the table goes on."""


class Missing(Unmeasured):
    """What a goal needs and this machine does not have."""


class Failed(Unmeasured):
    """A peer that ended without an answer."""


@dataclass(frozen=True)
class Setting:
    """What the command was told: the peers' binaries by name."""

    peers: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """A number, how it came about, and whether what else the goal asks for (a proof, a count) holds."""

    value: int | float
    detail: str
    also: bool = True


Measure: TypeAlias = Callable[[Setting], Measured]


@dataclass(frozen=True)
class Goal:
    """A line of the table. id: of the goal, and of its part where it has several. least: measured >= target, or <=."""

    id: str
    what: str
    target: int | float
    unit: str
    measure: Measure
    least: bool = True

    @property
    def wanted(self) -> str:
        """The goal in words."""
        return f"{'>=' if self.least else '<='} {self.target:g}"

    def row(self, setting: Setting) -> Row:
        """Measure."""
        try:
            found = self.measure(setting)
        except Unmeasured as reason:
            return Row(self.id, None, self.wanted, None, self.unit, f"{self.what}: {reason}")
        reached = found.value >= self.target if self.least else found.value <= self.target
        measured = found.value if math.isfinite(found.value) else None  # JSON has no infinity
        holds = bool(reached and found.also)
        return Row(self.id, measured, self.wanted, holds, self.unit, f"{self.what}: {found.detail}")


@dataclass(frozen=True)
class Row:
    """A goal as measured. measured: None unless finite; holds: None where nothing was tried; `detail` says why."""

    id: str
    measured: int | float | None
    goal: str
    holds: bool | None
    unit: str
    detail: str


def folder() -> Path:
    """The folder of instances, sdp in BITRELAX_DATA. Raises Missing without it."""
    root = os.environ.get("BITRELAX_DATA")
    if not root or not (path := Path(root) / "sdp").is_dir():
        raise Missing("BITRELAX_DATA names no folder with a folder sdp of instances in it")
    return path


def path_of(file: str) -> Path:
    """An instance's file by its path under the folder of instances. Raises Missing."""
    path = folder() / file
    if not path.exists():
        raise Missing(f"BITRELAX_DATA has no sdp/{file}")
    return path


@cache
def instance(file: str) -> Instance:
    """An instance by its path under the folder of instances; its offset is in C, so gaps are of its objective."""
    return read(path_of(file)).folded()


def ours(file: str, gap: float) -> Callable[[], Solution]:
    """Solves an instance to a proven relative gap."""
    C = instance(file).C
    return lambda: solve(C, gap=gap)


def proven(solution: Solution, gap: float) -> bool:
    """Whether a gap was proven."""
    return solution.proven and solution.gap <= gap


def words(solution: Solution) -> str:
    """What ours reached."""
    kind = "proven" if solution.proven else "not proven"
    count = solution.factorisations
    return f"gap {solution.gap:.1e} {kind}, rank {solution.rank}, {count} factorisation{'s' * (count != 1)}"
