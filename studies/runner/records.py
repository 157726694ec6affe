"""The store of a study: one JSON record and one state file a cell, each written whole or not at all.

A file is written under a temporary name, synced, and renamed over its place, so a kill at any moment leaves the old
file or the new one. The state comes first: a record never names a state that is not there. A record carries a checksum
of itself; one that cannot be trusted is moved to `quarantine/` and its cell runs again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import torch

from studies.runner.cells import SAME_CELL, canonical

SCHEMA = 1
NEEDED = ("status", "reason", "config", "provenance", "states")
RECORD_BYTES = 64 * 1024  # of one record with a long curve, generously
FOREIGN_TEMPORARY_SECONDS = 86_400  # age at which another machine's temporary file counts as left behind
Record = dict[str, Any]


class StorageError(Exception):
    """The output folder cannot be written or holds a damaged file; the message says what to do."""


class CorruptRecord(ValueError):
    """A record that cannot be trusted; the message says why."""


class Store:
    """The output folder `out`: `records/KEY.json`, `states/KEY.pt`, `checkpoints/KEY.pt`, `quarantine/`.

    `warnings` are told to the user.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.records, self.states, self.quarantine = out / "records", out / "states", out / "quarantine"
        self.checkpoints = out / "checkpoints"  # made with the first one
        self.warnings: list[str] = []

    def prepare(self, expected_cells: int, cell_bytes: int = RECORD_BYTES) -> None:
        """Make the folders, see that they can be written and hold `expected_cells` x `cell_bytes`; clear leftovers.

        Raises StorageError naming the folder, and needed and free space.
        """
        try:
            for folder in (self.records, self.states):
                folder.mkdir(parents=True, exist_ok=True)
                probe = _temporary(folder / "probe")
                probe.write_bytes(b"bitrelax")
                probe.unlink()
                _clear_leftovers(folder)
            _clear_leftovers(self.checkpoints)
            free = shutil.disk_usage(self.out).free
        except OSError as error:
            raise StorageError(
                f"cannot write to the output folder {self.out}: {error.strerror or error}\n"
                "choose another with --out DIR"
            ) from error
        if free < (needed := expected_cells * cell_bytes):
            raise StorageError(
                f"not enough space in the output folder {self.out}: {expected_cells} cells need about "
                f"{_size(needed)}, {_size(free)} are free\n"
                "free some, choose another folder with --out DIR, or keep no states with --no-states"
            )

    def read_all(self) -> list[Record]:
        """Every good record, sorted by key. Those that are not are set aside and named in one new warning."""
        good, bad = [], []
        for path in sorted(self.records.glob("*.json")):
            try:
                if (record := _load(path)) is not None:
                    good.append(record)
            except CorruptRecord as error:
                bad.append(f"{path.name}: {error}")
                self._set_aside(path)
        if bad:
            records, cells = ("record", "its cell") if len(bad) == 1 else ("records", "their cells")
            self.warnings.append(
                f"{len(bad)} damaged {records} set aside in {self.quarantine} ({'; '.join(bad)}); run {cells} again"
            )
        return good

    def read(self, key: str) -> Record | None:
        """The record of `key`, or None where there is none or it is damaged (which `read_all` reports)."""
        try:
            return _load(self.records / f"{key}.json")
        except CorruptRecord:
            return None

    def write(self, record: Record, state: dict[str, Any] | None) -> Record:
        """Keep a record and its state (nested dicts and lists of tensors, or None); returns the record as written.

        Adds `states` and `checksum`. Raises StorageError, and leaves no temporary file, when the disk refuses.
        """
        key = record["key"]
        kept = {**record, "states": None}
        if state is not None:
            packed = io.BytesIO()
            torch.save(state, packed)
            write_whole(self.states / f"{key}.pt", packed.getvalue())
            kept["states"] = {"file": f"states/{key}.pt", "sha256": hashlib.sha256(packed.getvalue()).hexdigest()}
        kept["checksum"] = checksum(kept)
        write_whole(self.records / f"{key}.json", json.dumps(kept, indent=1, allow_nan=False).encode() + b"\n")
        return kept

    def state(self, record: Record) -> dict[str, Any]:
        """The parameters and statistics a finished cell kept. Raises StorageError when they are absent or damaged."""
        kept = record["states"]
        if kept is None:
            raise StorageError(f"record {record['key']} kept no state; run its cell again without --no-states")
        try:
            packed = (self.out / kept["file"]).read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read {self.out / kept['file']}: {error.strerror or error}") from error
        if hashlib.sha256(packed).hexdigest() != kept["sha256"]:
            raise StorageError(f"{self.out / kept['file']} is damaged; delete its record and run its cell again")
        state: dict[str, Any] = torch.load(io.BytesIO(packed), weights_only=True)
        return state

    def state_fault(self, record: Record) -> str | None:
        """Why a record's state cannot be used (never kept, gone, altered), or None where it can."""
        kept = record["states"]
        if kept is None:
            return "it kept no state"
        try:
            with (self.out / kept["file"]).open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == kept["sha256"]
        except OSError:
            return f"{kept['file']} is gone"
        return None if whole else f"{kept['file']} is damaged"

    def remove(self, key: str) -> None:
        """Forget the record of `key` and its state."""
        for path in (self.records / f"{key}.json", self.states / f"{key}.pt"):
            path.unlink(missing_ok=True)

    def _set_aside(self, path: Path) -> None:
        try:
            self.quarantine.mkdir(exist_ok=True)
            os.replace(path, self.quarantine / f"{path.stem}.{time.time_ns()}.json")
        except OSError as error:
            raise StorageError(
                f"{path} is damaged and cannot be moved to {self.quarantine}: {error.strerror or error}\n"
                "move it away by hand"
            ) from error


