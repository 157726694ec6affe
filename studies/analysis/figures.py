"""The figures of a study: test accuracy with intervals, and learning curves by step and by second.

Drawn on figures of their own, never through pyplot's state, so nothing global changes. Colours are seaborn's
colour-blind-safe palette; prediction rules are markers, real weights hollow ones. Equal frames give equal files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from studies.analysis.accuracy_figure import accuracy
from studies.analysis.curve_figure import by_second, by_step
from studies.analysis.tidy import labelled

DPI = 160
UNDATED = {"pdf": {"CreationDate": None}, "png": {"Software": None}}  # equal figures, equal bytes


def draw(rows: pd.DataFrame, table: pd.DataFrame, curves: pd.DataFrame, folder: Path, *, title: str = "") -> list[Path]:
    """Write accuracy, curves-by-step and curves-by-second as png and pdf into `folder`; the paths.

    rows, curves: as `tidy` makes them; table: `tables.summary` of the rows. A figure with nothing to show (no finished
    cell) is not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    with style():
        if (table["n"] > 0).any():
            drawn += save(accuracy(rows, table, title), folder / "accuracy")
        if (curves["status"] == "finished").any():
            curves = labelled(curves)
            drawn += save(by_step(curves, title), folder / "curves-by-step")
            drawn += save(by_second(curves, title), folder / "curves-by-second")
    return drawn


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, for the time of a `with`."""
    settings: dict[str, Any] = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper", font_scale=1.05)}
    settings |= {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
        "pdf.fonttype": 42,  # text stays text, embedded
        "axes.edgecolor": "0.4",
        "grid.color": "0.9",
        "axes.titleweight": "bold",
        "axes.titlesize": "medium",
    }
    with mpl.rc_context(settings):
        yield


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure as PATH.pdf and PATH.png; equal figures give equal files."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, not again for each kind of file
    written = []
    for kind, metadata in UNDATED.items():
        target = path.with_name(f"{path.name}.{kind}")
        figure.savefig(target, dpi=DPI, metadata=metadata)
        written.append(target)
    return written
