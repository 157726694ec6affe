"""Learning curves: validation accuracy and training loss, mean over seeds with its 95 % interval, by step or second.

By second, an epoch stands at its mean time over seeds. A seed that diverged is a thin dotted line with a cross where
it ended, and in no mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from studies.analysis import marks
from studies.analysis.tables import CONFIG, interval

PANEL_INCHES, ROW_INCHES = 3.3, 2.5
SETTLED = 0.2  # the axis is chosen for what comes after this share of training; the first rise may begin below it
LEAST_SPREAD = 0.5  # points of accuracy, as in the accuracy figure
MEASURES = {"validation_accuracy": "validation accuracy (%)", "train_loss": "training loss (each method's own)"}


def by_step(curves: pd.DataFrame, title: str) -> Figure:
    """Curves over updates. curves: `tidy.labelled` of `tidy.curves`."""
    return _figure(curves.assign(at=curves["step"].astype(float)), title, "step")


def by_second(curves: pd.DataFrame, title: str) -> Figure:
    """Curves over seconds of training on the machine of the study."""
    epoch = [*CONFIG, "status", "epoch"]
    return _figure(curves.assign(at=curves.groupby(epoch)["seconds"].transform("mean")), title, "seconds of training")


def _figure(curves: pd.DataFrame, title: str, xlabel: str) -> Figure:
    names = [marks.name(*pair) for pair in zip(curves["method"], curves["variant"], strict=True)]
    curves = curves.assign(
        entry=pd.Series(names, index=curves.index, dtype="str"), validation_accuracy=100 * curves["validation_accuracy"]
    )
    entries, panels = sorted(set(names)), marks.places(curves)
    columns = min(marks.PANEL_COLUMNS, len(panels))
    height = len(MEASURES) * -(-len(panels) // columns)
    figure = Figure((1.2 + PANEL_INCHES * columns, 1.2 + ROW_INCHES * height), layout="constrained")
    axes = figure.subplots(height, columns, squeeze=False)
    for ax in axes.ravel():
        ax.set_visible(False)
    for i, place in enumerate(panels):
        top = len(MEASURES) * (i // columns)
        _problem(axes[top : top + len(MEASURES), i % columns], marks.within(curves, place), entries)
        axes[top, i % columns].set_title(marks.panel_title(place), loc="left")
        axes[top + len(MEASURES) - 1, i % columns].set_xlabel(xlabel)
    for row in range(height):
        axes[row, 0].set_ylabel(list(MEASURES.values())[row % len(MEASURES)])
    marks.head(figure, title, "Learning curves", columns)
    figure.legend(handles=_legend(entries, curves), loc="outside lower center", ncols=columns + 1, frameon=False)
    return figure


def _problem(axes: Sequence[Axes], curves: pd.DataFrame, entries: list[str]) -> None:
    """The measures of one problem, one under the other."""
    for ax, measure in zip(axes, MEASURES, strict=True):
        ax.set_visible(True)
        ax.sharex(axes[-1])
        _panel(ax, curves, measure, entries)
        ax.tick_params(labelbottom=ax is axes[-1])
    _limit_accuracy(axes[0], curves)


def _panel(ax: Axes, curves: pd.DataFrame, measure: str, entries: list[str]) -> None:
    palette, lines = marks.colours(entries), marks.dashes(entries)
    finished = curves[curves["status"] == "finished"]
    for entry, found in finished.groupby("entry"):
        look = {"color": palette[entry], "linestyle": lines[entry], "linewidth": 1.5}
        sns.lineplot(found, x="at", y=measure, errorbar=interval, err_kws={"alpha": 0.18, "lw": 0}, ax=ax, **look)
    for _, cell in curves[curves["status"] == "diverged"].groupby("key"):
        cell = cell.dropna(subset=measure)
        look = {"color": palette[cell["entry"].iloc[0]], "lw": 0.9, "ls": ":", "marker": "x", "markevery": [-1]}
        ax.plot(cell["at"], cell[measure], **look)
    if measure == "train_loss" and (curves[measure].dropna() > 0).all():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="", ylabel="")


def _limit_accuracy(ax: Axes, curves: pd.DataFrame) -> None:
    """An axis for the settled part of training; entries that end below it are named with their last value."""
    finished = curves[curves["status"] == "finished"]
    if finished.empty:
        return
    means = finished.groupby(["entry", "epoch"])["validation_accuracy"].mean().dropna()
    settled = means[means.index.get_level_values("epoch") > SETTLED * finished["epoch"].max()]
    last = means.groupby("entry").last()
    low, high = marks.floor(settled, last, least=LEAST_SPREAD), float(finished["validation_accuracy"].max())
    margin = 0.06 * max(high - low, LEAST_SPREAD)
    ax.set_ylim(low - margin, high + margin)
    below = [f"{entry} ends at {value:.1f}" for entry, value in last.items() if value < low]
    if below:
        ax.text(
            0.98, 0.03, "below: " + "\n".join(below), transform=ax.transAxes, ha="right", va="bottom", fontsize="small"
        )


def _legend(entries: list[str], curves: pd.DataFrame) -> list[Line2D]:
    palette, lines = marks.colours(entries), marks.dashes(entries)
    handles = [Line2D([], [], color=palette[entry], ls=lines[entry], lw=1.5, label=entry) for entry in entries]
    if (curves["status"] == "diverged").any():
        handles.append(Line2D([], [], color="0.4", ls=":", lw=0.9, marker="x", label="a seed that diverged"))
    return handles
