"""The search behind the built-in defaults: equal trials for every method, scored on validation data only.

Each method gets the same number of quasi-random trials (scrambled Sobol points over a grid of round values), each run
on the same problems with the same seeds; the score is the mean validation accuracy of the mode prediction, the one
rule every method has. Run with `python -m studies.tune`; the best trial of a method becomes its factory's defaults.
"""

from __future__ import annotations

import argparse
import json
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
from studies.runner.config import Plan
from studies.runner.manifest import manifest
from studies.runner.request import Stop
from studies.runner.session import carry_out

Value = float | str
Space = Mapping[str, Sequence[Value]]


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
    # "as published" but for the rate, which belongs to the length of the run
    "bayesbinn-published": {"lr": _round_values(-5, -2, ("1", "1.5", "2", "3", "5", "7"))},
    "blrnet": {"lr": _round_values(-3, -1), "transfer": (0.0, 0.2, 0.4), "bound": (3.0, 5.0)},
    "blrnet-propagate": {"lr": _round_values(-3, -1), "init": (0.1, 0.5, 0.9), "bound": (3.0, 5.0)},
    "gaussian-vi": {"lr": _round_values(1, 3), "init": (0.2, 0.5, 0.8), "momentum": (0.0, 0.9, 0.98)},
    "lowrank-sdp": {
        "lr": (3.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0),
        "rank": (1, 2, 4, 8),
        "scale0": (0.03, 0.1, 0.3),
        "estimator": ("rounded", "smooth", "conditional"),
    },
    # the released rule; its rate, decay and rank are settings of its scripts
    "lowrank-sdp-published": {
        "lr": (0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0),
        "weight_decay": (1e-5, 1e-4, 5e-4),
        "rank": (2, 4, 8),
    },
}
PROBLEMS = ("digits", "mnist-10k")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the search, write OUT/trials.csv and OUT/manifest.json, print the trial table as Markdown; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m studies.tune", description="Search the methods' defaults.")
    parser.add_argument("--trials", type=int, default=16, help="distinct trials per method (default 16)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds per trial (default 2)")
    parser.add_argument("--out", type=Path, default=Path("results/tune"), help="default: results/tune")
    parser.add_argument("--data-dir", type=Path, help="data sets (default: the environment's BITRELAX_DATA)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    chosen = parser.parse_args(words)
    cells = tuple(
        cell_of(problem, method, trial, seed)
        for problem in PROBLEMS
        for method, space in SPACES.items()
        for trial in draw_trials(space, chosen.trials, method)
        for seed in range(chosen.seeds)
    )
    plan = Plan(cells, chosen.out, chosen.data_dir, "processes", chosen.workers)
    try:
        done = carry_out(plan, reuse_stale=False, keep_states=False, require_all=True)
    except Stop as stop:
        print(stop, file=sys.stderr)
        return stop.code
    table = trials(done.records)
    table.to_csv(chosen.out / "trials.csv", index=False, float_format="%.9g", lineterminator="\n")
    command = ["python", "-m", "studies.tune", *words]
    made = manifest(command, started=done.started, workers=plan.workers, backend=plan.backend)
    (chosen.out / "manifest.json").write_text(json.dumps(made, indent=1) + "\n")
    print(markdown(scores(table)))
    return 0


def draw_trials(space: Space, trials: int, name: str) -> list[dict[str, Value]]:
    """The first `trials` distinct points of a scrambled Sobol sequence over the grid, seeded by the method's name.

    Exits with a message when the grid has fewer points than that: trials must be equal for every method.
    """
    size = math.prod(len(grid) for grid in space.values())
    if not 1 <= trials <= size:
        raise SystemExit(f"--trials must be from 1 to {size}, the size of the grid of {name} (got {trials})")
    sequence = qmc.Sobol(len(space), rng=seed_of("tune", name))
    distinct: dict[tuple[Value, ...], None] = {}
    while len(distinct) < trials:
        for point in sequence.random(64):
            distinct.setdefault(tuple(grid[int(u * len(grid))] for grid, u in zip(space.values(), point, strict=True)))
    return [dict(zip(space, point, strict=True)) for point in list(distinct)[:trials]]


def cell_of(problem: str, method: str, trial: Mapping[str, Value], seed: int) -> Cell:
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


def trials(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a cell: method, trial, problem, seed, status, validation accuracy of the mode (nan if not finished)."""
    rows = []
    for record in records:
        searched = {name: record["config"]["hyperparameters"][name] for name in SPACES[record["method"]]}
        finished = record["status"] == "finished"
        accuracy = record["predictions"][0]["metrics"]["validation"]["accuracy"] if finished else math.nan
        names = {name: record[name] for name in ("method", "problem", "seed", "status", "key")}
        rows.append({**names, "trial": spell(searched), "validation_accuracy": accuracy})
    return pd.DataFrame(rows)


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """One row a trial, each method's best first: mean accuracy over seeds per problem, and the mean of those.

    A trial with a cell that did not finish scores nan and is last.
    """
    values = table.groupby(["method", "trial", "problem"])["validation_accuracy"]
    means = values.agg(lambda v: v.mean(skipna=False)).unstack("problem")
    means["score"] = means[list(PROBLEMS)].mean(axis=1, skipna=False)
    order = {name: place for place, name in enumerate(SPACES)}
    ranked = means.reset_index().assign(place=lambda frame: frame["method"].map(order))
    ranked = ranked.sort_values(["place", "score", "trial"], ascending=[True, False, True], ignore_index=True)
    return ranked.drop(columns="place")


def markdown(table: pd.DataFrame) -> str:
    """The trial table of docs/defaults.md, in percent; the first row of each method is the chosen one."""
    lines = ["| method | trial | " + " | ".join(PROBLEMS) + " | score |", "|---|---|" + "---|" * (len(PROBLEMS) + 1)]
    for row in table.to_dict("records"):
        values = " | ".join(f"{100 * row[key]:.2f}" for key in (*PROBLEMS, "score"))
        lines.append(f"| {row['method']} | {row['trial']} | {values} |")
    return "\n".join(lines)


def spell(trial: Mapping[str, Value]) -> str:
    """A trial in words: "lr=0.05, clip=1"."""
    return ", ".join(f"{key}={value if isinstance(value, str) else format(value, 'g')}" for key, value in trial.items())


if __name__ == "__main__":
    sys.exit(main())
