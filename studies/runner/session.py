"""One run of the command, once its options are read: resolve, examine, execute; what a look without running shows."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

import methods
from core import problems
from studies.runner.checkpoint import CheckpointRefused
from studies.runner.config import Plan, resolve
from studies.runner.execute import execute
from studies.runner.listing import catalogue, counts, reasons, summaries
from studies.runner.progress import Reporting
from studies.runner.records import Record, StorageError, Store
from studies.runner.request import ConfigErrors, Request, Stop
from studies.runner.resume import adopt
from studies.runner.verdicts import Verdict, examine


class Interrupted(Stop):
    """Ctrl-C while cells ran; the message says how many are saved."""

    code = 130


class Unbuildable(Stop):
    """A network that was asked for cannot be built for its problem."""

    code = 2


class Refused(Stop):
    """The output folder cannot be used."""

    code = 4


@dataclass(frozen=True)
class Done:
    """A run that came to its end: its plan, the record of every cell of it, when it began."""

    plan: Plan
    records: list[Record]
    started: datetime


def look(asked: Request, flags: argparse.Namespace) -> str:
    """What --list, --summary, --dry-run and --explain print. Raises ConfigErrors, Refused."""
    if flags.list:
        _warn_of_plugins()
        return catalogue(asked.data_dir)
    plan = _planned(asked)
    if flags.summary:
        return _summaries(plan)
    verdicts = _examined(plan, Store(plan.out), flags.reuse_stale, not flags.no_states, flags.require_all)
    return "\n".join([reasons(verdicts)] * flags.explain + [counts(verdicts)])


def _summaries(plan: Plan) -> str:
    try:
        return summaries(plan)
    except (
        ValueError,
        problems.ProblemUnavailable,
    ) as error:  # a network that cannot be built, data that are not there
        raise Unbuildable(str(error)) from error


def run(asked: Request, flags: argparse.Namespace) -> Done:
    """Run what has no record yet. Raises ConfigErrors, Refused, Interrupted."""
    plan = _planned(asked)
    return carry_out(
        plan,
        reuse_stale=flags.reuse_stale,
        keep_states=not flags.no_states,
        require_all=flags.require_all,
        resume=flags.resume,
    )


def carry_out(
    plan: Plan, *, reuse_stale: bool, keep_states: bool, require_all: bool, resume: Path | None = None
) -> Done:
    """Run what has no record yet of a plan, told on the terminal. Raises as `run`.

    resume: a checkpoint to continue one of the cells from.
    """
    started = datetime.now(UTC)
    store = Store(plan.out)
    verdicts = _examined(plan, store, reuse_stale, keep_states, require_all)
    if resume is not None:
        _adopt(resume, verdicts, store)
    waiting = [verdict.cell for verdict in verdicts if verdict.runs]
    cached = len(verdicts) - len(waiting)
    if cached:
        print(f"{cached} cached, {len(waiting)} to run", flush=True)
    reporting = Reporting(waiting, done=cached, workers=plan.workers, console=_console(), errors=_errors())
    try:
        with reporting:
            records = execute(
                verdicts,
                store,
                data_dir=plan.data_dir,
                backend=plan.backend,
                workers=plan.workers,
                keep_states=keep_states,
                checkpoint_every=plan.checkpoint_every,
                reporter=reporting,
            )
    except KeyboardInterrupt:
        saved = f"{reporting.done} of {reporting.total} cells saved"
        raise Interrupted(f"{saved}; the same command continues") from None
    except StorageError as error:
        raise Refused(str(error)) from error
    return Done(plan, records, started)


def _planned(asked: Request) -> Plan:
    _warn_of_plugins()
    return resolve(asked)


def _examined(plan: Plan, store: Store, reuse_stale: bool, keep_states: bool, require_all: bool) -> list[Verdict]:
    """The verdicts. Problems without data are warned of or, with --require-all, an error."""
    try:
        verdicts = examine(plan.cells, store, plan.data_dir, reuse_stale=reuse_stale, keep_states=keep_states)
    except StorageError as error:
        raise Refused(str(error)) from error
    for text in store.warnings:
        _warn(text)
    without = dict.fromkeys(v.cell.problem for v in verdicts if not v.provenance.data)
    missing = [message for problem in without if (message := _missing(problem, plan))]
    if missing and require_all:
        raise ConfigErrors(missing)
    for message in missing:
        _warn(f"{message}\nits cells become unavailable; --require-all stops instead")
    return verdicts


def _adopt(file: Path, verdicts: list[Verdict], store: Store) -> None:
    try:
        verdict = adopt(file, verdicts, store)
    except CheckpointRefused as error:
        raise ConfigErrors([f"--resume: {error}"]) from error
    except StorageError as error:
        raise Refused(str(error)) from error
    print(f"{verdict.cell.label()} continues from {file}", flush=True)


def _missing(problem: str, plan: Plan) -> str:
    try:
        problems.checksums(problem, plan.data_dir)
    except problems.ProblemUnavailable as error:
        return str(error)
    return ""


def _warn_of_plugins() -> None:
    """A plugin that cannot be used stops nothing but is told; one that was asked for by name is an error later."""
    for error in methods.broken_plugins():
        _warn(str(error))


def _warn(text: str) -> None:
    _errors().print(f"warning: {text}", markup=False, soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False)


def _errors() -> Console:
    return Console(stderr=True, highlight=False)
