"""The search behind the built-in defaults: equal trials for every method, scored on validation data only.

Each method gets the same number of quasi-random trials (scrambled Sobol points over a grid of round values), each run
on the same problems with the same seeds; the score is the mean validation accuracy of the mode prediction, the one
rule every method has. Run with `python -m studies.tune`; the chosen trial becomes the factory's default by hand.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import qmc

import methods
from core import architectures
from core.problems import describe
from core.seeds import seed as seed_of
from studies.runner.cells import Cell
from studies.runner.execute import examine, execute
from studies.runner.records import Store

Space = Mapping[str, Sequence[float]]


def _round_values(low: int, high: int, digits: Sequence[str] = ("1", "2", "5")) -> tuple[float, ...]:
    """Each digit times each power of ten, from 10^low up to 10^high."""
    steps = [float(f"{digit}e{power}") for power in range(low, high) for digit in digits]
    return (*steps, float(f"1e{high}"))


SPACES: dict[str, Space] = {
    "full-precision": {"lr": _round_values(-4, -1, ("1", "1.5", "2", "3", "5", "7"))},
    "ste": {"lr": _round_values(-4, -1), "clip": (0.5, 1.0, 2.0), "init": (0.05, 0.2, 0.5)},
    "bop": {"adaptivity": _round_values(-5, -1), "threshold": _round_values(-9, -4)},
    "bayesbinn": {
        "lr": _round_values(-4, -1),
        "temperature": (0.1, 0.2, 0.5, 1.0),
        "natural0": (0.1, 0.5, 1.0, 2.0, 5.0),
        "momentum": (0.0, 0.9),
    },
    "bayesbinn-published": {"lr": _round_values(-5, -2), "momentum": (0.0, 0.9)},
}
PROBLEMS = ("digits", "mnist-10k")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the search and print the trial table as Markdown; exit status 0."""
    parser = argparse.ArgumentParser(prog="python -m studies.tune", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=16, help="distinct trials per method (default 16)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds per trial (default 2)")
    parser.add_argument("--out", type=Path, default=Path("results/tune"), help="where records are kept")
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("BITRELAX_DATA"), help="folder with MNIST/raw")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args(argv)

    trials = {name: draw_trials(space, arguments.trials, name) for name, space in SPACES.items()}
    cells = [
        cell_of(problem, method, trial, seed)
        for problem in PROBLEMS
        for method, drawn in trials.items()
        for trial in drawn
        for seed in range(arguments.seeds)
    ]
    data_dir = None if arguments.data_dir is None else Path(arguments.data_dir)
    store = Store(arguments.out)
    store.prepare(len(cells))
    verdicts = examine(cells, store, data_dir, reuse_stale=False)
    records = execute(
        verdicts,
        store,
        data_dir=data_dir,
        backend="processes",
        workers=arguments.workers,
        keep_states=False,
        reporter=_Lines(len(cells)),
    )
    table = score(records)
    table.to_csv(arguments.out / "trials.csv", index=False, float_format="%.6g")
    print(markdown(table))
    return 0


def draw_trials(space: Space, trials: int, name: str) -> list[dict[str, float]]:
    """The first `trials` distinct points of a scrambled Sobol sequence over the grid, seeded by the method's name.

    Exits with a message when the grid has fewer points than that: trials must be equal for every method.
    """
    size = math.prod(len(grid) for grid in space.values())
    if not 1 <= trials <= size:
        raise SystemExit(f"--trials must be from 1 to {size}, the size of the grid of {name} (got {trials})")
    sequence = qmc.Sobol(len(space), rng=seed_of("tune", name))
    distinct: dict[tuple[float, ...], None] = {}
    while len(distinct) < trials:
        for point in sequence.random(64):
            distinct.setdefault(tuple(grid[int(u * len(grid))] for grid, u in zip(space.values(), point, strict=True)))
    return [dict(zip(space, point, strict=True)) for point in list(distinct)[:trials]]


def cell_of(problem: str, method: str, trial: Mapping[str, float], seed: int) -> Cell:
    """The problem's default cell of a method with the trial's hyperparameters."""
    form = describe(problem)
    defaults = {name: p.default for name, p in methods.signature(method).items()}
    return Cell(
        study="tune",
        problem=problem,
        method=method,
        seed=seed,
        network={"name": form.network, **architectures.defaults(form.network), **form.network_options},
        hyperparameters={**defaults, **trial},
        budget={"epochs": form.epochs},
        batch=form.batch,
        schedule=form.schedule,
    )


def score(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a trial: method, its searched hyperparameters, mean validation accuracy per problem and over both.

    A trial with any cell that did not finish scores nan and is last.
    """
    rows = []
    for record in records:
        method = record["method"]
        searched = {k: record["config"]["hyperparameters"][k] for k in SPACES[method]}
        finished = record["status"] == "finished"
        value = record["predictions"][0]["metrics"]["validation"]["accuracy"] if finished else math.nan
        rows.append({"method": method, "trial": _spell(searched), "problem": record["problem"], "value": value})
    frame = pd.DataFrame(rows)
    values = frame.groupby(["method", "trial", "problem"])["value"]
    means = values.agg(lambda v: v.mean(skipna=False)).unstack("problem")
    means["score"] = means[list(PROBLEMS)].mean(axis=1, skipna=False)
    order = {name: i for i, name in enumerate(SPACES)}
    table = means.reset_index()
    table["rank"] = table["method"].map(order)
    return table.sort_values(["rank", "score", "trial"], ascending=[True, False, True]).drop(columns="rank")


def markdown(table: pd.DataFrame) -> str:
    """The trial table for docs/defaults.md; the first row of each method is the chosen one."""
    lines = ["| method | trial | " + " | ".join(PROBLEMS) + " | score |", "|---|---|" + "---|" * (len(PROBLEMS) + 1)]
    for row in table.to_dict("records"):
        values = " | ".join(f"{100 * row[key]:.2f}" for key in (*PROBLEMS, "score"))
        lines.append(f"| {row['method']} | {row['trial']} | {values} |")
    return "\n".join(lines)


def _spell(trial: Mapping[str, float]) -> str:
    return ", ".join(f"{key}={value:g}" for key, value in trial.items())


class _Lines:
    """One line a finished cell, on stderr."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def started(self, cell: Cell) -> None:
        """Nothing: the line comes when the cell ends."""

    def finished(self, cell: Cell, record: Mapping[str, Any]) -> None:
        self.done += 1
        print(f"{self.done}/{self.total} {cell.label()} {record['status']}", file=sys.stderr)

    def warning(self, text: str) -> None:
        print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
