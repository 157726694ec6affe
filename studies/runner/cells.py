"""A cell: one (study, problem, method, hyperparameters, seed), and the key under which its record is kept.

The key hashes what could change the numbers: the resolved config, the method's module source and version, the sources
of core and solvers, the torch version, the device type, the data's checksums, whether compiled paths run. Workers and
folders are not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SAME_CELL = ("study", "problem", "method", "seed")  # what cells share that differ in settings or sources alone


@dataclass(frozen=True)
class Cell:
    """Everything that says what to compute, resolved: no default is left open.

    network: {"name": "mlp", **options}; hyperparameters: every keyword of the method's factory; budget: {"epochs": n}
    or {"steps": n}; all values are JSON scalars or lists. track_best: the network of the best-validation epoch is kept
    beside the last one and scored with it.
    """

    study: str
    problem: str
    method: str
    seed: int
    network: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    budget: Mapping[str, int]
    batch: int
    schedule: str
    device: str = "cpu"
    track_best: bool = False

    def config(self) -> dict[str, Any]:
        """The cell as plain JSON data; `Cell(**cell.config())` is the cell again.

        `track_best` is left out where it is off, as in records older than it.
        """
        config = {name: _plain(value) for name, value in vars(self).items()}
        if not self.track_best:
            del config["track_best"]
        return config

    def label(self) -> str:
        """How a person is told of it: "digits / ste / seed 3"."""
        return f"{self.problem} / {self.method} / seed {self.seed}"


@dataclass(frozen=True)
class Provenance:
    """What besides the config a cell's numbers depend on. Hashes are SHA-256 hex digests."""

    method_module: str
    method_version: str
    method_source: str
    core_source: str
    solvers_source: str
    torch_version: str
    device_type: str
    compiled: bool
    data: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in vars(self).items()}


def key(cell: Cell, provenance: Provenance) -> str:
    """SHA-256 (first 20 hex digits) of the canonical JSON of config and provenance."""
    return hashlib.sha256(canonical({"config": cell.config(), "provenance": provenance.as_dict()})).hexdigest()[:20]


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, no nan: the one spelling that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
