"""The checkpoint of a cell: all that continues its training bit for bit, `checkpoints/KEY.pt` in the output folder.

A file is 32 bytes of SHA-256, then what `torch.save` wrote; read with `weights_only=True`. Written whole or not at all,
and removed once the cell's record is there. One that cannot be continued is refused and left alone: nothing is lost.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from studies.runner.records import StorageError, write_whole
from studies.runner.verdicts import changes

SCHEMA = 1
DIGEST = hashlib.sha256().digest_size
ANEW = "or take the file away to start the cell anew"


class CheckpointRefused(Exception):
    """A checkpoint that this cell cannot continue from; the message says which file, why, and what to do."""


@dataclass
class Checkpoint:
    """The checkpoint of one cell: where it lies, every how many seconds it is written (0: never), whose it must be."""

    path: Path
    every: float
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    _last: float = field(init=False)

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether `every` seconds have passed since the last one, or since this object was made."""
        return self.every > 0 and time.monotonic() - self._last >= self.every

    def save(self, content: Mapping[str, Any]) -> None:
        """Write the content (nested dicts and lists of numbers, strings and tensors). Raises StorageError."""
        stamp = {"schema": SCHEMA, "config": self.config, "provenance": self.provenance}
        packed = io.BytesIO()
        torch.save({**stamp, **content}, packed)
        try:
            self.path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make the folder {self.path.parent}: {error.strerror or error}") from error
        content = packed.getbuffer()
        write_whole(self.path, hashlib.sha256(content).digest(), content)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What `save` was given, tensors on the CPU; None where there is no file. Raises CheckpointRefused."""
        try:
            file = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror or error}; see to its permissions") from error
        kept = unpacked(self.path, file)
        if (reason := mismatch(kept, self.config, self.provenance)) is not None:
            raise CheckpointRefused(f"checkpoint {self.path} {reason}")
        return kept

    def remove(self) -> None:
        """The cell has its record."""
        self.path.unlink(missing_ok=True)


def unpacked(path: Path, file: bytes) -> dict[str, Any]:
    """The content of a checkpoint file, whosever it is. Raises CheckpointRefused where it is damaged or not ours."""
    if hashlib.sha256(memoryview(file)[DIGEST:]).digest() != file[:DIGEST]:
        raise CheckpointRefused(
            f"{path} is no whole checkpoint: its checksum differs. Checkpoints lie in OUT/checkpoints; if this is one, "
            f"it is damaged: put back a copy, {ANEW}"
        )
    try:
        kept: dict[str, Any] = torch.load(io.BytesIO(file[DIGEST:]), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:  # another torch's format, or not ours
        first = str(error).splitlines()[0]
        raise CheckpointRefused(
            f"checkpoint {path} cannot be read by torch {torch.__version__}: {first}; "
            f"continue it with the torch that wrote it, {ANEW}"
        ) from error
    if kept.get("schema") != SCHEMA:
        raise CheckpointRefused(
            f"checkpoint {path} has schema {kept.get('schema')}, this version reads {SCHEMA}; "
            f"continue it with the version that wrote it, {ANEW}"
        )
    return kept


def mismatch(kept: Mapping[str, Any], config: Mapping[str, Any], provenance: Mapping[str, Any]) -> str | None:
    """How a checkpoint's content is not of the cell with this config and provenance, and what to do; None if it is.

    The first difference is named, settings before sources, old and new value.
    """
    device, here = kept["provenance"]["device_type"], provenance["device_type"]
    if device != here:
        return f"was written on {device}, this cell runs on {here}; continue it with --device {device}, {ANEW}"
    found = changes(kept, config, provenance)
    if not found:
        return None
    others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"is of another cell: {found[0]}{others}; continue it under what it was written with, {ANEW}"
