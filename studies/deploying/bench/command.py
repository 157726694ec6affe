"""The bench: measures section by section, prints a row as soon as it is there, writes data, page and figure."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from core.deploy import info
from studies.deploying.bench import (
    clock,
    compute_engine,
    convolutions,
    cuda,
    exact,
    figure,
    networks,
    products,
    roof,
    startup,
    table,
    threads,
    verdicts,
)
from studies.deploying.bench.compute_engine import Larq
from studies.deploying.bench.goals import Bench, Row, Section, Timing, Unmeasured
from studies.deploying.choice import Unusable
from studies.deploying.command_line import without_paths
from studies.runner import machine
from studies.runner.manifest import manifest

ROUNDS, LEAST = 15, 0.02  # of a case; seconds of a sample
QUICK_ROUNDS, QUICK_LEAST = 2, 0.001
NO_DEVICE = 1


def run(out: Path, json: Path | None, device: str, quick: bool, peer_python: str | None) -> int:
    """Measure on "cpu" or "cuda" and write into `out`; returns the exit code.

    Without the device it is 1 and `out` stays as it is. json: the goals alone, as a list, also then. peer_python: an
    interpreter that has Larq Compute Engine. A goal that does not hold is a row, not an error. Raises ValueError for
    another device, Unusable for a CPU level that is not to be had, OSError for a path that cannot be written.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device must be cpu or cuda (got {device!r})")
    try:
        info()
    except ValueError as error:  # BITRELAX_CPU_LEVEL names what is not to be had
        raise Unusable(str(error)) from error
    if json is not None:
        _try([json])
    with _one_thread():
        return _run(out, json, device, quick, peer_python)


def _run(out: Path, json: Path | None, device: str, quick: bool, peer_python: str | None) -> int:
    if device == "cuda" and (reason := cuda.missing()) is not None:
        print(f"python -m studies.deploy --bench --device cuda: {reason}", file=sys.stderr)
        _finish(verdicts.complete(cuda.left_open(reason)), [], json)
        return NO_DEVICE
    name = "bench" if device == "cpu" else "bench-cuda"
    out.mkdir(parents=True, exist_ok=True)
    _try([out / f"{name}.{kind}" for kind in ("json", "csv", "md")])
    if device == "cpu":
        _try([out / f"share.{kind}" for kind in ("png", "pdf")])
    facts: dict[str, Any] = {"busy_cores_before": clock.busy_cores(1.0), "load_before": machine.load()}
    started = datetime.now(UTC)
    measured = _on_gpu if device == "cuda" else _on_cpu
    rows, timings, more = measured(quick, peer_python)
    command = ["python", "-m", "studies.deploy", *without_paths(sys.argv[1:])]
    facts |= manifest(command, started=started, workers=1, backend=device) | more
    facts |= {"busy_cores_after": clock.busy_cores(1.0)}
    written = table.write(out, name, rows, timings, facts)
    if device == "cpu":
        written += figure.draw(table.frame(timings), out)
    _finish(rows, written, json)
    return 0


def _try(paths: Sequence[Path]) -> None:
    """Before anything takes time: opens each for writing, and leaves it as it was. Raises OSError."""
    for path in paths:
        new = not path.exists()
        path.open("ab").close()
        if new:
            path.unlink()


Outcome = tuple[list[Row], list[Timing], dict[str, Any]]


def _finish(rows: Sequence[Row], written: list[Path], json: Path | None) -> None:
    if json is not None:
        json.write_text(table.goals_json(rows))
        written.append(json)
    goals = [table.line(row) for row in rows if " " not in row.id]
    print("\n".join(["", *goals, table.summary(rows), *(f"wrote {path}" for path in written)]))


def _on_cpu(quick: bool, peer_python: str | None) -> Outcome:
    limit = roof.limit()
    rounds, least = (QUICK_ROUNDS, QUICK_LEAST) if quick else (ROUNDS, LEAST)
    bench = Bench(rounds, least, quick, limit)
    print(f"bench: {machine.cpu()}, one thread; {roof.told(limit)}", flush=True)
    with compute_engine.started(peer_python) as peer:
        print(peer, flush=True)
        rows = list(_printed(_sections(peer), bench))
    rows += cuda.left_open("measured by --device cuda")
    facts = {"limit": roof.told(limit), "larq": str(peer), "clock": "CPU time of one thread"}
    return verdicts.complete(rows), bench.timings, facts


def _on_gpu(quick: bool, peer_python: str | None) -> Outcome:
    bench = Bench(QUICK_ROUNDS if quick else ROUNDS, QUICK_LEAST if quick else LEAST, quick, None)
    rows = list(_printed(cuda.sections(), bench))
    facts = {"limit": cuda.told(), "larq": "", "clock": "device events around captured graphs"}
    return verdicts.complete(rows), bench.timings, facts


def _sections(peer: Larq | Unmeasured) -> list[Section]:
    return [
        products.section(),
        *convolutions.sections(peer),
        *networks.sections(peer),
        threads.section(),
        startup.section(),
        exact.section(),
    ]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _printed(sections: Sequence[Section], bench: Bench) -> Iterator[Row]:
    for section in sections:
        for row in section.rows(bench):
            if bench.quick:  # at other sizes: the goals are not about those
                row = replace(row, holds=None)
            print(table.line(row), flush=True)
            yield row
