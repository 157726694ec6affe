"""From a record to a proven file: choose, build again, export, save, load, prove, put in place; sizes and times."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.deploy import PackedNetwork, info, load
from core.deploy.export import ExportError, export
from studies.deploying import backends, parity, report, sizes, timing
from studies.deploying.cell import Trained, check_validation, restore
from studies.deploying.choice import Asked, Choice, Unusable, choose
from studies.deploying.command_line import without_paths
from studies.deploying.plain import parameters
from studies.runner.command import counted
from studies.runner.manifest import checkout, manifest
from studies.runner.records import Record, StorageError, Store
from studies.runner.request import Stop

ROOT = Path(__file__).resolve().parents[2]


class Refused(Stop):
    """A folder or a file that cannot be read or written."""

    code = 4


@dataclass(frozen=True)
class Wanted:
    """What to make and where. limit: of test inputs in the proof, None for all; rounds: of timing, 0 for none."""

    asked: Asked
    to: Path
    data_dir: Path | None = None
    json: Path | None = None
    limit: int | None = None
    rounds: int = timing.ROUNDS


def run(wanted: Wanted, *, command: Sequence[str]) -> int:
    """Deploy, telling each step as it is done; 0. Raises Unusable, ParityFailed and Refused, leaving no file then."""
    started, say = datetime.now(UTC), partial(print, flush=True)
    try:
        with _one_thread():
            _check_places(wanted)
            made = _deployed(wanted, say)
            if wanted.json is not None:
                about = manifest(without_paths(command), started=started, workers=1, backend=made["backends"][0])
                text = json.dumps({**made, "manifest": about}, indent=1, allow_nan=False)
                with _writing(wanted.json):
                    wanted.json.write_text(text + "\n", encoding="utf-8")
    except StorageError as error:
        raise Refused(str(error)) from error
    return 0


def also_wrong(asked: Asked) -> str:
    """What else the folder misses in `asked`, for a message about another option; empty where nothing."""
    try:
        choose(Store(asked.folder).read_all(), asked, lambda record: 0.0)
    except (Unusable, StorageError) as error:
        return str(error)
    return ""


def _deployed(wanted: Wanted, say: Callable[[str], None]) -> dict[str, Any]:
    choice, trained = _chosen(wanted, say)
    with _in_place(wanted.to) as temporary:
        packed = _exported(choice, trained)
        with _writing(wanted.to):
            packed.save(temporary)
        network = load(temporary)
        say("\n".join(report.network_lines(network, trained, choice)))
        inputs = trained.built.problem.test.inputs[: wanted.limit]
        hands = backends.at_hand(network)
        say(f"\nproving {', '.join(hand.name for hand in hands)} on {counted(len(inputs), 'test input')} ...")
        proofs = parity.prove(trained, network, hands, inputs)
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    say("\n".join(report.parity_lines(proofs, network, choice, len(trained.built.problem.test))))
    measured = sizes.size(network, parameters(timing.plain_networks(trained)[0]))
    say("\n".join(report.size_lines(measured, wanted.to)))
    rates, shares = _times(wanted, trained, network, hands, inputs)
    say("\n".join(report.time_lines(rates, shares)))
    return {
        **report.data(choice, network, proofs, measured, rates, shares),
        "file": {"name": wanted.to.name, "bytes": network.size, "sha256": digest},
        "backends": [hand.name for hand in hands],
    }


def _chosen(wanted: Wanted, say: Callable[[str], None]) -> tuple[Choice, Trained]:
    asked = wanted.asked
    store = Store(asked.folder)
    records = store.read_all()
    for warning in store.warnings:
        say(f"warning: {warning}")
    choice = choose(records, asked, lambda record: _written(store, record))
    say(report.choice_line(choice, asked))
    return choice, restore(store, choice, wanted.data_dir)


def _exported(choice: Choice, trained: Trained) -> PackedNetwork:
    """The packed network, of the network that the record is about."""
    facts = report.facts(choice, trained.built.problem, checkout(ROOT))
    try:
        network = export(
            trained.built.model,
            trained.rule,
            inputs=trained.built.problem.train.inputs,
            statistics=list(trained.statistics),
            rng=trained.rng(),
            facts=facts,
        )
    except ExportError as error:
        raise Unusable(f"{choice.record['method']} / {trained.name} cannot be exported: {error}") from error
    check_validation(trained, choice)
    return network


def _times(
    wanted: Wanted, trained: Trained, network: PackedNetwork, hands: list[backends.Backend], inputs: Tensor
) -> tuple[list[timing.Rate], dict[backends.Step, float]]:
    if wanted.rounds == 0:
        return [], {}
    rates = timing.rates(trained, hands, inputs, rounds=wanted.rounds)
    return rates, timing.shares(network, inputs, rounds=wanted.rounds)


def _written(store: Store, record: Record) -> float:
    return (store.records / f"{record['key']}.json").stat().st_mtime


def _check_places(wanted: Wanted) -> None:
    """Before anything takes time. Raises Unusable for a CPU level that is not to be had."""
    try:
        info()
    except ValueError as error:
        raise Unusable(str(error)) from error
    for option, path, such in (("--to", wanted.to, "model.bnn"), ("--json", wanted.json, "deployed.json")):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise Refused(f"{option} {path}: there is no folder {path.parent}; make it first")
        if path.is_dir():
            raise Refused(f"{option} {path} is a folder; name a file, such as {path / such}")
    if wanted.json is not None and wanted.json.resolve() == wanted.to.resolve():
        raise Refused(f"--json {wanted.json} is the file of --to, which it would replace; name another")


@contextlib.contextmanager
def _in_place(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed when it does not."""
    temporary = path.with_name(f".{path.name}@{socket.gethostname()}@{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Refused by the name that was asked for: a full disk names no file, and a temporary name is nobody's."""
    try:
        yield
    except OSError as error:
        raise Refused(f"cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """torch as the packed network is timed, and as records are made."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
