"""How a run ends: tables and figures written, the table printed, failures by name, where the files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from core import extension
from studies.analysis import output, tables, text, tidy
from studies.runner.manifest import manifest
from studies.runner.progress import FINE
from studies.runner.records import Record, StorageError
from studies.runner.session import Done, Refused

DONE, FAILED = 0, 3


def conclude(done: Done, *, command: Sequence[str]) -> int:
    """Write and print the results of a run; the exit code: 3 when some cell has none. command: as typed.

    Raises Refused when the output folder does.
    """
    records, plan = done.records, done.plan
    made = manifest(command, started=done.started, workers=plan.workers, backend=plan.backend)
    try:
        paths = output.publish(records, plan.out, made)
    except StorageError as error:
        raise Refused(str(error)) from error
    print(flush=True)
    text.show(tables.summary(tidy.rows(records)), Console(highlight=False))
    print(f"fused passes: {extension.info().path} (core.extension.info() says more)")
    return ended(records, paths, plan.out)


def ended(records: Sequence[Record], paths: Sequence[Path], out: Path) -> int:
    """Say which cells have no result and where the files are; the exit code."""
    failed = [record for record in records if record["status"] not in FINE]
    if failed:
        print(_named(failed, len(records), out))
    print(f"files: {_listed(paths, out)}\nthe same command runs only what is missing")
    return FAILED if failed else DONE


def _named(failed: Sequence[Record], cells: int, out: Path) -> str:
    lines = [f"{len(failed)} of {cells} cells have no result:"]
    for record in failed:
        label = f"{record['problem']} / {record['method']} / seed {record['seed']}"
        where = f" ({out / 'records' / record['key']}.json)" if record["status"] == "crashed" else ""
        lines.append(f"  {label}  {record['status']}: {record['reason']}{where}")
    if any(record["status"] == "crashed" for record in failed):
        lines.append("  a crashed cell is not tried again; delete its record to go on from its checkpoint, or anew")
    return "\n".join(lines)


def _listed(paths: Sequence[Path], out: Path) -> str:
    """Files in the folder by name, those in folders below it by the folder."""
    names = dict.fromkeys(f"{p.relative_to(out).parts[0]}{'' if p.parent == out else '/'}" for p in paths)
    first, *others = names
    return ", ".join([str(out / first), *others])
