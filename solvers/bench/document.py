"""The table of goals as a document shows it, from the file that the command writes."""

from __future__ import annotations

from collections.abc import Sequence

from solvers.bench.goals import Row

HEAD = ("id", "measured", "goal", "holds", "what, and how it came about")
MARKS = {True: "yes", False: "**no**", None: "not measured"}


def markdown(rows: Sequence[Row]) -> str:
    """One line a row; what was not measured says why."""
    lines = [HEAD, ("---",) * len(HEAD), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    measured = "none" if row.measured is None else f"{row.measured:.4g} {row.unit}"
    return row.id, measured, row.goal, MARKS[row.holds], row.detail
