"""Timings as a frame with ratios, a table for the terminal and for docs/performance.md, and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from studies.analysis import figures
from studies.speeding.steps import DEFAULT_ADAM, Entry

COLUMNS = ("network", "method", "path", "ms", "ratio_to_ste", "ratio_to_full_precision", "peak_mb")


def frame(ms: Mapping[Entry, float], peak: Mapping[Entry, float]) -> pd.DataFrame:
    """One row an entry, columns COLUMNS and `ratio_to_fused_adam`.

    ratio_to_ste: to the fastest STE on the network; ratio_to_full_precision: to the control with default Adam, the
    other to the same with fused Adam; none (nan) where that was not timed.
    """
    rows = pd.DataFrame(
        [
            {"network": e.network, "method": e.method, "path": e.path, "ms": t, "peak_mb": peak.get(e)}
            for e, t in ms.items()
        ]
    )
    for column, method in (
        ("ratio_to_ste", "ste"),
        ("ratio_to_full_precision", DEFAULT_ADAM),
        ("ratio_to_fused_adam", "full-precision"),
    ):
        fastest = rows[rows["method"] == method].groupby("network")["ms"].min()
        rows[column] = rows["ms"] / rows["network"].map(fastest)
    return rows[[*COLUMNS, "ratio_to_fused_adam"]]


def table(rows: pd.DataFrame) -> str:
    """A Markdown table, networks in the order timed, fastest first."""
    lines = [
        "| network | method | path | ms a step | to STE | to full precision (default Adam) | (fused Adam) | peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for _, block in rows.groupby("network", sort=False):
        for row in block.sort_values("ms").itertuples():
            ratios = (row.ratio_to_ste, row.ratio_to_full_precision, row.ratio_to_fused_adam)
            cells = [row.network, row.method, row.path, f"{row.ms:.2f}", *map(_ratio, ratios), _whole(row.peak_mb)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: pd.DataFrame, folder: Path) -> list[Path]:
    """Steps and memory of every method beside each other, one row of panels a network: speed.png and speed.pdf."""
    networks = list(dict.fromkeys(rows["network"]))
    palette = dict(zip(("native", "torch", "eager"), sns.color_palette("colorblind", 3), strict=True))
    with figures.style():
        figure = Figure(figsize=(10, 0.9 + 0.27 * len(rows)), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.15)  # inches: the longest label kept off the edge
        heights = [max(2, int((rows["network"] == network).sum())) for network in networks]
        panels = figure.subplots(len(networks), 2, squeeze=False, height_ratios=heights)
        for (left, right), network in zip(panels, networks, strict=True):
            block = rows[rows["network"] == network].sort_values("ms")
            labels = [f"{m} ({p})" for m, p in zip(block["method"], block["path"], strict=True)]
            colours = [palette[path] for path in block["path"]]
            left.barh(labels, block["ms"], color=colours)
            left.invert_yaxis()
            left.set(title=network, xlabel="CPU ms a step (median of rounds, one thread)")
            right.barh(labels, block["peak_mb"], color=colours)
            right.invert_yaxis()
            right.set(title=network, xlabel="peak MB above the imported process", yticklabels=[])
            for axis, values, form in ((left, block["ms"], "{:.1f}"), (right, block["peak_mb"], "{:.0f}")):
                axis.bar_label(axis.containers[0], [form.format(v) for v in values], padding=3, fontsize=7)
                axis.margins(x=0.12)
        return figures.save(figure, folder / "speed")


def _ratio(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


def _whole(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.0f}"
