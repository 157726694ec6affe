"""One figure: each estimator's bias beside what theory says of it, and how bias, noise and KL change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator

from studies.analysis.figures import save, style
from studies.truth.learning import KL
from studies.truth.report import BIAS, PER_PROBLEM, frame
from studies.truth.rows import Row

FLOOR = 3e-3  # relative biases below it are noise at the default number of draws, and are drawn at the edge
VARIANCE = "relative variance of the gradient"
KINDS = {"rounded": "-", "conditional": "--"}
LOOKS: tuple[dict[str, Any], ...] = (
    {"marker": "o", "ls": "-"},
    {"marker": "", "ls": ":"},
    {"marker": "", "ls": "--"},
    {"marker": "s", "ls": "-"},
    {"marker": "^", "ls": "-"},
)
SHIFT = 0.13  # between the problems of one row
TITLES = {
    "bias-temperature": "BayesBiNN: bias",
    "noise-temperature": "BayesBiNN: noise",
    "bias-rank": "low rank: bias",
    "noise-rank": "low rank: noise",
    "kl-temperature": "network-hardtanh: KL",
    "kl-rank": "low rank: KL",
}


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write oracle.png and oracle.pdf into `folder`; the paths."""
    with style():
        return save(oracle(rows), folder / "oracle")


