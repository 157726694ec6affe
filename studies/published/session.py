"""One run of the parity study: what it would do and how long that takes, or its cells, table, figure and page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

import methods
from studies.analysis import figures, output, tidy
from studies.published.boards import PROTOCOLS
from studies.published.comparison import comparison
from studies.published.figure import parity
from studies.published.page import page
from studies.published.protocols import Board, Planned, Protocol, plan, steps
from studies.published.request import Asked
from studies.runner import closing
from studies.runner.command import counted
from studies.runner.config import Plan
from studies.runner.manifest import manifest
from studies.runner.records import StorageError, Store
from studies.runner.request import ConfigErrors, Request, nearest
from studies.runner.session import Done, Refused, carry_out
from studies.runner.verdicts import Verdict, examine

EFFICIENCY = 0.85  # of two workers side by side, as far as an estimate goes
PAGE, TABLE = "parity.md", "parity.csv"


def look(asked: Asked, *, reuse_stale: bool, keep_states: bool, each: bool) -> str:
    """What would run, by board, and an estimate of its time; `each`: and why, a line a cell."""
    protocol, planned = _planned(asked)
    cells = [p.cell for p in planned]
    runs = _plan(asked, planned)
    verdicts = examine(cells, Store(asked.out), runs.data_dir, reuse_stale=reuse_stale, keep_states=keep_states)
    at_once = f"{runs.workers} at once on {asked.device}"
    lines = [f"{protocol.label}: {counted(len(planned), 'cell')}, {at_once}; {asked.out}"]
    for board in protocol.boards:
        found = [(p, v) for p, v in zip(planned, verdicts, strict=True) if p.board is board]
        if found:
            lines += _of_board(board, found, each)
    todo = [p for p, v in zip(planned, verdicts, strict=True) if v.runs]
    return "\n".join([*lines, _estimate(todo, runs.workers, asked.device)])


def run(asked: Asked, *, reuse_stale: bool, keep_states: bool, resume: Path | None, command: Sequence[str]) -> int:
    """Run what has no record yet, write everything, say where it is; the exit code. Raises Stop."""
    protocol, planned = _planned(asked)
    print(f"parity: {protocol.label}, {counted(len(planned), 'cell')}; {asked.out}", flush=True)
    done = carry_out(
        _plan(asked, planned), reuse_stale=reuse_stale, keep_states=keep_states, require_all=False, resume=resume
    )
    try:
        paths = publish(protocol, planned, done, command)
    except StorageError as error:
        raise Refused(str(error)) from error
    return closing.ended(done.records, paths, asked.out)


def publish(protocol: Protocol, planned: Sequence[Planned], done: Done, command: Sequence[str]) -> list[Path]:
    """Write rows, curves, table, figure, page and manifest of a run; the paths, the page first."""
    out, records = done.plan.out, done.records
    made = manifest(command, started=done.started, workers=done.plan.workers, backend=done.plan.backend)
    table = comparison(protocol, planned, records)
    text = page(protocol, table, planned, records, made)
    try:
        return [
            output.place(out / PAGE, lambda path: path.write_text(text, encoding="utf-8")),
            output.place(out / TABLE, lambda path: table.to_csv(path, index=False, float_format="%.6g")),
            output.place(out / output.ROWS, lambda path: tidy.rows(records).to_parquet(path, index=False)),
            output.place(out / output.CURVES, lambda path: tidy.curves(records).to_parquet(path, index=False)),
            *_figure(protocol, table, out),
            output.place_manifest(records, out, made),
        ]
    except OSError as error:
        raise StorageError(
            f"cannot write the page of {out}: {error.strerror or error}\n"
            "the records are kept; make room, the same command continues"
        ) from error


def _planned(asked: Asked) -> tuple[Protocol, list[Planned]]:
    protocol = PROTOCOLS[asked.protocol]
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise ConfigErrors([f"torch sees no CUDA device (build {torch.__version__}). Use --device cpu"])
    protocol = _restricted(protocol, asked.boards)
    try:
        planned = plan(
            protocol,
            only=asked.methods,
            seeds=asked.seeds or range(protocol.seeds),
            device=asked.device,
            problems={"cifar10": asked.cifar10},
        )
    except (methods.MethodError, ValueError) as error:
        raise ConfigErrors([str(error)]) from error
    return protocol, planned


def _restricted(protocol: Protocol, names: Sequence[str] | None) -> Protocol:
    known = [board.name for board in protocol.boards]
    if names is None:
        return protocol
    if unknown := [name for name in names if name not in known]:
        raise ConfigErrors(
            [f"--boards: no board {n!r}.{nearest(n, known)} Boards: {', '.join(known)}" for n in unknown]
        )
    return Protocol(protocol.name, protocol.label, protocol.seeds, tuple(b for b in protocol.boards if b.name in names))


def _plan(asked: Asked, planned: Sequence[Planned]) -> Plan:
    chosen = {"data_dir": None, "backend": "processes", "workers": Request((), ()).workers, **asked.plan}
    if chosen["backend"] == "serial" or asked.device == "cuda":
        chosen |= {"workers": 1}  # several processes on one device would share its memory and its time
    return Plan(tuple(p.cell for p in planned), asked.out, **chosen)


def _of_board(board: Board, found: Sequence[tuple[Planned, Verdict]], each: bool) -> list[str]:
    tally = Counter(verdict.state for _, verdict in found)
    states = ", ".join(f"{count} {state}" for state, count in sorted(tally.items()))
    lines = [f"  {board.name}  {board.title}: {board.epochs} epochs, {steps(board):,} steps a cell; {states}"]
    for planned, verdict in found if each else []:
        seconds = "" if planned.seconds is None else f"  about {planned.seconds:.0f} s"
        why = "; ".join(verdict.reasons) or verdict.key
        lines.append(f"    {planned.cell.method} / seed {planned.cell.seed}  {verdict.state}: {why}{seconds}")
    return lines


def _estimate(todo: Sequence[Planned], workers: int, device: str) -> str:
    """Of the cells that run: the time of the longest, or of all shared out, whichever is more."""
    if not todo:
        return "nothing to run"
    if device != "cpu" or any(p.seconds is None for p in todo):
        return f"time not known beforehand on {device}: the first cells tell it while they run"
    seconds = [p.seconds for p in todo if p.seconds is not None]
    total = max(max(seconds), sum(seconds) / (workers * (EFFICIENCY if workers > 1 else 1.0)))
    return f"about {total / 60:.0f} min on an idle machine with a free core for each worker"


def _figure(protocol: Protocol, table: pd.DataFrame, out: Path) -> list[Path]:
    with figures.style():
        if (drawn := parity(protocol, table)) is None:
            return []
        folder = out / output.FIGURES
        folder.mkdir(exist_ok=True)
        return figures.save(drawn, folder / "parity")
