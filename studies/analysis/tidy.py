"""Records as tidy frames: `rows`, one number a row, and `curves`, one epoch of one cell a row.

What a row's number belongs to is said by `split` and `prediction`: a metric of a prediction rule has the split it was
scored on ("validation" or "test"; the output temperature, fitted on validation scores, has "validation"), and the
`epoch` whose network it is: "last", or "best" (by validation accuracy; its prediction is named "mode @ best
validation"). A fact of the whole cell (seconds, steps, passes, share of decided weights, memory) has split "train" and
no prediction. A cell that did not finish is one row without split, metric and value: its status and reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from studies.runner.cells import canonical

Record = Mapping[str, Any]

# what cells must share to be compared at all; the last one stands only where it is on
SETUP = ("network", "budget", "batch", "schedule", "device", "track_best")
CELL_METRICS = {
    "seconds_train": ("seconds", "train"),
    "seconds_predict": ("seconds", "predict"),
    "seconds_total": ("seconds", "total"),
    "peak_memory_mb": ("peak_memory_mb",),
    "steps": ("spent", "steps"),
    "passes": ("spent", "passes"),
    "decided": ("weights", "decided"),
    "weights_binary": ("weights", "binary"),
    "weights_real": ("weights", "real"),
}
TIMED = ("seconds_train", "seconds_predict", "seconds_total", "peak_memory_mb")  # differ between equal runs

IDENTITY = {
    "study": "str",
    "problem": "str",
    "method": "str",
    "hyperparameters": "str",  # canonical JSON of every keyword of the method's factory
    "setup": "str",  # canonical JSON of network, budget, batch, schedule, device
    "seed": "int64",
    "key": "str",
    "status": "str",
    "reason": "str",
    "stale": "bool",
}
ROWS = {
    **IDENTITY,
    "prediction": "str",
    "epoch": "str",
    "networks": "Int64",
    "weight_bits": "Int64",
    "activation_bits": "Int64",
    "split": "str",
    "metric": "str",
    "value": "float64",
}
CURVES = {
    **IDENTITY,
    "epoch": "int64",
    "step": "int64",
    "seconds": "float64",
    "train_loss": "float64",
    "validation_accuracy": "float64",
    "flip_rate": "float64",
    "decided": "float64",
}
ORDER = ["study", "problem", "setup", "method", "hyperparameters", "seed"]


def rows(records: Iterable[Record]) -> pd.DataFrame:
    """The tidy frame of `rows.parquet`, sorted, columns and types as in ROWS; the order of `records` is no matter.

    A record may carry `stale`: true (kept though its code is outdated). Raises ValueError for two records of one cell.
    """
    records = list(records)
    _refuse_repeats(records)
    return _frame((row for record in records for row in _rows(record)), ROWS, ["prediction", "split", "metric"])


def curves(records: Iterable[Record]) -> pd.DataFrame:
    """The frame of `curves.parquet`: one row a cell and epoch, columns and types as in CURVES.

    Diverged cells are in it as far as they came; `seconds` is training time so far.
    """
    return _frame(
        ({**_identity(record), **point} for record in records for point in record["curve"]), CURVES, ["epoch"]
    )


def current(records: Iterable[Record]) -> list[Record]:
    """One record a cell: of several (other sources, other torch) the one that read its test labels last."""
    newest: dict[bytes, Record] = {}
    for record in sorted(records, key=_age):
        newest[canonical(record["config"])] = record
    return list(newest.values())


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with two short columns that tell its configurations apart, empty where there is nothing to tell.

    setting: the setup's keys that differ between cells of the same problem ("budget.epochs=30"); variant: the
    hyperparameters that differ between cells of the same problem and method ("lr=0.001").
    """
    place = ["study", "problem"]
    return frame.assign(
        setting=_differences(frame, "setup", place), variant=_differences(frame, "hyperparameters", [*place, "method"])
    )


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    identity, declared = _identity(record), record["declared"] or {}
    bits = {name: declared.get(name) for name in ("weight_bits", "activation_bits")}
    if record["status"] != "finished":
        yield {**identity, **bits}
        return
    for metric, path in CELL_METRICS.items():
        yield {**identity, **bits, "split": "train", "metric": metric, "value": _at(record, path)}
    for rule in record["predictions"]:
        of_rule = {name: rule[name] for name in ("prediction", "networks", "weight_bits", "activation_bits")}
        of_rule["epoch"] = rule.get("epoch", "last")  # older records know no other
        yield {
            **identity, **of_rule, "split": "validation", "metric": "temperature", "value": rule["temperature"]
        }  # fmt: skip
        for split, metrics in rule["metrics"].items():
            for metric, value in metrics.items():
                yield {**identity, **of_rule, "split": split, "metric": metric, "value": value}


def _identity(record: Record) -> dict[str, Any]:
    config = record["config"]
    return {
        **{name: record[name] for name in ("study", "problem", "method", "seed", "key", "status", "reason")},
        "hyperparameters": canonical(config["hyperparameters"]).decode(),
        "setup": canonical({name: config[name] for name in SETUP if name in config}).decode(),
        "stale": bool(record.get("stale", False)),
    }


def _at(record: Record, path: Sequence[str]) -> Any:
    value: Any = record
    for name in path:
        value = None if value is None else value.get(name)
    return value


def _frame(found: Iterable[dict[str, Any]], types: Mapping[str, str], within: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(list(found), columns=list(types)).astype(dict(types))
    return frame.sort_values([*ORDER, *within], ignore_index=True)


def _age(record: Record) -> tuple[str, str]:
    return max((read["at"] for read in record["test_reads"]), default=""), record["key"]


def _refuse_repeats(records: Sequence[Record]) -> None:
    seen: dict[bytes, str] = {}
    for record in records:
        if (first := seen.get(config := canonical(record["config"]))) is not None:
            cell = f"{record['problem']} / {record['method']} / seed {record['seed']}"
            raise ValueError(
                f"two records of the cell {cell}: {first} and {record['key']}; keep one, as `current` does"
            )
        seen[config] = record["key"]


def _differences(frame: pd.DataFrame, column: str, place: list[str]) -> pd.Series:
    """For each row, the leaves of its JSON `column` that are not the same for all rows of its `place`."""
    texts: dict[tuple[Any, ...], str] = {}
    for group, found in frame[[*place, column]].drop_duplicates().groupby(place):
        leaves = {text: dict(_leaves(json.loads(text))) for text in found[column]}
        names = sorted({name for leaf in leaves.values() for name in leaf})
        telling = [name for name in names if len({leaf.get(name) for leaf in leaves.values()}) > 1]
        for text, leaf in leaves.items():
            texts[*group, text] = ", ".join(f"{name}={leaf[name]}" for name in telling if name in leaf)
    keys = zip(*(frame[name] for name in [*place, column]), strict=True)
    return pd.Series([texts[key] for key in keys], index=frame.index, dtype="str")


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """(dotted path, value as JSON) of every leaf."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield path + name, json.dumps(value, separators=(",", ":"))
