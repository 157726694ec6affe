"""The cells of the layerwise study, and its two tables: networks by accuracy and seconds, layers by certified gap.

A real network of one budget is binarised in three ways (its own signs, single flips, relaxation and rounding), beside
signs trained from scratch by `ste` at several budgets, so that accuracy can be read at equal seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

import methods
from core import architectures
from core.problems import describe
from studies.runner.cells import Cell

NETWORK = ("network", "epochs")  # what a row of the first table is about
WAYS = {"own": "signs of the real weights", "descent": "layer by layer, single flips", "sdp": "layerwise-sdp"}
REAL, SCRATCH = "full precision (32 bits)", "ste from scratch"
SCOPE = (
    "A bound holds for one layer, given its inputs, its scales and the real network's outputs on the examples it saw; "
    "it says nothing of the whole network."
)


@dataclass(frozen=True)
class Asked:
    """What to compare. widths: of the hidden layers. epochs: the budget of all but `ste`, which gets its own."""

    problem: str = "mnist"
    widths: tuple[int, ...] = (128,)
    epochs: int = 5
    ste_epochs: tuple[int, ...] = (5, 20)
    seeds: tuple[int, ...] = (0, 1)


def cells(asked: Asked) -> tuple[Cell, ...]:
    """Seeds outermost, so that what is compared runs side by side. Raises ValueError for an unknown problem."""
    return tuple(
        _cell(asked, method, hyperparameters, epochs, seed)
        for seed in asked.seeds
        for method, hyperparameters, epochs in _entries(asked)
    )


def networks(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a network and budget: mean test accuracy of the mode and its deviation, mean seconds, seeds."""
    rows = pd.DataFrame(
        {
            "network": named(record),
            "epochs": record["config"]["budget"]["epochs"],
            "accuracy": record["predictions"][0]["metrics"]["test"]["accuracy"],
            "seconds": record["seconds"]["train"],
        }
        for record in _finished(records)
    )
    groups = rows.groupby(list(NETWORK), sort=False)
    table = groups.agg(
        accuracy=("accuracy", "mean"), sd=("accuracy", "std"), seconds=("seconds", "mean"), seeds=("accuracy", "size")
    )
    return table.reset_index()


def layers(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a binarised layer and seed: what its fit reached, see `solvers.layerwise.fitted`."""
    return pd.DataFrame(
        {"network": named(record), "seed": record["seed"], **layer}
        for record in _finished(records)
        for layer in record.get("facts", {}).get("layers", [])
    )


def named(record: Mapping[str, Any]) -> str:
    """What a reader calls the network of a record."""
    method = record["method"]
    if method == "layerwise-sdp":
        return WAYS[record["config"]["hyperparameters"]["signs"]]
    return {"full-precision": REAL, "ste": SCRATCH}[method]


def markdown(asked: Asked, of_networks: pd.DataFrame, of_layers: pd.DataFrame) -> str:
    """Both tables, what `ste` reaches in at least the same seconds, and what the bounds are about."""
    lines = [f"{asked.problem}, hidden layers {'-'.join(map(str, asked.widths))}", ""]
    lines += ["| network | epochs | test % | sd | s | seeds |", "|---|---|---|---|---|---|"]
    for row in of_networks.itertuples():
        sd = "" if pd.isna(row.sd) else f"{100 * row.sd:.2f}"
        lines.append(
            f"| {row.network} | {row.epochs} | {100 * row.accuracy:.2f} | {sd} | {row.seconds:.1f} | {row.seeds} |"
        )
    lines += ["", *_at_equal_time(of_networks), ""]
    lines += ["Layers, mean over seeds; errors are shares of a neuron's variance, averaged over its layer.", ""]
    lines += ["| network | layer | weights | own signs | error | bound | floor | gap % | avoidable % | proven | s |"]
    lines += ["|" + "---|" * 11, *_layer_lines(of_layers)]
    return "\n".join([*lines, "", SCOPE])


def _entries(asked: Asked) -> Iterator[tuple[str, dict[str, Any], int]]:
    yield "full-precision", {}, asked.epochs
    for way in WAYS:
        yield "layerwise-sdp", {"signs": way}, asked.epochs
    for epochs in asked.ste_epochs:
        yield "ste", {}, epochs


def _cell(asked: Asked, method: str, hyperparameters: Mapping[str, Any], epochs: int, seed: int) -> Cell:
    form = describe(asked.problem)
    defaults = {name: p.default for name, p in methods.signature(method).items()}
    return Cell(
        study="layerwise",
        problem=asked.problem,
        method=method,
        seed=seed,
        network={"name": "mlp", **architectures.defaults("mlp"), "widths": asked.widths},
        hyperparameters={**defaults, **hyperparameters},
        budget={"epochs": epochs},
        batch=form.batch,
        schedule=form.schedule,
    )


def _finished(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in records if record["status"] == "finished"]


def _at_equal_time(table: pd.DataFrame) -> Iterator[str]:
    """For each binarised network, the shortest `ste` that took at least as long, or the longest there is."""
    scratch = table[table["network"] == SCRATCH].sort_values("seconds")
    for row in table[table["network"].isin(WAYS.values())].itertuples():
        as_long = scratch[scratch["seconds"] >= row.seconds]
        if len(scratch):
            peer = (as_long if len(as_long) else scratch.tail(1)).iloc[0]
            within = "in at least its seconds" if len(as_long) else "in fewer seconds, the longest run here"
            yield (
                f"{row.network}: {100 * row.accuracy:.2f} % in {row.seconds:.0f} s; {SCRATCH} {within}: "
                f"{100 * peer['accuracy']:.2f} % in {peer['seconds']:.0f} s ({peer['epochs']} epochs)  "
            )


def _layer_lines(table: pd.DataFrame) -> Iterator[str]:
    for (network, layer), block in table.groupby(["network", "layer"], sort=False) if len(table) else ():
        shape = " x ".join(map(str, block["weights"].iloc[0]))
        numbers = [f"{block[name].mean():.4f}" if name in block else "" for name in ("signs_error", "error", "bound")]
        numbers = ["" if text == "nan" else text for text in [*numbers, f"{block['floor'].mean():.4f}"]]
        shares = [100 * block[name].mean() if name in block else float("nan") for name in ("gap", "avoidable")]
        percent = ["" if pd.isna(share) else f"{share:.1f}" for share in shares]
        proven = f"{block['proven'].sum()} of {block['neurons'].sum()}"
        values = [network, layer.removesuffix(".law"), shape, *numbers, *percent, proven]
        yield f"| {' | '.join(values)} | {block['seconds'].mean():.1f} |"
