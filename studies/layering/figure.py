"""The layerwise study drawn: accuracy against seconds, and each layer from its proven bound to its error."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from studies.analysis import figures
from studies.layering.study import REAL, SCRATCH, WAYS

ORDER = (REAL, *WAYS.values(), SCRATCH)


def draw(of_networks: pd.DataFrame, of_layers: pd.DataFrame, folder: Path) -> list[Path]:
    """layerwise.png and layerwise.pdf in `folder`."""
    colours = dict(zip(ORDER, sns.color_palette("colorblind", len(ORDER)), strict=True))
    with figures.style():
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _accuracy(left, of_networks, colours)
        _layers(right, of_layers, colours)
        folder.mkdir(parents=True, exist_ok=True)
        return figures.save(figure, folder / "layerwise")


def _accuracy(axis: Axes, table: pd.DataFrame, colours: dict[str, tuple[float, float, float]]) -> None:
    for network, block in table.groupby("network", sort=False):
        block = block.sort_values("seconds")
        error = 100 * block["sd"].fillna(0)
        style = "-" if len(block) > 1 else "none"
        axis.errorbar(
            block["seconds"],
            100 * block["accuracy"],
            yerr=error,
            color=colours[network],
            marker="o",
            linestyle=style,
            capsize=3,
            label=network,
        )
    axis.set(xscale="log", xlabel="seconds of training, all included", ylabel="test accuracy, %")
    axis.set_title("Test accuracy against time")
    near = table["seconds"].max() < 15 * table["seconds"].min()
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if near else (1, 3)))  # labels have room
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.legend(fontsize=8)


def _layers(axis: Axes, table: pd.DataFrame, colours: dict[str, tuple[float, float, float]]) -> None:
    """A bar a certified layer from bound to error; the errors of the other ways and what real weights leave with it."""
    axis.set_title("Certified layers: a bar from the bound to the error")
    axis.set(ylabel="share of a neuron's variance", xlabel="layer")
    if not len(table):
        return
    names = list(dict.fromkeys(table["layer"]))
    means = table.groupby(["network", "layer"])[["error", "floor"]].mean()
    for place, layer in enumerate(names):
        for way, marker in zip(WAYS.values(), ("s", "^", "o"), strict=True):
            if (way, layer) in means.index:
                axis.plot(place, means.loc[(way, layer), "error"], marker, color=colours[way], label=way, zorder=3)
        certified = table[(table["layer"] == layer) & (table["network"] == WAYS["sdp"])]
        if "bound" in certified and certified["bound"].notna().any():
            low, high = certified["bound"].mean(), certified["error"].mean()
            axis.bar(place, high - low, bottom=low, width=0.5, color=colours[WAYS["sdp"]], alpha=0.35)
            floor = means.loc[(WAYS["sdp"], layer), "floor"]
            axis.hlines(floor, place - 0.25, place + 0.25, color="0.3", linestyle=":", label="real weights (floor)")
    axis.set_xticks(range(len(names)), [name.removesuffix(".law") for name in names])
    axis.set_ylim(bottom=0)
    labels = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(labels.values(), labels.keys(), fontsize=8)
