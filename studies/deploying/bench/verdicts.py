"""One row a goal, by its number alone, before the rows of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from studies.deploying.bench.goals import PUBLISHED, Row

WANTED = ">= 1"


def complete(rows: Sequence[Row]) -> list[Row]:
    """Sorted by goal, C before G before X, each with a row of its own: the worst of its parts, which follow it."""
    found: list[Row] = []
    for name, parts in _grouped(rows):
        if [row.id for row in parts] != [name]:
            found.append(verdict(name, parts))
        found += parts
    return found


def verdict(name: str, parts: Sequence[Row]) -> Row:
    """The goal holds where all its parts hold, does not where one does not, and is open otherwise.

    measured: the part worst off, relative to its goal, so that 1 is reached: measured / goal, or goal / measured where
    less is better; none where no part has such a number.
    """
    holds = [row.holds for row in parts]
    holding = False if False in holds else None if None in holds else True
    shares = {row.id: share for row in parts if (share := relative(row)) is not None}
    told = f"{sum(mark is True for mark in holds)} of {len(parts)} parts hold"
    if None in holds:
        told += f", {holds.count(None)} open"
    if any(row.detail.startswith("QUICK") for row in parts):
        told = f"QUICK, at small sizes: {told}"
    if not shares:
        return Row(name, None, WANTED, holding, "of the goal", f"{told}; {parts[0].id}: {parts[0].detail}")
    worst = min(shares, key=lambda part: shares[part])
    return Row(name, shares[worst], WANTED, holding, "of the goal", f"{told}; the worst one measured: {worst}")


def relative(row: Row) -> float | None:
    """measured / goal, or goal / measured where less is better; None where either is not a positive number."""
    if row.measured is None or row.goal == PUBLISHED:
        return None
    sign, target = row.goal.split()
    if float(target) <= 0 or row.measured <= 0:
        return None
    return row.measured / float(target) if sign == ">=" else float(target) / row.measured


def _grouped(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=_order):
        groups.setdefault(row.id.split()[0], []).append(row)
    yield from groups.items()


def _order(row: Row) -> tuple[str, int]:
    name = row.id.split()[0]
    return name[0], int(name[1:])
