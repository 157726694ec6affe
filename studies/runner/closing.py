"""How a run ends: tables and figures written, the table printed, failures by name, where the files are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studies import analysis
from studies.runner.manifest import manifest
from studies.runner.progress import FINE
from studies.runner.session import Done

DONE, FAILED = 0, 3


def conclude(done: Done, *, command: Sequence[str]) -> int:
    """Write and print the results of a run; the exit code: 3 when some cell has none. command: as typed."""
    records, plan = done.records, done.plan
    made = manifest(command, started=done.started, workers=plan.workers, backend=plan.backend, records=records)
    paths = analysis.publish(records, plan.out, made)
    print()
    print(analysis.text.render(analysis.tables.summary(analysis.tidy.rows(records))))
    failed = [record for record in records if record["status"] not in FINE]
    if failed:
        print(f"\n{len(failed)} of {len(records)} cells have no result:")
        for record in failed:
            label = f"{record['problem']} / {record['method']} / seed {record['seed']}"
            print(f"  {label}  {record['status']}: {record['reason']}")
    print(f"\nfiles: {_listed(paths, plan.out)}\nthe same command runs only what is missing")
    return FAILED if failed else DONE


def _listed(paths: Sequence[Path], out: Path) -> str:
    """Files in the folder by name, those in folders below it by the folder."""
    names = dict.fromkeys(f"{p.relative_to(out).parts[0]}{'/' if p.parent != out else ''}" for p in paths)
    first, *others = names
    return ", ".join([str(out / first), *others])
