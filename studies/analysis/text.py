"""The summary as it is read on a screen or in a log: a table a problem, a section a BLOCK, and footnotes.

A block is what is ranked together: equal bits of weights and activations, equally many networks averaged.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from studies.analysis.labels import label
from studies.analysis.tables import CONFIG, COST, cost, smallest_p

WIDTH = 100  # columns of a log line, and the most that a table takes on a terminal
MARKS = {"best": "*", "tied": "="}
COLUMNS = ("", "method", "prediction", "acc %", "sd", "95 % CI", "NLL", "ECE", "s", "n")
LEFT = ("", "method", "prediction")
SIGNIFICANT_PAIRS = 6  # seeds from which on an exact paired test can reach p < 0.05


def show(summary: pd.DataFrame, console: Console) -> None:
    """Print the tables and footnotes: on a terminal as wide as it is, up to WIDTH; elsewhere WIDTH, as plain lines."""
    if console.is_terminal:
        console.print(render(summary), width=WIDTH)
    else:
        console.print(plain(summary), end="", markup=False, highlight=False, soft_wrap=True)


def plain(summary: pd.DataFrame) -> str:
    """The same as plain text, WIDTH columns, without colours."""
    console = Console(width=WIDTH, color_system=None, force_terminal=False, highlight=False)
    with console.capture() as captured:
        console.print(render(summary))
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def render(summary: pd.DataFrame) -> RenderableType:
    """Tables and footnotes for rich, from `tables.summary`."""
    if summary.empty:
        return Text("no cells, so no table")
    entries = _entries(summary)
    parts: list[RenderableType] = []
    for place, found in entries.groupby(["study", "problem", "setting"]):
        parts += [_table(place, found), ""]
    return Group(*parts, *(Text(note, style="dim") for note in _notes(entries, summary)))


def _entries(summary: pd.DataFrame) -> pd.DataFrame:
    """One row a configuration and prediction: the accuracy row, with the means of other metrics beside it."""
    wide = summary[summary["metric"] == "accuracy"].reset_index(drop=True)
    rule = [*CONFIG, "prediction"]
    for metric in ("nll", "ece"):
        means = summary[summary["metric"] == metric][[*rule, "mean"]].rename(columns={"mean": metric})
        wide = wide.merge(means, on=rule, how="left")
    seconds = summary[summary["metric"] == "seconds_train"][[*CONFIG, "mean"]].rename(columns={"mean": "seconds"})
    return wide.merge(seconds, on=CONFIG, how="left")


def _table(place: tuple[str, str, str], entries: pd.DataFrame) -> Table:
    study, problem, setting = place
    title = Text(label(problem), style="bold").append(f"  {setting}" if setting else "", style="not bold")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0), show_edge=False)
    failed = bool((entries["failures"] > 0).any())
    for name in (*COLUMNS, "fail") if failed else COLUMNS:
        left = name in LEFT
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not left or not name)
    for paid, block in entries.groupby(COST, dropna=False, sort=True):
        table.add_row("", Text(cost(*paid), style="italic dim"))
        for _, entry in _ranked(block).iterrows():
            table.add_row(*_cells(entry, failed), style="bold" if entry["standing"] == "best" else None)
        table.add_section()
    return table


def _ranked(block: pd.DataFrame) -> pd.DataFrame:
    """Highest mean first; of means equal but for rounding, the one that is marked best."""
    block = block.assign(rounded=block["mean"].round(12), best=block["standing"] == "best")
    return block.sort_values(["rounded", "best", "method", "variant"], ascending=[False, False, True, True])


def _cells(entry: pd.Series, failed: bool) -> Iterator[str]:
    yield MARKS.get(entry["standing"], "")
    yield f"{entry['method']} ({entry['variant']})" if entry["variant"] else entry["method"]
    yield "" if pd.isna(entry["prediction"]) else entry["prediction"]
    yield _number(100 * entry["mean"], 2)
    yield _number(100 * entry["sd"], 2)
    yield "–" if pd.isna(entry["ci_low"]) else f"{100 * entry['ci_low']:.2f}–{100 * entry['ci_high']:.2f}"
    yield _number(entry["nll"], 3)
    yield _number(entry["ece"], 3)
    yield _number(entry["seconds"], 1)
    yield str(entry["n"])
    if failed:
        yield str(entry["failures"]) if entry["failures"] else ""


def _number(value: float, digits: int) -> str:
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


def _notes(entries: pd.DataFrame, summary: pd.DataFrame) -> Iterator[str]:
    yield (
        "Test split; NLL and ECE after a fitted output temperature. CI: Student t over seeds. s: seconds of training; "
        "W/A: bits of weights and activations (32: real). Rows are ranked within equal bits and equally many networks "
        "averaged only, by differences paired by seed."
    )
    if (entries["standing"] != "").any():
        yield (
            "* best mean accuracy of its section; = not told apart from it: "
            "the 95 % CI of the paired difference includes 0 (uncorrected)."
        )
    seeds = int(entries["n"].max())
    if seeds == 1:
        yield "With 1 seed there is no interval and nothing can be ranked; use --seeds 6."
    elif 1 < seeds < SIGNIFICANT_PAIRS:
        yield (
            f"With {seeds} seeds the smallest two-sided p of an exact paired test is {smallest_p(seeds):.4g}: "
            "no difference can be significant at 0.05."
        )
    if unequal := _unequal_passes(summary):
        where = ", ".join(map(label, unequal))
        yield f"Not all rows of {where} spent equally many passes over a batch: see `passes` in table.csv."
    if (entries["failures"] > 0).any():
        yield "fail: cells that diverged, crashed, failed or lacked data; means leave them out, and no mark is given."
    if (entries["stale"] > 0).any():
        yield "Some rows rest on cells of older code, kept by --reuse-stale: see `stale` in table.csv."


def _unequal_passes(summary: pd.DataFrame) -> list[str]:
    """Problems on which methods that ran under one setting spent different numbers of passes."""
    passes = summary[summary["metric"] == "passes"].groupby(["study", "problem", "setting"])["mean"].nunique()
    return sorted({place[1] for place, different in passes.items() if different > 1})
