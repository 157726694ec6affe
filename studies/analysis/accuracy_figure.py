"""Test accuracy: a row an entry, a panel a problem; mean, 95 % interval, and every seed.

Rows stand under what they cost (bits, networks averaged), since only rows of equal cost are ranked. The control (real
weights in its mode rule) is also a grey band across its panel. What lies far below the rest is drawn at the edge with
its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from studies.analysis import marks
from studies.analysis.tables import COST, cost
from studies.analysis.tidy import labelled

ROW_INCHES, PANEL_INCHES = 0.34, 2.9
SEEDS_BELOW, STACK = 0.26, 0.12  # seeds lie this far under their mean, equal ones this far apart; in rows
LEAST_SPREAD = 0.5  # points of accuracy: closer entries never make an outlier of each other


class Row(NamedTuple):
    """A row of the figure; a heading where `entry` is empty."""

    weight_bits: int
    activation_bits: int
    networks: int
    entry: str
    prediction: str


def accuracy(rows: pd.DataFrame, table: pd.DataFrame, title: str) -> Figure:
    """The figure, from `tidy.rows` and `tables.summary` of them."""
    means = _named(table[(table["metric"] == "accuracy") & (table["n"] > 0)])
    of_test = (rows["split"] == "test") & (rows["metric"] == "accuracy") & (rows["epoch"] == "last")
    seeds = _named(labelled(rows)[of_test & rows["value"].notna()])
    lines = _lines(means)
    panels = marks.places(means)
    columns = min(marks.PANEL_COLUMNS, len(panels))
    height = -(-len(panels) // columns)
    figure = Figure(
        (2.3 + PANEL_INCHES * columns, 1.5 + (0.6 + ROW_INCHES * len(lines)) * height), layout="constrained"
    )
    axes = figure.subplots(height, columns, sharey=True, squeeze=False).ravel()
    for ax, place in zip(axes, panels, strict=False):
        _panel(ax, marks.within(means, place), marks.within(seeds, place), lines)
        ax.set_title(marks.panel_title(place), loc="left")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[::columns]:
        _label(ax, lines)
    marks.head(figure, title, "Test accuracy", columns)
    figure.legend(handles=_legend(means), loc="outside lower center", ncols=columns + 1, frameon=False)
    return figure


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    names = [marks.name(*pair) for pair in zip(frame["method"], frame["variant"], strict=True)]
    return frame.assign(entry=pd.Series(names, index=frame.index, dtype="str"))


def _lines(means: pd.DataFrame) -> list[Row]:
    """The figure's rows, top first: for each cost a heading (no name), then entries from best to worst.

    The order is that of the mean over problems, the same in every panel.
    """
    overall = means.groupby([*COST, "entry", "prediction"])["mean"].mean().reset_index()
    lines: list[Row] = []
    for paid, block in overall.groupby(COST):
        lines.append(Row(*paid, "", ""))
        block = block.sort_values(["mean", "entry", "prediction"], ascending=[False, True, True])
        lines += [Row(*paid, entry, rule) for entry, rule in zip(block["entry"], block["prediction"], strict=True)]
    return lines


def _panel(ax: Axes, means: pd.DataFrame, seeds: pd.DataFrame, lines: Sequence[Row]) -> None:
    shown = pd.concat([seeds["value"], means["ci_low"].dropna()])
    low = marks.floor(100 * shown, 100 * means["mean"], least=LEAST_SPREAD)
    high = 100 * max(seeds["value"].max(), means["ci_high"].max())
    margin = 0.06 * max(high - low, LEAST_SPREAD)
    ax.set_xlim(low - margin, high + margin)
    ax.xaxis.set_major_locator(MaxNLocator(4))  # more would touch, or stand out of a narrow panel
    ax.set_xlabel("accuracy (%)")
    ax.yaxis.grid(False)
    ax.hlines(
        [y for y, line in enumerate(lines) if line.entry], 0, 1, transform=ax.get_yaxis_transform(), color="0.9", lw=0.8
    )
    _control(ax, means)
    shapes = marks.markers([line.prediction for line in lines if line.prediction])
    palette = marks.colours(sorted({line.entry for line in lines if line.entry}))
    for y, line in enumerate(lines):
        for _, row in means[_is(means, line)].iterrows():  # one, or none where the entry did not run
            colour = palette[line.entry]
            _seeds(ax, y, 100 * seeds[_is(seeds, line)]["value"], low, colour)
            _mean(ax, y, row, low, colour, shapes[line.prediction])


def _seeds(ax: Axes, y: int, values: pd.Series, low: float, colour: Any) -> None:
    """A dot a seed, equal values under each other, so that each is seen."""
    inside = values[values >= low].sort_values()
    equal = inside.round(9)
    step = min(STACK, 0.5 / equal.value_counts().max()) if len(inside) else 0.0
    depths = y + SEEDS_BELOW + step * inside.groupby(equal).cumcount()
    dots = {"color": colour, "alpha": 0.7, "linewidths": 0, "clip_on": False, "zorder": 3}
    ax.scatter(inside, depths, s=7, **dots)
    if 0 < len(inside) < len(values):
        ax.scatter(ax.get_xlim()[0], y + SEEDS_BELOW, s=14, marker="<", **dots)


def _mean(ax: Axes, y: int, row: pd.Series, low: float, colour: Any, shape: str) -> None:
    mean = 100 * row["mean"]
    if mean < low:
        left = ax.get_xlim()[0]
        ax.plot(left, y, "<", ms=6, color=colour, clip_on=False, zorder=6)
        beside = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "fontsize": "small", "color": "0.25"}
        ax.annotate(f"{mean:.1f}", (left, y), **beside)
        return
    if pd.notna(row["ci_low"]):
        ax.plot([100 * row["ci_low"], 100 * row["ci_high"]], [y, y], color=colour, lw=1.8, zorder=4)
    face = colour if row["weight_bits"] < 32 else "white"
    ax.plot(mean, y, shape, ms=6, mew=1.4, mec=colour, mfc=face, zorder=5)


def _is(frame: pd.DataFrame, line: Row) -> pd.Series:
    return (frame[list(Row._fields)] == list(line)).all(axis=1)


def _control(ax: Axes, means: pd.DataFrame) -> None:
    for _, row in means[_is_control(means)].iterrows():
        if pd.notna(row["ci_low"]):
            ax.axvspan(100 * row["ci_low"], 100 * row["ci_high"], color="0.85", lw=0, zorder=1)
        ax.axvline(100 * row["mean"], color="0.55", lw=1, zorder=1)


def _is_control(means: pd.DataFrame) -> pd.Series:
    return (means["prediction"] == "mode") & (means["weight_bits"] > 1)


def _label(ax: Axes, lines: Sequence[Row]) -> None:
    """Row names on the left of a first panel, headings in bold."""
    labels = [f"{row.entry} · {row.prediction}" if row.entry else cost(*row[: len(COST)]) for row in lines]
    ax.set_yticks(range(len(lines)), labels)
    ax.set_ylim(len(lines) - 0.15, -0.6)  # room for the seeds under the last row
    for tick, line in zip(ax.yaxis.get_major_ticks(), lines, strict=True):
        tick.label1.set_fontweight("normal" if line.entry else "bold")


def _legend(means: pd.DataFrame) -> list[Line2D | Patch]:
    def disc(**style: Any) -> Line2D:
        return Line2D([], [], **{"ls": "", "marker": "o", "ms": 6, "mec": "0.3", "mfc": "0.3", **style})

    handles: list[Line2D | Patch] = [
        disc(marker=shape, label=f"rule: {rule}") for rule, shape in marks.markers(list(means["prediction"])).items()
    ]
    if (means["weight_bits"] >= 32).any():
        handles.append(disc(mfc="white", label="hollow: real weights"))
    handles.append(disc(ms=3, mec="none", label="one seed"))
    handles.append(disc(marker="", label="W/A: bits of weights, activations"))
    if _is_control(means).any():
        handles.append(Patch(color="0.85", label="control: mean, interval"))
    return handles
