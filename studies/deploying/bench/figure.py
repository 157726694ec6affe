"""The figure of the bench: what share of this machine's measured limit each level and each peer reaches, by size."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studies.analysis import figures

LEVELS = {"ours avx512": "ours, AVX-512", "ours avx2": "ours, AVX2", "ours portable": "ours, portable"}
PEERS = {"torch int8": "torch int8, its best", "torch fp32": "torch fp32, its best"}
MARKS = dict(zip((*LEVELS.values(), *PEERS.values()), "oDsvX", strict=True))
TITLES = {"product": "products of signs: rows x outputs x inputs", "convolution": "3 x 3 convolutions, bits to bits"}
GOALS = {"product": 0.85, "convolution": 0.8}
TICKS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def draw(timings: pd.DataFrame, folder: Path) -> list[Path]:
    """share.png and share.pdf; none where no limit was measured."""
    points = _points(timings)
    if points.empty:
        return []
    cases = {kind: list(dict.fromkeys(points[points["kind"] == kind]["case"])) for kind in TITLES}
    with figures.style():
        figure = Figure(figsize=(8.5, 2.4 + 0.34 * sum(map(len, cases.values()))), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.2)  # inches: the longest label kept off the edge
        panels = figure.subplots(
            len(cases), 1, sharex=True, squeeze=False, height_ratios=[len(c) + 1 for c in cases.values()]
        )
        for axis, (kind, names) in zip(panels[:, 0], cases.items(), strict=True):
            _panel(axis, points[points["kind"] == kind], names, kind)
        panels[-1, 0].set_xlabel("share of this core's limit at sums of signs")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        return figures.save(figure, folder / "share")


def _points(timings: pd.DataFrame) -> pd.DataFrame:
    """The largest share of each contender on each case, smallest case first."""
    rows = timings[timings["fraction"].notna() & timings["kind"].isin(list(TITLES))].copy()
    rows = rows[~rows["case"].str.contains("float32")]
    rows["who"] = rows["contender"].map(_who)
    rows = rows[rows["who"] != ""].sort_values("fraction").drop_duplicates(["case", "who"], keep="last")
    return rows.sort_values(["operations", "case"])


def _who(contender: str) -> str:
    return LEVELS.get(contender) or next((told for peer, told in PEERS.items() if contender.startswith(peer)), "")


def _panel(axis: Axes, points: pd.DataFrame, names: list[str], kind: str) -> None:
    palette = dict(zip(MARKS, sns.color_palette("colorblind", len(MARKS)), strict=True))
    places = {name: place for place, name in enumerate(names)}
    for who, mark in MARKS.items():
        mine = points[points["who"] == who]
        axis.plot(mine["fraction"], mine["case"].map(places), mark, color=palette[who], label=who, markersize=6)
        if who in LEVELS.values():
            for share, case in zip(mine["fraction"], mine["case"], strict=True):
                where = {"xy": (share, places[case]), "xytext": (-5, 4), "textcoords": "offset points"}
                axis.annotate(f"{share:.2f}", ha="right", fontsize=6.5, **where)
    axis.axvline(1, color="0.2", linewidth=1)
    axis.axvline(GOALS[kind], color="0.4", linewidth=1, linestyle="--", label="goal, at the largest size")
    work = points.drop_duplicates("case").set_index("case")["operations"]
    axis.set_yticks(range(len(names)), [f"{name}   ({_work(work[name])})" for name in names])
    axis.set(title=TITLES[kind], xscale="log", xlim=(TICKS[0], 1.6), ylim=(len(names) - 0.4, -0.6))
    axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axis.minorticks_off()


def _work(operations: float) -> str:
    return f"{operations / 1e9:.2g} Gop" if operations >= 1e9 else f"{operations / 1e6:.3g} Mop"