def checksum(record: Record) -> str:
    """SHA-256 of the canonical JSON of a record without its `checksum` field."""
    return hashlib.sha256(canonical({k: v for k, v in record.items() if k != "checksum"})).hexdigest()


def _load(path: Path) -> Record | None:
    """A record that is what it says; None when the file is gone or of another schema. Raises CorruptRecord."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}; see to its permissions") from error
    try:
        record = json.loads(text)
    except ValueError as error:  # bad JSON or bad UTF-8
        raise CorruptRecord("not JSON; it was cut short or altered") from error
    if not isinstance(record, dict) or record.get("checksum") != checksum(record):
        raise CorruptRecord("its checksum differs")
    if record.get("key") != path.stem:
        raise CorruptRecord(f"it is the record of {record.get('key')}")
    if record.get("schema") != SCHEMA:
        return None
    if (absent := _absent(record)) is not None:
        raise CorruptRecord(f"it has no {absent}")
    return record


def _absent(record: Record) -> str | None:
    """The first field that every reader of records looks at and this one lacks; a checksum is easily put right."""
    for name in NEEDED:
        if name not in record:
            return name
    config = record["config"]
    return next((f"config.{name}" for name in SAME_CELL if not isinstance(config, dict) or name not in config), None)


def write_whole(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file of these parts under a temporary name and rename it. Raises StorageError, leaving what was there."""
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        free = _size(shutil.disk_usage(path.parent).free) if path.parent.exists() else "an unknown amount"
        raise StorageError(
            f"cannot write {path} ({_size(sum(map(len, parts)))}, {free} free): {error.strerror or error}\n"
            "make room or choose another folder with --out DIR; what is finished is kept, the same command continues"
        ) from error


def _temporary(path: Path) -> Path:
    """A name beside `path` that says which process on which machine writes it."""
    return path.with_name(f".{path.name}@{socket.gethostname()}@{os.getpid()}.tmp")


def _clear_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that are gone, not those of another run at work in the same folder."""
    for path in folder.glob(".*.tmp"):
        _, host, process = path.name.removesuffix(".tmp").rsplit("@", 2)
        here = host == socket.gethostname()
        old = time.time() - path.stat().st_mtime > FOREIGN_TEMPORARY_SECONDS
        if old or (here and not _alive(int(process))):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _size(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
