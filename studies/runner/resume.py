"""`--resume FILE`: a checkpoint from elsewhere is put where the cell it belongs to looks for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from studies.runner.cells import SAME_CELL
from studies.runner.checkpoint import CheckpointRefused, mismatch, unpacked
from studies.runner.records import Store, write_whole
from studies.runner.verdicts import Verdict, changes


def adopt(file: Path, verdicts: Sequence[Verdict], store: Store) -> Verdict:
    """Copy the checkpoint into the store under the key of the cell it continues, and return that cell's verdict.

    Raises CheckpointRefused, copying nothing: where no cell asked for is the checkpoint's, where that cell has its
    record, or where another checkpoint of it is in the store. Raises StorageError when the store refuses the copy.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise CheckpointRefused(f"checkpoint {file} cannot be read: {error.strerror or error}") from error
    kept = unpacked(file, content)
    verdict = _nearest(file, kept["config"], kept["provenance"], verdicts)
    if (reason := mismatch(kept, verdict.cell.config(), verdict.provenance.as_dict())) is not None:
        raise CheckpointRefused(f"checkpoint {file} {reason}")
    if not verdict.runs:
        record = store.records / f"{verdict.key}.json"
        raise CheckpointRefused(f"checkpoint {file}: its cell has its record; delete {record} to run it again")
    place = store.checkpoints / f"{verdict.key}.pt"
    if place.exists() and place.read_bytes() != content:
        raise CheckpointRefused(f"checkpoint {file}: its cell has another one, {place}; take one of them away")
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, content)
    return verdict


def _nearest(file: Path, config: dict[str, object], sources: dict[str, object], verdicts: Sequence[Verdict]) -> Verdict:
    """The cell of the same problem, method and seed that differs least. Raises CheckpointRefused."""
    alike = [v for v in verdicts if all(v.cell.config()[name] == config[name] for name in SAME_CELL)]
    if not alike:
        raise CheckpointRefused(
            f"checkpoint {file} is of {config['problem']} / {config['method']} / seed {config['seed']}, which is not "
            f"asked for; ask for it with --seeds {config['seed']}, --problems {config['problem']} "
            f"--methods {config['method']}"
        )
    old = {"config": config, "provenance": sources}
    return min(alike, key=lambda v: len(changes(old, v.cell.config(), v.provenance.as_dict())))
