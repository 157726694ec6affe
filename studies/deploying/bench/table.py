"""Rows of goals and timings as text: a line for the terminal, the tables of bench.md, the files of data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from solvers.bench import document
from studies.deploying.bench.goals import Row, Timing

MARKS = {True: "yes", False: "NO", None: "-"}
COLUMNS = tuple(field.name for field in dataclasses.fields(Timing))
HEAD = ("kind", "case", "contender", "time", "Gop/s", "op a cycle", "share of the limit")


def line(row: Row) -> str:
    """A goal for the terminal."""
    measured = "none" if row.measured is None else f"{row.measured:.4g} {row.unit}"
    return f"{row.id:<20}{measured:>13}   {row.goal:<8}{MARKS[row.holds]:<5}{row.detail}"


def summary(rows: Sequence[Row]) -> str:
    """How many goals hold; of parts the goal's own row counts."""
    rows = [row for row in rows if " " not in row.id]
    hold, fail = (sum(row.holds is mark for row in rows) for mark in (True, False))
    unmeasured = sum(row.measured is None and row.holds is None for row in rows)
    unjudged = len(rows) - hold - fail - unmeasured
    quick = f", {unjudged} measured and not judged" if unjudged else ""
    return f"goals: {hold} hold, {fail} do not, {unmeasured} not measured{quick}"


def goals_json(rows: Sequence[Row]) -> str:
    """A list of objects, one a goal and one a part of it."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n"


def frame(timings: Sequence[Timing]) -> pd.DataFrame:
    """One line a timing, columns COLUMNS."""
    return pd.DataFrame([dataclasses.asdict(timing) for timing in timings], columns=list(COLUMNS))


def page(rows: Sequence[Row], timings: pd.DataFrame, facts: dict[str, Any]) -> str:
    """What ran where, the goals, every timing."""
    told = "; ".join(text for text in (facts["machine"]["cpu"], facts["limit"], facts["larq"]) if text)
    note = f"Seconds are medians of {facts['clock']}, every case's contenders in shuffled rounds of one process"
    lines = [f"`{facts['command']}`: {told}.", "", f"{note}{_busy(timings)}."]
    return "\n".join([*lines, "", document.markdown(rows), "", markdown(timings), ""])


def markdown(timings: pd.DataFrame) -> str:
    """Every timing, fastest first within a case."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for _, case in timings.groupby(["kind", "case"], sort=False):
        lines += [_cells(row) for row in case.sort_values("seconds").to_dict("records")]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(folder: Path, name: str, rows: Sequence[Row], timings: Sequence[Timing], facts: dict[str, Any]) -> list[Path]:
    """NAME.json (manifest and goals), NAME.csv (timings), NAME.md; the paths."""
    data, table, text = (folder / f"{name}.{kind}" for kind in ("json", "csv", "md"))
    data.write_text(
        json.dumps({"manifest": facts, "goals": [dataclasses.asdict(row) for row in rows]}, indent=1) + "\n"
    )
    found = frame(timings)
    found.to_csv(table, index=False)
    text.write_text(page(rows, found, facts))
    return [data, table, text]


def _busy(timings: pd.DataFrame) -> str:
    """How busy others were, in words."""
    busy = timings["busy_cores"].dropna()
    return f"; others kept {busy.median():.2f} cores busy (median; at most {busy.max():.2f})" if len(busy) else ""


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    rate = row["operations"] / row["seconds"] / 1e9
    return (
        row["kind"],
        row["case"],
        row["contender"],
        _time(row["seconds"]),
        f"{rate:.4g}" if rate else "",
        _number(row["operations_a_cycle"], "{:.0f}"),
        _number(row["fraction"], "{:.3f}"),
    )


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.4g} us"


def _number(value: float | None, form: str) -> str:
    return "" if value is None or pd.isna(value) else form.format(value)
