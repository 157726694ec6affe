"""Published numbers beside ours: one row a published number, one a method of ours that has none; what differs is said.

Nothing is set side by side silently: `differs` names every point in which our cells depart from the published recipe,
and `unknown` the points on which what was read is silent. Both are computed from the cells, not written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from studies.analysis.tidy import Record
from studies.published.numbers import Number
from studies.published.protocols import HELD_OUT, Board, Planned, Protocol
from studies.published.recipes import RECIPES, Recipe
from studies.runner.cells import Cell, canonical
from studies.runner.command import counted

COLUMNS = [
    "board",
    "method",
    "prediction",  # our rule; "" where ours has none of the kind
    "networks",
    "label",
    "published",
    "published_sd",
    "published_runs",
    "published_epoch",
    "source",
    "tag",
    "n",
    "last",
    "last_sd",
    "best",
    "best_sd",
    "best_epoch",
    "failed",
    "differs",
    "unknown",
]
EPOCHS: Mapping[str, str] = {"last": "", "best": " @ best validation"}  # how the runner names the predictions of each


def comparison(protocol: Protocol, planned: Sequence[Planned], records: Sequence[Record]) -> pd.DataFrame:
    """The table, columns COLUMNS, in the protocol's order; accuracies in percent. records: of every planned cell.

    n: our finished cells; last, best: mean test accuracy of the networks of the last and of the best-validation epoch,
    sd with n - 1. failed: why cells have no number, "" where all have. A method's rules without a published number
    stand below those with one.
    """
    of_cell = {canonical(record["config"]): record for record in records}
    rows = []
    for board in protocol.boards:
        for method in board.methods:
            cells = [each.cell for each in planned if each.board is board and each.cell.method == method]
            if cells:
                rows += list(_rows(board, cells[0], [of_cell[canonical(cell.config())] for cell in cells]))
    return pd.DataFrame(rows, columns=COLUMNS)


def differences(number: Number, cell: Cell, runs: int, networks: int) -> list[str]:
    """Where our cells depart from the recipe of a published number, "ours for theirs"; empty: nowhere that is known."""
    recipe = RECIPES[number.recipe]
    found = list(_network(recipe, cell))
    if cell.problem != recipe.problem:
        found.append(f"{cell.problem} for {recipe.problem}")
    for name, ours, theirs in _budget(recipe, cell):
        if theirs is not None and ours != theirs:
            found.append(f"{name} {ours} for {theirs}")
        elif theirs is None and name == "epochs":  # never silently: it may be a hundred times ours
            found.append(f"epochs {ours} for an unknown number")
    for key, theirs in number.hyperparameters.items():
        if (ours := cell.hyperparameters.get(key)) != theirs:
            found.append(f"{key} {_spelt(ours)} for {_spelt(theirs)}")
    if networks != number.networks:
        found.append(f"{networks} networks averaged for {number.networks}")
    if number.epoch == "best test":
        found.append("theirs is its best epoch on the test set")
    if number.runs is not None and runs != number.runs:
        found.append(f"{counted(runs, 'seed')} for {number.runs}")
    return found


def unknowns(number: Number) -> list[str]:
    """What the recipe of a published number leaves open, besides the epochs, which `differences` has."""
    recipe = RECIPES[number.recipe]
    points = {
        "net": recipe.network or None,
        "batch": recipe.batch,
        "schedule": recipe.schedule,
        "validation split": recipe.validation,
        "augmentation": recipe.augmentation,
        "choice of epoch": number.epoch,
        "hyperparameters": number.hyperparameters or None,
    }
    return [name for name, value in points.items() if value is None]


def _rows(board: Board, cell: Cell, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    finished = [record for record in records if record["status"] == "finished"]
    rules = {rule["prediction"]: rule["networks"] for record in finished[:1] for rule in _of(record, "last")}
    base = {"board": board.name, "method": cell.method, "n": len(finished), "failed": _failures(records)}
    base["best_epoch"] = _mean([record["best_epoch"]["epoch"] for record in finished if record["best_epoch"]])
    shown = set()
    for number in board.numbers(cell.method):
        rule = _counterpart(number, rules)
        shown.add(rule)
        networks = rules.get(rule, number.networks)
        yield {
            **base,
            **_ours(finished, rule),
            "prediction": rule,
            "networks": networks,
            **_published(number),
            "differs": "; ".join(differences(number, cell, len(records), networks)),
            "unknown": ", ".join(unknowns(number)),
        }
    for rule, networks in (rules or {"": 1}).items():
        if rule not in shown:
            yield {
                **base,
                **_ours(finished, rule),
                "prediction": rule,
                "networks": networks,
                "differs": "",
                "unknown": "",
            }


def _published(number: Number) -> dict[str, Any]:
    return {
        "label": number.label,
        "published": number.accuracy,
        "published_sd": number.sd,
        "published_runs": number.runs,
        "published_epoch": number.epoch,
        "source": number.source,
        "tag": number.tag,
    }


def _counterpart(number: Number, rules: Mapping[str, int]) -> str:
    """Our rule of the number's kind; of several, the one that averages the nearest count of networks."""
    alike = [name for name in rules if _kind(name) == number.rule]
    return min(alike, key=lambda name: abs(rules[name] - number.networks), default="")


def _kind(rule: str) -> str:
    return rule.partition("(")[0]


def _ours(records: Sequence[Record], rule: str) -> dict[str, float]:
    found = {epoch: [100 * value for record in records for value in _accuracy(record, epoch, rule)] for epoch in EPOCHS}
    return {
        "last": _mean(found["last"]),
        "last_sd": _sd(found["last"]),
        "best": _mean(found["best"]),
        "best_sd": _sd(found["best"]),
    }


def _accuracy(record: Record, epoch: str, rule: str) -> list[float]:
    name = f"{rule}{EPOCHS[epoch]}"
    return [found["metrics"]["test"]["accuracy"] for found in _of(record, epoch) if found["prediction"] == name]


def _of(record: Record, epoch: str) -> list[Mapping[str, Any]]:
    return [rule for rule in record["predictions"] if rule["epoch"] == epoch]


def _failures(records: Sequence[Record]) -> str:
    return "; ".join(
        f"seed {record['seed']} {record['status']}: {record['reason']}"
        for record in records
        if record["status"] != "finished"
    )


def _network(recipe: Recipe, cell: Cell) -> Iterator[str]:
    ours, theirs = cell.network, recipe.network
    if theirs and ours["name"] != theirs["name"]:
        yield f"net {ours['name']} for {recipe.net}"
        return
    for key, value in theirs.items():
        if ours[key] != value:
            yield f"{key} {_spelt(ours[key])} for {_spelt(value)}"
    yield from recipe.beyond


def _budget(recipe: Recipe, cell: Cell) -> list[tuple[str, Any, Any]]:
    return [
        ("epochs", cell.budget["epochs"], recipe.epochs),
        ("batch", cell.batch, recipe.batch),
        ("schedule", cell.schedule, recipe.schedule),
        ("held out", HELD_OUT[cell.problem], recipe.validation),
        ("augmentation", "none", recipe.augmentation),
    ]


def _spelt(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _sd(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    middle = _mean(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))
