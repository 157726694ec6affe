"""What was certified as tables on a screen, one a layer with its scope under it, and as files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from studies.certifying import link
from studies.certifying.heuristics import LEAST_SQUARES
from studies.certifying.rows import frame
from studies.certifying.study import Certified
from studies.certifying.training import Refused

TRAINED = "ste"
SHOWN = (LEAST_SQUARES, TRAINED, "lowrank-sdp", "GW + 1-opt")  # in figures of a neuron and in the document
WIDTH = 132  # columns of a log line
SCOPE = (
    "Scope: bounds hold for each neuron and their sum for the layer, given its inputs, targets and scale; they say "
    "nothing of the network end to end."
)
COLUMNS = {
    "entry": "",
    "gap": "gap",
    "worst": "worst",
    "last": "last",
    "polished": "+1-opt",
    "share": "of signs'\ncost",
    "above": "above\nbest",
    "method": "method\nerror",
    "relaxation": "relaxation\nerror",
    "proven": "proven",
    "seconds": "CPU s",
    "note": "",
}
LEGEND = (
    "Percent, of sums over the layer. gap: certified, (value - bound) / value; of what is trained, the best of all "
    "looks. worst: neuron. last: final weights, mean over restarts at the rate best for them. +1-opt: after single "
    "flips. of signs' cost: (value - bound) / (value - least-squares floor). above best: above the best signs of any "
    "entry. method error, relaxation error: the gap split at the enumerated optimum. CPU s: tuning and restarts, which "
    "have as long for every method. xR, runs: rate over the default, tuned by the best looks; all runs, of any rate."
)
LINK = (
    "relaxed value: of <C, V V'>, which training minimises; the bound is of its least. All draws: their exact "
    "expectation, by 2K passes over the layer a step, K the rank. ste: at the rate that the study tuned."
)


def show(found: Sequence[Certified], refused: Sequence[Refused], console: Console) -> None:
    """Print every layer's table, the link's, and what must hold and does not."""
    console.print(LEGEND)
    for layer in found:
        console.print()
        console.print(_heading(layer))
        console.print(_table(summary(layer)))
        console.print(SCOPE)
    if any(layer.points for layer in found):
        console.print()
        console.print(_link([point for layer in found for point in layer.points]))
        console.print(LINK)
        console.print(SCOPE)
    for entry in refused:
        console.print(f"not run: {entry.method} ({entry.reason})")
    said = [doubt for layer in found for doubt in layer.doubts()]
    proven = sum(row.proven for layer in found for row in layer.rows)
    rows = sum(len(layer.rows) for layer in found)
    console.print(f"\n{len(found)} layers, {rows} rows, {proven} of them against a proven bound")
    for doubt in said:
        console.print(f"FAILS: {doubt}", style="bold red", soft_wrap=True)


def summary(layer: Certified) -> pd.DataFrame:
    """One row an entry: sums over the layer's neurons as percentages; nan where there is nothing to say."""
    data = frame(layer.rows)
    lines = []
    for entry, rows in data.groupby("entry", sort=False):
        total, bound, best, optimum = (float(rows[c].sum(skipna=False)) for c in ("value", "bound", "best", "optimum"))
        floor, last, polished = (float(rows[c].sum(skipna=False)) for c in ("floor", "last", "polished"))
        lines.append(
            {
                "entry": entry,
                "gap": 1 - bound / total,
                "worst": float(rows["gap"].max()),
                "last": 1 - bound / last,
                "polished": 1 - bound / polished,
                "share": (total - bound) / (total - floor),
                "above": total / best - 1,
                "method": (total - optimum) / total,
                "relaxation": (optimum - bound) / total,
                "proven": bool(rows["proven"].all()),
                "seconds": float(rows["seconds"].iloc[0]),
                "note": str(rows["note"].iloc[0]),
            }
        )
    return pd.DataFrame(lines)


def write(found: Sequence[Certified], folder: Path) -> list[Path]:
    """rows.json (one object a row, one a line), link.json alike, and table.csv; the paths."""
    table = pd.concat([summary(layer).assign(layer=layer.layer) for layer in found])
    paths = [folder / name for name in ("rows.json", "link.json", "table.csv")]
    paths[0].write_text(listed([row.plain() for layer in found for row in layer.rows]), encoding="utf-8")
    paths[1].write_text(listed([point.plain() for layer in found for point in layer.points]), encoding="utf-8")
    table[["layer", *COLUMNS]].to_csv(paths[2], index=False)
    return paths


def markdown(table: pd.DataFrame) -> str:
    """Certified gaps of the layers' sums, a row a layer, of the entries that the figures show; from table.csv."""
    head = ["layer", *SHOWN, f"{TRAINED}, final weights"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for layer, rows in table.groupby("layer", sort=False):
        by_entry = rows.set_index("entry")
        gaps = [*(by_entry.loc[entry, "gap"] for entry in SHOWN), by_entry.loc[TRAINED, "last"]]
        lines.append(f"| {layer} | " + " | ".join(f"{100 * gap:.1f}" for gap in gaps) + " |")
    return "\n".join(lines)


def listed(objects: Sequence[dict[str, object]]) -> str:
    """A JSON list, one object a line."""
    lines = ",\n".join(json.dumps(fields, allow_nan=False) for fields in objects)
    return f"[\n{lines}\n]\n"


def _heading(layer: Certified) -> str:
    data = frame(layer.rows).drop_duplicates("neuron")
    one = data.iloc[0]
    best, bound = data["best"].sum(), data["bound"].sum()
    return (
        f"{layer.layer}: {len(data)} neurons of {one['n']} weights, {one['examples']} examples; {layer.about}\n"
        f"bound {bound / best:.1%} of the best found ({data['proven'].sum()}/{len(data)} proven, "
        f"{one['bound_seconds']:.2f} s in all); box relaxation {data['box'].sum() / best:.1%} (estimate); "
        f"least-squares floor {data['floor'].sum() / best:.1%}; ||y||^2 {data['norm'].sum() / best:.3g} times it"
    )


def _table(lines: pd.DataFrame) -> Table:
    table = _empty(COLUMNS)
    for row in lines.itertuples(index=False):
        cells = [_cell(getattr(row, column)) for column in COLUMNS]
        cells[list(COLUMNS).index("seconds")] = f"{row.seconds:.2f}" if row.seconds >= 0.005 else "<0.01"
        table.add_row(*cells)
    return table


def _link(points: Sequence[link.Point]) -> Table:
    data = pd.DataFrame([vars(point) for point in points])
    last = data.sort_values("step").groupby(["problem", "layer", "run"], sort=False).tail(1)
    table = _empty(
        {
            "run": "The SDP inside training: percent above the certified bound",
            "relaxed": "relaxed\nvalue",
            "worst": "worst\nneuron",
            "signs": "final\nsigns",
            "best": "best signs\nof run",
            "step": "steps",
            "passes": "passes\na step",
        }
    )
    for row in data[["problem", "layer", "run"]].drop_duplicates().merge(last).itertuples(index=False):
        numbers = (_fine(row.relaxed), _fine(row.worst), _cell(row.signs), _cell(row.best))
        table.add_row(f"{row.problem}, {row.layer}: {row.run}", *numbers, str(row.step), str(row.passes))
    return table


def _empty(columns: dict[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name, title in columns.items():
        words = name in ("entry", "note", "run")
        table.add_column(Text(title), justify="left" if words else "right", overflow="fold", no_wrap=words)
    return table


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{100 * value:.2f}" if math.isfinite(value) else "–"
    return str(value)


def _fine(value: float) -> str:
    return f"{100 * value:.4f}" if math.isfinite(value) else "–"