def oracle(rows: Sequence[Row]) -> Figure:
    """The figure of all rows."""
    data = frame(rows)
    figure = Figure((13.0, 8.4), layout="constrained")
    axes = figure.subplot_mosaic([["all", *row] for row in ("ab", "cd", "ef")], width_ratios=(2.1, 1, 1))
    colours = dict(zip(PER_PROBLEM, sns.color_palette("colorblind"), strict=False))
    _verdicts(axes["all"], data, colours)
    _sweep(axes["a"], data, BIAS, "bayesbinn", "temperature", colours)
    _sweep(axes["b"], data, VARIANCE, "bayesbinn", "temperature", colours)
    _sweep(axes["c"], data, BIAS, "lowrank-sdp", "rank", colours)
    _sweep(axes["d"], data, VARIANCE, "lowrank-sdp", "rank", colours)
    _temperatures(axes["e"], data, colours)
    _ranks(axes["f"], data, colours)
    for name in "abcdef":
        _plain_ticks(axes[name])
    claims = [row.holds for row in rows if row.holds is not None]
    found = f"{sum(claims)} of {len(claims)} statements of theory found"
    figure.suptitle(f"Every gradient against the exact one, by enumeration of all networks: {found}")
    handles = [Line2D([], [], color=c, marker="o", ls="", ms=5, label=name) for name, c in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _verdicts(ax: Axes, data: pd.DataFrame, colours: dict[str, Any]) -> None:
    """A row an estimator: measured bias (dots), theory's (rings); red where what theory says was not found."""
    found = data[data["quantity"].str.startswith(BIAS)]
    chosen = found[found["at"].isna() | found["at"].isin([0.1, 1.0, 4.0])]
    entries = list(dict.fromkeys(zip(chosen["method"], chosen["estimator"], strict=True)))
    for y, (method, estimator) in enumerate(entries):
        here = chosen[(chosen["method"] == method) & (chosen["estimator"] == estimator)]
        for _, row in here.iterrows():
            shift = y + SHIFT * (PER_PROBLEM.index(row["problem"]) - 2)
            _dot(ax, row, shift, colours[row["problem"]])
    ax.set_xscale("log")
    ax.set_xlim(FLOOR / 1.3, 1.6 * found["value"].max())
    ax.set_yticks(range(len(entries)), [f"{method}\n{estimator}" for method, estimator in entries], fontsize="x-small")
    ax.set_ylim(len(entries) - 0.4, -0.6)
    ax.set_xlabel(f"relative bias |E g - exact| / |exact|; at the left edge: at most {FLOOR:g}")
    ax.set_title(
        "dot: measured (faint: within noise); ring: theory;\nred cross: what theory says was not found", loc="left"
    )


def _dot(ax: Axes, row: pd.Series, y: float, colour: Any) -> None:
    value, theory = max(row["value"], FLOOR), row["exact"]
    noise = row["value"] < 3 * row["stderr"]  # a bias of this size could be none
    if row["holds"] is False:
        ax.plot(value, y, "X", color="red", ms=10, zorder=6)
    if pd.notna(theory):
        ax.plot(max(theory, FLOOR), y, "o", ms=7, mfc="none", mec="0.25", mew=0.9, zorder=4, clip_on=False)
    ax.plot(value, y, "o", color=colour, ms=3.6, alpha=0.35 if noise else 1.0, zorder=5, clip_on=False)
    ax.plot(
        [max(row["value"] - 2 * row["stderr"], FLOOR), value + 2 * row["stderr"]], [y, y], color=colour, lw=1, alpha=0.6
    )


def _sweep(ax: Axes, data: pd.DataFrame, quantity: str, method: str, parameter: str, colours: dict[str, Any]) -> None:
    """One line a problem; of low rank, rounded (solid) and conditional (dashed)."""
    rows = data[
        data["quantity"].str.startswith(quantity) & (data["method"] == method) & (data["parameter"] == parameter)
    ]
    rows = rows[~rows["estimator"].str.startswith("smooth")]
    noise = quantity == VARIANCE
    for (problem, kind), line in rows.groupby([rows["problem"], rows["estimator"].str.partition(",")[0]]):
        line = line.sort_values("at")
        look = {"color": colours[problem], "ls": KINDS.get(kind, "-"), "lw": 1.3}
        values, errors = line["value"], line["stderr"]
        if noise:
            values, errors = values**0.5, errors / (2 * values**0.5)
        ax.errorbar(line["at"], values, 2 * errors, marker="o", ms=3, **look)
        if not noise and line["exact"].notna().all() and kind != "conditional":
            ax.plot(line["at"], line["exact"], "o", ms=6, mfc="none", mec="0.25", mew=0.8)
    ax.set(xscale="log", yscale="log", xlabel=parameter)
    ax.set_xticks(sorted(rows["at"].unique()), [f"{at:g}" for at in sorted(rows["at"].unique())])
    what = "noise" if noise else "bias"
    ax.set_ylabel("sd of one draw / |exact|" if noise else "relative bias")
    if not noise:
        ax.set_ylim(bottom=FLOOR)  # what lies below is noise
    if parameter == "rank":
        handles = [Line2D([], [], color="0.3", ls=ls, label=kind) for kind, ls in KINDS.items()]
        ax.legend(handles=handles, fontsize="x-small", loc="lower right" if noise else "lower left")
    ax.set_title(TITLES[f"{what}-{parameter}"], loc="left")


def _temperatures(ax: Axes, data: pd.DataFrame, colours: dict[str, Any]) -> None:
    """One problem; black where nothing was learnt."""
    problem = "network-hardtanh"
    rows = data[data["quantity"].str.startswith(KL) & (data["problem"] == problem)]
    rows = rows.assign(t=rows["quantity"].str.rpartition("T=")[2].astype(float))
    for look, ((method, estimator), line) in zip(LOOKS, _swept(rows), strict=False):
        exact = method == "exact"
        label = estimator if exact else f"{method}, {estimator}".removesuffix(", as in training")
        colour = "black" if exact else colours[problem]
        line = line.sort_values("t")
        ax.errorbar(line["t"], line["value"], 2 * line["stderr"], label=label, color=colour, lw=1.2, ms=4, **look)
    ax.set(xscale="log", yscale="log", xlabel="temperature of the posterior", ylabel="nats")
    ax.set_xticks(sorted(rows["t"].unique()), [f"{t:g}" for t in sorted(rows["t"].unique())])
    if ax.get_legend_handles_labels()[0]:  # none where the study has one temperature
        ax.legend(fontsize="xx-small", loc="upper right")
        ax.set_ylim(top=20 * rows["value"].max())  # room for the legend
    ax.set_title(TITLES["kl-temperature"], loc="left")


def _swept(rows: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """What stands at more than one temperature, by method and estimator."""
    return [(key, line) for key, line in rows.groupby(["method", "estimator"]) if line["t"].nunique() > 1]


def _plain_ticks(ax: Axes) -> None:
    """1, 2, 5 times powers of ten on the value axis, and no ticks between."""
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.minorticks_off()


def _ranks(ax: Axes, data: pd.DataFrame, colours: dict[str, Any]) -> None:
    rows = data[data["quantity"].str.startswith(KL) & (data["parameter"] == "rank")]
    first = rows["quantity"].iloc[0]  # every rank is trained at the first temperature only
    rows = rows[rows["quantity"] == first]
    floors = data[(data["estimator"] == "best independent signs") & (data["quantity"] == first)]
    for problem, line in rows.groupby("problem"):
        line = line.sort_values("at")
        ax.errorbar(line["at"], line["value"], 2 * line["stderr"], color=colours[problem], marker="o", ms=3, lw=1.3)
        for floor in floors[floors["problem"] == problem]["value"]:
            ax.axhline(floor, color=colours[problem], ls=":", lw=1)
    ax.set(xscale="log", yscale="log", xlabel="rank", ylabel="nats")
    ax.set_xticks(sorted(rows["at"].unique()), [f"{at:g}" for at in sorted(rows["at"].unique())])
    ax.legend(handles=[Line2D([], [], color="0.3", ls=":", label="best independent signs")], fontsize="x-small")
    ax.set_title(TITLES["kl-rank"], loc="left")
