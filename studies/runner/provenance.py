"""Where a cell's numbers come from besides its config: hashes of sources, versions, data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch

import core
import methods
import solvers
from core import extension
from studies.runner.cells import Cell, Provenance

SOURCES = (".py", ".cpp", ".h")  # what a package's numbers come from


def provenance(cell: Cell, data: Mapping[str, str]) -> Provenance:
    """The provenance of a cell run now. data: SHA-256 of each file the problem reads, empty where they are missing."""
    origin = methods.origin(cell.method)
    return Provenance(
        method_module=origin.module,
        method_version=origin.version,
        # a module without a file is known by its version alone
        method_source=hashlib.sha256(origin.source_path.read_bytes() if origin.source_path else b"").hexdigest(),
        core_source=source_hash(_folder(core)),
        solvers_source=source_hash(_folder(solvers)),
        torch_version=torch.__version__.partition("+")[0],
        device_type=torch.device(cell.device).type,
        compiled=extension.info().path == "native",
        data=dict(data),
    )


def source_hash(folder: Path) -> str:
    """SHA-256 over the sorted source files below `folder`: relative names and contents, with their lengths."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in SOURCES):
        for part in (path.relative_to(folder).as_posix().encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _folder(package: ModuleType) -> Path:
    assert package.__file__ is not None, f"{package.__name__} has no folder"
    return Path(package.__file__).parent
