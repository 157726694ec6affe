"""Three figures: certified gaps of layers; bars from each neuron's bound to what was reached; the SDP in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from studies.analysis.figures import save, style
from studies.certifying import link
from studies.certifying.report import SHOWN, TRAINED
from studies.certifying.rows import frame
from studies.certifying.study import Certified

IMPOSSIBLE = "0.86"
PANEL_COLUMNS = 3


def draw(found: Sequence[Certified], folder: Path) -> list[Path]:
    """Write overview and certify, and where the link was run link, each as .png and .pdf; the paths."""
    with style():
        written = save(overview(found), folder / "overview") + save(bars(found), folder / "certify")
        if any(layer.points for layer in found):
            written += save(curves([layer for layer in found if layer.points]), folder / "link")
    return written


def overview(found: Sequence[Certified]) -> Figure:
    """A line a layer: certified gap of the layer's sum by entry, and the part that no signs can close where known."""
    figure = Figure((8.5, 1.5 + 0.42 * len(found)), layout="constrained")
    ax = figure.subplots()
    colours = dict(zip(SHOWN, sns.color_palette("colorblind"), strict=False))
    for y, layer in enumerate(found):
        data = frame(layer.rows)
        for entry, rows in data.groupby("entry", sort=False):
            gap, last = (100 * (1 - rows["bound"].sum() / rows[c].sum(skipna=False)) for c in ("value", "last"))
            colour = colours.get(str(entry), "0.75")
            known = entry in colours
            ax.plot(gap, y, "o", color=colour, ms=8 if known else 4, zorder=3 if known else 2)
            if entry == TRAINED and math.isfinite(last):
                ax.plot(last, y, "o", mfc="none", mec=colour, mew=1.8, ms=8, zorder=3)
        facts = data.drop_duplicates("neuron")
        if facts["optimum"].notna().all():
            ax.plot(100 * (1 - facts["bound"].sum() / facts["optimum"].sum()), y, "|", color="black", ms=16, mew=1.6)
    ax.set(xlabel="certified gap of the layer's sum, % of the value", xlim=(0, None), ylim=(len(found) - 0.5, -0.5))
    ax.set_yticks(range(len(found)), [f"{layer.layer}\n{layer.rows[0].n} weights a neuron" for layer in found])
    ax.tick_params(axis="y", labelsize="small")
    handles = [Line2D([], [], color=colour, marker="o", ls="", ms=8, label=name) for name, colour in colours.items()]
    orange = colours[TRAINED]
    handles += [
        Line2D([], [], mfc="none", mec=orange, mew=1.8, marker="o", ls="", ms=8, label=f"{TRAINED}, final weights"),
        Line2D([], [], color="0.75", marker="o", ls="", ms=4, label="other methods"),
        Line2D([], [], color="black", marker="|", ls="", ms=12, mew=1.6, label="enumerated optimum"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.suptitle("No signs can be better by more than this, by certificate")
    return figure


def bars(found: Sequence[Certified]) -> Figure:
    """A row a layer: neurons at the left, sums at the right."""
    figure = Figure((12.5, 0.9 + 3.1 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 2, squeeze=False, width_ratios=(1.7, 1))
    colours = dict(zip(SHOWN, sns.color_palette("colorblind"), strict=False))
    for (left, right), layer in zip(panels, found, strict=True):
        data = frame(layer.rows)
        _neurons(left, data, colours)
        _sums(right, data, colours)
        left.set_title(f"{layer.layer}: {data['n'].iloc[0]} weights a neuron", loc="left")
        right.set_title("the layer: sums over its neurons", loc="left")
    figure.suptitle(
        "How far each neuron's signs are from any possible ones: bars from the certified bound to the value"
    )
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    handles += [
        Patch(color=IMPOSSIBLE, label="proven impossible"),
        Line2D([], [], color="black", lw=1.2, label="best signs found"),
        Line2D([], [], color="0.25", marker="|", ls="", ms=9, mew=1.6, label="final weights (sums)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize="small")
    return figure


def curves(found: Sequence[Certified]) -> Figure:
    """Value over the certified bound by step: low rank relaxed, on all draws or one; signs of STE."""
    columns = min(PANEL_COLUMNS, len(found))
    height = math.ceil(len(found) / columns)
    wide = columns == PANEL_COLUMNS
    figure = Figure((4.2 * max(columns, 2), (1.3 if wide else 2.1) + 2.9 * height), layout="constrained")
    panels = list(figure.subplots(height, columns, squeeze=False).flat)
    blue, orange, green = sns.color_palette("colorblind", 3)
    for ax, layer in zip(panels, found, strict=False):
        data = pd.DataFrame([vars(point) for point in layer.points])
        runs = {name: run.sort_values("step") for name, run in data.groupby("run")}
        for name, colour in ((link.EXACT, blue), (link.DRAWN, green)):
            ax.plot(runs[name]["step"], runs[name]["relaxed"], color=colour, lw=1.6)
        ax.plot(runs[link.STE]["step"], runs[link.STE]["signs"], color=orange, lw=0.8, alpha=0.6)
        ax.plot(runs[link.STE]["step"], runs[link.STE]["best"], color=orange, lw=1.8)
        every = frame(layer.rows).drop_duplicates("neuron")
        ax.axhline(every["best"].sum() / every["bound"].sum() - 1, color="black", ls=":", lw=1.2)
        ax.axhline(link.REACHED, color="0.5", ls="--", lw=0.8)
        ax.set(xscale="log", yscale="log", xlabel="step")
        ax.set_title(layer.layer, loc="left")
    for ax in panels[len(found) :]:
        ax.set_axis_off()
    for ax in panels[::columns]:
        ax.set_ylabel("layer sum / bound - 1")
    figure.suptitle(
        "Training on squared losses: low rank on all draws ends at the certified\n"
        "SDP value; STE's signs, as any, are above it"
    )
    passes = sorted({p.passes for layer in found for p in layer.points if p.run == link.EXACT})
    costs = " to ".join(dict.fromkeys(map(str, (passes[0], passes[-1]))))
    looks: list[tuple[str, dict[str, Any]]] = [
        (f"lowrank-sdp on all draws, {costs} passes a step: relaxed value", {"color": blue}),
        ("lowrank-sdp on one draw, one pass a step: relaxed value", {"color": green}),
        ("ste, one pass a step: its signs (pale), the best so far", {"color": orange}),
        ("best signs any entry found", {"color": "black", "ls": ":"}),
        (f"{link.REACHED:g}: counts as reached", {"color": "0.5", "ls": "--"}),
    ]
    handles = [Line2D([], [], label=label, **look) for label, look in looks]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if wide else 1, frameon=False, fontsize="small")
    return figure


def _neurons(ax: Axes, data: pd.DataFrame, colours: dict[str, Any]) -> None:
    """Relative to the best signs found, neurons sorted by their bound; the part below the bound in grey."""
    facts = data.drop_duplicates("neuron").set_index("neuron")
    bounds = (facts["bound"] / facts["best"]).sort_values()
    shown = [name for name in colours if (data["entry"] == name).any()]
    width = 0.8 / max(1, len(shown))
    bottom = 0.93 * bounds.min()
    places = np.arange(len(bounds))
    ax.bar(places, bounds - bottom, 0.94, bottom=bottom, color=IMPOSSIBLE, zorder=1)
    for k, name in enumerate(shown):
        rows = data[data["entry"] == name].set_index("neuron").loc[bounds.index]
        reached = rows["value"] / rows["best"]
        at = places + (k - (len(shown) - 1) / 2) * width
        ax.bar(at, reached - bounds, width, bottom=bounds, color=colours[name], zorder=2)
    ax.hlines(np.ones(len(bounds)), places - 0.47, places + 0.47, color="black", lw=1.2, zorder=3)
    ax.set(yscale="log", xlim=(-0.6, len(bounds) - 0.4), xlabel="neuron, by its bound", ylabel="value / best found")
    ax.set_ylim(bottom=bottom)
    ax.set_xticks(places, [str(neuron) for neuron in bounds.index], fontsize="x-small")
    ax.grid(False, axis="x")
    _plain(ax.yaxis)


def _sums(ax: Axes, data: pd.DataFrame, colours: dict[str, Any]) -> None:
    """Every entry's sum over the neurons, from the sum of the bounds; dark from the optimum on, where it is known."""
    facts = data.drop_duplicates("neuron")
    best, bound, optimum = (float(facts[c].sum(skipna=False)) for c in ("best", "bound", "optimum"))
    entries = list(dict.fromkeys(data["entry"]))
    for y, name in enumerate(entries):
        rows = data[data["entry"] == name]
        value, last = (float(rows[c].sum(skipna=False)) / best for c in ("value", "last"))
        colour = colours.get(name, "0.55")
        known = math.isfinite(optimum)
        ax.barh(y, value - bound / best, left=bound / best, color=colour, alpha=0.45 if known else 1.0, height=0.75)
        if known:
            ax.barh(y, value - optimum / best, left=optimum / best, color=colour, height=0.75)
        if math.isfinite(last):
            ax.plot(last, y, "|", color="0.25", ms=9, mew=1.6)
        gap = f"{1 - bound / best / value:.1%}"
        ax.annotate(gap, (1.01, y), xycoords=ax.get_yaxis_transform(), fontsize="x-small", va="center")
    ax.axvline(1, color="black", lw=1.2)
    ax.axvspan(0.93 * bound / best, bound / best, color=IMPOSSIBLE, zorder=0)
    ax.set_yticks(range(len(entries)), entries, fontsize="x-small")
    ax.set(
        xscale="log",
        ylim=(len(entries) - 0.4, -0.6),
        xlabel="sum / sum of best found; at the right the certified gap",
    )
    ax.set_xlim(left=0.93 * bound / best)
    ax.margins(x=0.12)
    ax.grid(False, axis="y")
    _plain(ax.xaxis)


def _plain(axis: Any) -> None:
    """Plain numbers, as many as the axis has room for."""
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high > 4 * low else (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 7.0, 8.0, 9.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
