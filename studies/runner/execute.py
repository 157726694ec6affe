"""Running the cells that must run, and the records of a whole plan.

The folder is the truth. Workers write their own records, so the death of this process loses at most the cells in
flight, and a cell that another run in the same folder finished meanwhile is taken from there.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from studies.runner import executors
from studies.runner.cells import Cell
from studies.runner.checkpoint import Checkpoint
from studies.runner.measure import Body, measure, nothing_measured
from studies.runner.records import RECORD_BYTES, SCHEMA, Record, StorageError, Store
from studies.runner.request import CHECKPOINT_EVERY
from studies.runner.verdicts import FINAL, Verdict, examine

__all__ = ["Reporter", "Verdict", "examine", "execute"]

ASSUMED_INPUTS = 1024  # features of an input, where the size of a state is guessed before data are read
BYTES_PER_WEIGHT = 8  # a parameter and a buffer of float32: the Bernoulli law with its prior


class Reporter(Protocol):
    """Told what happens while cells run; `started` comes again when a cell is repeated after its worker's death."""

    def started(self, cell: Cell) -> None: ...

    def finished(self, cell: Cell, record: Record) -> None: ...

    def warning(self, text: str) -> None: ...


def execute(
    verdicts: Sequence[Verdict],
    store: Store,
    *,
    data_dir: Path | None,
    backend: Literal["serial", "processes"],
    workers: int,
    keep_states: bool,
    checkpoint_every: float = CHECKPOINT_EVERY,
    reporter: Reporter,
) -> list[Record]:
    """Run what is not there yet; the record of every verdict in order, `"stale": true` in those kept though outdated.

    checkpoint_every: seconds after which a cell in training saves where it is, 0 for never.
    Raises StorageError when the folder refuses, KeyboardInterrupt on Ctrl-C; what is finished by then is recorded.
    """
    out, data = store.out.resolve(), _resolved(data_dir)
    todo = [_Task(v, out, data, keep_states, checkpoint_every) for v in verdicts if v.runs]
    store.prepare(len(todo), max((_expected_bytes(task) for task in todo), default=0))
    records = {v.key: _kept(v, store) for v in verdicts if not v.runs}
    run = executors.serial if backend == "serial" else functools.partial(executors.processes, workers=workers)
    outcomes = run(_run_cell, todo, started=lambda task: reporter.started(task.verdict.cell))
    with contextlib.closing(outcomes):  # whatever is raised here, the workers end
        for task, outcome in outcomes:
            if isinstance(outcome, executors.Died):
                reporter.warning(f"{task.verdict.cell.label()}: {outcome}")
                outcome = store.write(_record(task.verdict, _crashed(outcome)), None)
            records[task.verdict.key] = outcome
            reporter.finished(task.verdict.cell, outcome)
    return [records[verdict.key] for verdict in verdicts]


@dataclass(frozen=True)
class _Task:
    """What travels to a worker; paths are absolute, since a worker may live in another folder."""

    verdict: Verdict
    out: Path
    data_dir: Path | None
    keep_states: bool
    checkpoint_every: float


def _run_cell(task: _Task) -> Record:
    """Measure one cell and write it; the unit of work, repeatable at any time."""
    store, verdict = Store(task.out), task.verdict
    config, sources = verdict.cell.config(), verdict.provenance.as_dict()
    checkpoint = Checkpoint(store.checkpoints / f"{verdict.key}.pt", task.checkpoint_every, config, sources)
    # written just before its worker died, or by another run in the same folder
    record = store.read(verdict.key)
    if record is None or not _serves(record, store, task.keep_states):
        body, state = measure(verdict.cell, task.data_dir, checkpoint)
        record = store.write(_record(verdict, body), state if state and task.keep_states else None)
    if record["status"] in FINAL:  # one that failed is tried again, from where it was
        checkpoint.remove()
    return record


def _serves(record: Record, store: Store, keep_states: bool) -> bool:
    """Whether a record found in the folder stands for the cell: at its end, and with its state where one is kept."""
    if record["status"] != "finished":
        return record["status"] in FINAL
    return not keep_states or store.state_fault(record) is None


def _record(verdict: Verdict, body: Body) -> Record:
    config = verdict.cell.config()
    names = {name: config[name] for name in ("study", "problem", "method", "seed")}
    stamp = {"config": config, "provenance": verdict.provenance.as_dict()}
    return {"schema": SCHEMA, "key": verdict.key, **names, **stamp, **body}


def _crashed(died: executors.Died) -> Body:
    return {**nothing_measured(), "status": "crashed", "reason": str(died)}


def _kept(verdict: Verdict, store: Store) -> Record:
    record = store.read(verdict.key)
    if record is None:
        raise StorageError(f"record {verdict.key} vanished from {store.records} during the run; run again")
    return {**record, "stale": True} if verdict.state == "stale" else record


def _resolved(data_dir: Path | None) -> Path | None:
    """Absolute; from BITRELAX_DATA where none was given, since the fork server may have another environment."""
    folder = data_dir or os.environ.get("BITRELAX_DATA")
    return Path(folder).resolve() if folder else None


def _expected_bytes(task: _Task) -> int:
    """About what a cell will keep: its record and, from the network's widths, its state."""
    widths = (ASSUMED_INPUTS, *task.verdict.cell.network.get("widths", ()))
    weights = sum(a * b for a, b in itertools.pairwise(widths)) if task.keep_states else 0
    epochs = 2 if task.verdict.cell.track_best else 1  # the network of the last, and of the best
    return RECORD_BYTES + BYTES_PER_WEIGHT * weights * epochs
