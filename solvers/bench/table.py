"""The table of goals: measures those asked for, prints a row as soon as it is there, writes all as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from core import extension
from solvers.bench import (
    adversary,
    binaries,
    certificates,
    conic,
    layer,
    manifold,
    memory,
    optima,
    searches,
    throughput,
)
from solvers.bench.goals import Goal, Row, Setting
from solvers.bench.peers import BINARIES

MODULES = (conic, manifold, binaries, certificates, throughput, layer, optima, searches, memory, adversary)


def run(*, only: Sequence[str] | None = None, peers: Mapping[str, Path] | None = None, file: Path | None = None) -> int:
    """Measure and print; returns the exit code 0, whatever holds.

    only: ids, with or without their part ("S5", "S5 G11"). Raises ValueError for an unknown id or peer.
    """
    chosen, setting = select(only), Setting(peers or {})
    if unknown := [name for name in setting.peers if name not in BINARIES]:
        raise ValueError(f"--peer {unknown[0]}: unknown; the peers run as children are {', '.join(BINARIES)}")
    if file is not None:
        file.touch()  # a path that cannot be written is said now
    code = extension.info()
    print(f"bench: one thread, seconds of CPU, medians of 5; {code.path} kernels {code.level}{code.reason}", flush=True)
    rows: list[Row] = []
    try:
        for goal in chosen:
            rows.append(goal.row(setting))
            print(line(rows[-1]), flush=True)
    finally:
        if file is not None:
            file.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    print(summary(rows))
    return 0


def select(only: Sequence[str] | None) -> list[Goal]:
    """The goals of these ids, in the order of the table; None: all."""
    every = sorted((goal for module in MODULES for goal in module.goals()), key=_order)
    if only is None:
        return every
    asked = {name.upper() for name in only}
    known = {name for goal in every for name in _names(goal)}
    if unknown := sorted(asked - known):
        raise ValueError(f"--only {unknown[0]}: no such goal; they are {', '.join(dict.fromkeys(map(_id, every)))}")
    return [goal for goal in every if asked & _names(goal)]


def line(row: Row) -> str:
    """A row for the terminal."""
    mark = {True: "yes", False: "NO", None: "-"}[row.holds]
    measured = "none" if row.measured is None else f"{row.measured:.4g} {row.unit}"
    return f"{row.id:<18}{measured:>12}   {row.goal:<9}{mark:<5}{row.detail}"


def summary(rows: Sequence[Row]) -> str:
    """How many goals hold."""
    count = {mark: sum(row.holds is mark for row in rows) for mark in (True, False, None)}
    return f"{count[True]} hold, {count[False]} do not, {count[None]} not measured"


def _id(goal: Goal) -> str:
    return goal.id.split()[0]


def _names(goal: Goal) -> set[str]:
    return {goal.id.upper(), _id(goal).upper()}


def _order(goal: Goal) -> tuple[bool, int]:
    return _id(goal)[0] != "S", int(_id(goal)[1:])
