"""Published accuracies and ours on one axis, a panel a board: what is published hollow, ours filled.

Colour tells what a number is (published, ours at the last epoch, ours at the best-validation epoch), never the method.
A published number of another recipe, or of one not known in full, is pale: no target for the points beside it.
"""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from studies.analysis import marks
from studies.published.protocols import Protocol
from studies.runner.command import counted

ROW_INCHES, WIDTH_INCHES = 0.27, 9.6
NUDGE = 0.17  # rows between the two of ours, so that equal ones are both seen
LEAST_SPREAD = 0.5  # points of accuracy, as in the accuracy figure


def parity(protocol: Protocol, table: pd.DataFrame) -> Figure | None:
    """The figure, from `comparison`; None where no cell has a number."""
    shown = table[table["n"] > 0]
    boards = [board for board in protocol.boards if (shown["board"] == board.name).any()]
    if not boards:
        return None
    counts = [int((shown["board"] == board.name).sum()) for board in boards]
    figure = Figure((WIDTH_INCHES, 1.7 + 0.95 * len(boards) + ROW_INCHES * sum(counts)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)  # inches: the longest row name would touch the edge
    axes = figure.subplots(len(boards), 1, squeeze=False, height_ratios=[count + 1 for count in counts])[:, 0]
    for ax, board in zip(axes, boards, strict=True):
        _panel(ax, shown[shown["board"] == board.name].reset_index(drop=True))
        ax.set_title(f"{board.title}\n{counted(board.epochs, 'epoch')}, {protocol.label}", loc="left")
    axes[-1].set_xlabel("test accuracy (%)")
    figure.suptitle(f"Published numbers beside ours: {protocol.label}")
    figure.legend(handles=_legend(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _panel(ax: Axes, rows: pd.DataFrame) -> None:
    theirs, last, best = _colours()
    values = pd.concat([rows["published"], rows["last"], rows["best"]]).dropna().astype(float)
    low = marks.floor(values, rows[["last", "best"]].max(axis=1).astype(float), least=LEAST_SPREAD)
    high, low_bar = _ends(rows, low)
    margin = 0.05 * max(high - low_bar, LEAST_SPREAD)
    ax.set_xlim(low_bar - margin, high + margin)
    ax.xaxis.set_major_locator(MaxNLocator(7))
    ax.yaxis.grid(False)
    ax.hlines(range(len(rows)), 0, 1, transform=ax.get_yaxis_transform(), color="0.92", lw=0.8, zorder=1)
    for y, row in enumerate(rows.to_dict("records")):
        if pd.notna(row["published"]):
            alpha = 0.55 if row["differs"] or row["unknown"] else 1.0
            spread = None if pd.isna(row["published_sd"]) else row["published_sd"]
            bar = {"mfc": "white", "mec": theirs, "ecolor": theirs, "mew": 1.3, "alpha": alpha, "zorder": 2}
            ax.errorbar(row["published"], y, xerr=spread, fmt="D", ms=5.5, elinewidth=1.3, **bar)
        _mine(ax, y - NUDGE, row["last"], row["last_sd"], low, last, "o")
        _mine(ax, y + NUDGE, row["best"], row["best_sd"], low, best, "s")
    ax.set_yticks(range(len(rows)), [_label(row) for row in rows.to_dict("records")])
    ax.set_ylim(len(rows) - 0.4, -0.6)


def _ends(rows: pd.DataFrame, low: float) -> tuple[float, float]:
    """The largest and smallest value drawn inside the axis, with the bars."""
    both = ("published", "last", "best")
    values = pd.concat([rows[name].astype(float) for name in both], ignore_index=True)
    bars = pd.concat([rows[f"{name}_sd"].astype(float) for name in both], ignore_index=True).fillna(0.0)
    inside = values >= low
    return float((values + bars)[inside].max()), float((values - bars)[inside].min())


def _mine(ax: Axes, y: float, value: float, sd: float, low: float, colour: object, shape: str) -> None:
    if pd.isna(value):
        return
    if value < low:  # far below the rest: at the edge, with its number
        left = ax.get_xlim()[0]
        ax.plot(left, y, "<", ms=5, color=colour, clip_on=False, zorder=6)
        beside = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "fontsize": 6.5, "color": "0.25"}
        ax.annotate(f"{value:.1f}", (left, y), **beside)
        return
    spread = None if pd.isna(sd) else sd
    ax.errorbar(value, y, xerr=spread, fmt=shape, ms=4.2, color=colour, elinewidth=1.3, zorder=4)


def _label(row: dict[str, object]) -> str:
    ours = f"{row['method']} · {row['prediction']}"
    return f"{ours}  [{row['label']}]" if pd.notna(row["published"]) else ours


def _colours() -> tuple[object, object, object]:
    palette = sns.color_palette("colorblind")
    return "0.35", palette[0], palette[1]


def _legend() -> list[Line2D]:
    theirs, last, best = _colours()
    published = {"ls": "", "marker": "D", "ms": 5.5, "mfc": "white", "mec": theirs, "mew": 1.3}
    return [
        Line2D([], [], ls="", marker="o", color=last, label="ours, last epoch"),
        Line2D([], [], ls="", marker="s", color=best, label="ours, best-validation epoch"),
        Line2D([], [], **published, label="published [label], same recipe; bar: its sd"),
        Line2D([], [], **published, alpha=0.55, label="pale: another recipe, or one not known in full"),
    ]
