"""The folder of a study beyond its records: frames, table, figures, manifest; written from records, and read back.

Everything here can be made again from `records/`. The manifest is written last and lists the records drawn
(`cells`) and those that lay beside them (`others`: of other plans or older code), so a later reader draws the same.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from studies.analysis import figures, tables, tidy
from studies.runner.records import StorageError, Store

ROWS, CURVES, TABLE, FIGURES, MANIFEST = "rows.parquet", "curves.parquet", "table.csv", "figures", "manifest.json"


def publish(records: Iterable[tidy.Record], out: Path, manifest: Mapping[str, Any], *, title: str = "") -> list[Path]:
    """Write rows, curves, table, figures and manifest of `records` to `out`; the paths written.

    title: over the figures, before what they show.
    Each file is written under another name and renamed over its place. Raises StorageError when the folder refuses.
    """
    records = list(records)
    rows, curves = tidy.rows(records), tidy.curves(records)
    table = tables.summary(rows)
    try:
        out.mkdir(parents=True, exist_ok=True)
        return [
            place(out / ROWS, lambda path: rows.to_parquet(path, index=False)),
            place(out / CURVES, lambda path: curves.to_parquet(path, index=False)),
            place(out / TABLE, lambda path: path.write_text(tables.csv(table), encoding="utf-8")),
            *_place_figures(rows, table, curves, out / FIGURES, title),
            place_manifest(records, out, manifest),
        ]
    except OSError as error:
        raise StorageError(
            f"cannot write the tables of {out}: {error.strerror or error}\n"
            f"the records are kept; make room, then python -m studies.plot {out}"
        ) from error


def drawn_records(out: Path) -> tuple[list[tidy.Record], list[str]]:
    """The records that tables of `out` are made of, and warnings about the rest.

    Those the manifest lists, while it knows every record there; else (no manifest, or records written since) all,
    one a cell. Raises FileNotFoundError when there are none.
    """
    store = Store(out)
    records = store.read_all()
    if not records:
        raise FileNotFoundError(f"no records in {out}; run python -m studies.compare --out {out}")
    manifest = read_manifest(out)
    if not _knows_all(manifest, out):
        return tidy.current(records), store.warnings
    cells, stale = set(manifest["cells"]), set(manifest["stale"])
    drawn = [{**record, "stale": record["key"] in stale} for record in records if record["key"] in cells]
    return drawn, store.warnings


def read_rows(out: Path) -> pd.DataFrame:
    """The tidy rows of `out` (`tidy.ROWS`): as stored while no record is newer, else made again from the records.

    So are those that an older version stored with other columns. Raises FileNotFoundError when there
    are no records.
    """
    stored = out / ROWS
    newest = max((path.stat().st_mtime_ns for path in _files(out)), default=None)
    if newest is not None and stored.exists() and _knows_all(read_manifest(out), out):
        if stored.stat().st_mtime_ns >= newest:
            frame = pd.read_parquet(stored)
            if list(frame.columns) == list(tidy.ROWS):
                return frame
    return tidy.rows(drawn_records(out)[0])


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of `out`, {} where there is none. Raises StorageError when it is damaged."""
    path = out / MANIFEST
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise StorageError(f"{path} is damaged: {error}\ndelete it; tables are then drawn from all records") from error


def place_manifest(records: Iterable[tidy.Record], out: Path, manifest: Mapping[str, Any]) -> Path:
    """Write the manifest with the records that were drawn and those beside them; the last file of a folder."""
    cells = sorted(record["key"] for record in records)
    stale = sorted(record["key"] for record in records if record.get("stale"))
    listed = {**manifest, "cells": cells, "stale": stale, "others": sorted(_keys(out) - set(cells))}
    text = json.dumps(listed, indent=1) + "\n"
    return place(out / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))


def place(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file under another name beside `path` and rename it over its place."""
    temporary = path.with_name(f".{path.name}@{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _knows_all(manifest: Mapping[str, Any], out: Path) -> bool:
    return "cells" in manifest and _keys(out) <= {*manifest["cells"], *manifest["others"]}


def _files(out: Path) -> list[Path]:
    return sorted((out / "records").glob("*.json"))


def _keys(out: Path) -> set[str]:
    return {path.stem for path in _files(out)}


def _place_figures(
    rows: pd.DataFrame, table: pd.DataFrame, curves: pd.DataFrame, folder: Path, title: str
) -> list[Path]:
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".figures-") as temporary:
        drawn = figures.draw(rows, table, curves, Path(temporary), title=title)
        return [path.replace(folder / path.name) for path in drawn]
