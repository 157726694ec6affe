"""The oracle's rows as tables on a screen, as files, and what failed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from studies.truth.rows import Row

WIDTH = 120  # columns of a log line
MARKS = {True: "ok", False: "FAILS", None: ""}
BIAS = "relative bias of the gradient"
PER_PROBLEM = ("neuron-folded", "neuron-squared", "neuron-logistic", "network-hardtanh", "network-sign")


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the biases by problem, the learnt laws, and the facts; then what did not hold."""
    parts = [_biases(rows), _laws(rows), _facts(rows)]
    for part in parts:
        if part.row_count:
            console.print(part)
            console.print()
    claims = [row for row in rows if row.holds is not None]
    failed = [row for row in claims if not row.holds]
    console.print(f"{len(rows)} rows, {len(claims)} with a word of theory, {len(failed)} of those not found")
    for row in failed:
        console.print(f"FAILS: {_told(row)}", style="bold red", soft_wrap=True)


def write(rows: Sequence[Row], path: Path) -> None:
    """The JSON list, one object a row, one a line."""
    lines = ",\n".join(json.dumps(row.plain(), allow_nan=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """All fields, one row a row."""
    return pd.DataFrame([vars(row) for row in rows])


def _told(row: Row) -> str:
    exact = "" if row.exact is None else f", exact {row.exact:.4g}"
    where = f"{row.problem} / {row.method} / {row.estimator}"
    return f"{where}: {row.quantity} is {row.value:.4g}{exact}, standard error {row.stderr:.2g}"


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", padding=(0, 1, 0, 0), show_edge=False)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _biases(rows: Sequence[Row]) -> Table:
    title = "Relative bias of each gradient +- its standard error; * what theory says of it was found"
    found = [row for row in rows if row.quantity.startswith(BIAS)]
    table = _by_problem(title, PER_PROBLEM)
    for (method, estimator, quantity), group in _grouped(found, lambda r: (r.method, r.estimator, r.quantity)):
        by_problem = {row.problem: row for row in group}
        about = quantity.removeprefix(f"{BIAS} of ")
        table.add_row(f"{method}: {estimator} ({about})", *(_cell(by_problem.get(p)) for p in PER_PROBLEM))
    return table


def _laws(rows: Sequence[Row]) -> Table:
    title = (
        "Learnt laws: KL to the posterior +- standard error, nats; in brackets the mode's wrong signs; * as theory says"
    )
    kinds = ("KL(learnt", "Hamming")
    found = [row for row in rows if row.quantity.startswith(kinds)]
    columns = list(dict.fromkeys(row.problem for row in found))
    table = _by_problem(title, columns)
    for (method, estimator, at), group in _grouped(
        found, lambda r: (r.method, r.estimator, r.quantity.rpartition("T=")[2])
    ):
        cells = []
        for problem in columns:
            divergence, distance = (
                next((r for r in group if r.problem == problem and r.quantity.startswith(kind)), None) for kind in kinds
            )
            cells.append(_cell(divergence) + (f" [{_number(distance.value)}]" if distance else ""))
        table.add_row(f"{method}: {estimator}, T={at}", *cells)
    return table


def _by_problem(title: str, problems: Sequence[str]) -> Table:
    return _table(title, ("",), tuple(problem.replace("-", "\n", 1) for problem in problems))


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    mark = {True: "*", False: " FAILS", None: ""}[row.holds]
    error = f"±{row.stderr:.1g}" if row.stderr > 1e-12 else ""
    return f"{_number(row.value)}{error}{mark}"


def _facts(rows: Sequence[Row]) -> Table:
    table = _table("Known facts", ("problem", "estimator", "quantity"), ("value", "exact", "stderr", ""))
    for row in rows:
        if "of the gradient of" in row.quantity or ", T=" in row.quantity or "network " in row.problem:
            continue
        numbers = (_number(row.value), _number(row.exact), _number(row.stderr))
        table.add_row(row.problem, row.estimator, row.quantity, *numbers, MARKS[row.holds])
    return table


def _grouped(
    rows: Sequence[Row], key: Callable[[Row], tuple[str, str, str]]
) -> Iterator[tuple[tuple[str, str, str], list[Row]]]:
    """Groups in order of first appearance."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    yield from groups.items()


def _number(value: Any) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return "0" if abs(value) < 1e-12 else f"{value:.3g}"
