"""What the figures share: how an entry is named, its colour and marker, and axes that outliers do not squash."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from methods import LISTED_FIRST
from studies.analysis.labels import label

MARKERS = "oDs^vPX*"  # prediction rules in order of appearance, mode first
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
PANEL_COLUMNS = 3
FAR = 4.0
Place = tuple[str, str, str]  # study, problem, setting


def name(method: str, variant: str) -> str:
    """A method with what tells its variants apart."""
    return f"{method} ({variant})" if variant else method


def colours(names: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """A colour for each name. The palette has ten; `dashes` tells the rest apart.

    A method of ours has its own in every figure; others, and variants, take those that are left over.
    """
    palette = sns.color_palette("colorblind")
    own = {name: palette[i % len(palette)] for i, name in enumerate(LISTED_FIRST)}
    rest = [entry for entry in names if entry not in own]
    free = [c for c in palette if c not in {own[n] for n in names if n in own}] or palette
    chosen = {**own, **{entry: free[i % len(free)] for i, entry in enumerate(rest)}}
    return {entry: chosen[entry] for entry in names}


def dashes(names: Sequence[str]) -> dict[str, str | tuple[int, tuple[int, ...]]]:
    """A line style for each name: solid for the first ten."""
    return {entry: DASHES[i // 10 % len(DASHES)] for i, entry in enumerate(names)}


def markers(rules: Sequence[str]) -> dict[str, str]:
    """A marker for each prediction rule: `mode` the disc, and the other common ones theirs in every figure."""
    known = {"mode": "o", "mean": "D", "ternary": "s", "propagate": "^"}
    others = sorted(set(rules) - known.keys())
    free = [m for m in MARKERS if m not in known.values()]
    return {**{r: known[r] for r in known if r in set(rules)}, **{r: free[i % len(free)] for i, r in enumerate(others)}}


def places(frame: pd.DataFrame) -> list[Place]:
    """The panels of a figure: every problem, and every setting of it."""
    found = frame[["study", "problem", "setting"]].drop_duplicates().sort_values(["study", "problem", "setting"])
    return list(found.itertuples(index=False, name=None))


def panel_title(place: Place) -> str:
    """The problem, and under it the setting where there are several."""
    _, problem, setting = place
    return f"{label(problem)}\n{setting}" if setting else label(problem)


def head(figure: Figure, title: str, subject: str, columns: int) -> None:
    """The title over all panels: the study's, what is shown, what the intervals are; broken where narrow."""
    gap = " " if columns > 1 else "\n"
    what = f"{subject}:{gap}mean and 95 % interval (Student t over seeds)"
    figure.suptitle(f"{title}\n{what}" if title else what)


def within(frame: pd.DataFrame, place: Place) -> pd.DataFrame:
    """The rows of one panel."""
    study, problem, setting = place
    return frame[(frame["study"] == study) & (frame["problem"] == problem) & (frame["setting"] == setting)]


def floor(values: pd.Series, anchors: pd.Series, *, least: float) -> float:
    """Where an axis may begin: the smallest of `values` that does not lie far below what `anchors` (one an entry) show.

    Far: under their median by more than FAR times the way from there to the best, or FAR times `least` where all are
    close. What lies below the floor is drawn at the edge or named with its number, so that it does not squash the rest.
    """
    middle = anchors.median()
    fence = middle - FAR * max(anchors.max() - middle, least)
    return float(values[values >= fence].min())
