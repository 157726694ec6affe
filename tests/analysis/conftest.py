"""Records as the runner writes them, with made-up numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studies.runner.cells import canonical

BITS = {"full-precision": 32}
SPLITS = ("validation", "test")
Record = dict[str, Any]


def _metrics(accuracy: float) -> dict[str, float]:
    error = 1.0 - accuracy
    return {
        "accuracy": accuracy,
        "nll": 3 * error,
        "nll_untempered": 5 * error,
        "brier": 1.5 * error,
        "ece": 0.2 * error,
        "ece_mass": 0.25 * error,
    }


def _record(
    problem: str = "digits",
    method: str = "ste",
    seed: int = 0,
    accuracy: float | dict[str, float] = 0.95,
    *,
    hyperparameters: dict[str, Any] | None = None,
    setup: dict[str, Any] | None = None,
    status: str = "finished",
    epochs: int = 20,
    activation_bits: int = 32,
    study: str = "compare",
    key: str | None = None,
) -> Record:
    """accuracy: of the mode rule, or of each rule by name ("mean" has 32 weight bits, as in core.predict)."""
    config = {
        "study": study,
        "problem": problem,
        "method": method,
        "seed": seed,
        "network": {"name": "mlp", "widths": [64]},
        "hyperparameters": hyperparameters or {"lr": 0.01},
        "budget": {"epochs": epochs},
        "batch": 32,
        "schedule": "cosine",
        "device": "cpu",
        **(setup or {}),
    }
    bits = BITS.get(method, 1)
    finished = status == "finished"
    by_rule = accuracy if isinstance(accuracy, dict) else {"mode": accuracy}
    rng = np.random.default_rng(seed)
    ends = next(iter(by_rule.values()))
    curve = [
        {
            "epoch": epoch,
            "step": 44 * epoch,
            "seconds": 0.05 * epoch * (1 + 0.1 * float(rng.random())),
            "train_loss": float(np.exp(-3 * epoch / epochs) + 0.05 * rng.random()),
            "validation_accuracy": ends * float(1 - 0.5 * np.exp(-6 * epoch / epochs)) + 0.002 * float(rng.normal()),
            "flip_rate": 0.1 / epoch,
            "decided": 0.2,
        }
        for epoch in range(1, (epochs if finished else max(1, epochs // 2)) + 1)
    ]
    record = {
        "schema": 1,
        "key": key or hashlib.sha256(canonical(config)).hexdigest()[:20],
        **{name: config[name] for name in ("study", "problem", "method", "seed")},
        "config": config,
        "provenance": {"torch_version": "2.13.0"},
        "status": status,
        "reason": None if finished else f"{status} at step 12",
        "declared": {"weight_bits": bits, "activation_bits": activation_bits, "teacher": False, "draws": 1}
        if status in ("finished", "diverged")
        else None,
        "spent": {"steps": 132, "passes": 132, "batch": 32, "n_train": 1397} if finished else None,
        "predictions": [
            {
                "prediction": rule,
                "networks": 10 if rule.startswith("ensemble") else 1,
                "weight_bits": 32 if rule == "mean" else bits,
                "activation_bits": activation_bits,
                "temperature": 0.5,
                "metrics": {split: _metrics(value) for split in SPLITS},
            }
            for rule, value in by_rule.items()
        ]
        if finished
        else [],
        "weights": {"decided": 0.99, "binary": 4736, "real": 0} if finished else None,
        "curve": curve if status in ("finished", "diverged") else [],
        "seconds": {"train": 1.0 + 0.1 * seed, "predict": 0.1, "total": 1.3}
        if finished
        else {"train": None, "predict": None, "total": 0.1},
        "peak_memory_mb": 512.0,
        "machine": {"threads": 1, "load": 0.7, "cpu": "x", "cores": 2},
        "test_reads": [{"at": "2026-11-21T10:00:00+00:00", "rules": list(by_rule)}] if finished else [],
        "states": None,
    }
    return _sealed(record)


def _sealed(record: Record) -> Record:
    body = {name: value for name, value in record.items() if name != "checksum"}
    return {**body, "checksum": hashlib.sha256(canonical(body)).hexdigest()}


@pytest.fixture
def make() -> Callable[..., Record]:
    """make(problem, method, seed, accuracy, ...) -> a record."""
    return _record


@pytest.fixture
def sealed() -> Callable[[Record], Record]:
    """The record with the checksum it should have."""
    return _sealed


@pytest.fixture(scope="session")
def study() -> list[Record]:
    """Two problems, four methods, six seeds; bayesbinn has three rules, bop lags far behind and once diverges."""
    rng = np.random.default_rng(1)
    records = []
    for problem, level in (("digits", 0.96), ("breast-cancer", 0.97)):
        for seed in range(6):
            shared = level + 0.004 * float(rng.normal())
            noise = [0.002 * float(z) for z in rng.normal(size=6)]
            rules = {
                "mode": shared + noise[0],
                "mean": shared + 0.004 + noise[1],
                "ensemble(10)": shared + 0.003 + noise[2],
            }
            records += [
                _record(problem, "full-precision", seed, shared + 0.015 + noise[3]),
                _record(problem, "ste", seed, shared + noise[4]),
                _record(problem, "bayesbinn", seed, rules),
                _record(problem, "bop", seed, 0.55 + noise[5], status="diverged" if seed == 2 else "finished"),
            ]
    return records


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[list[Record]], Path]:
    """folder(records) -> an output folder that holds them."""

    def write(records: list[Record]) -> Path:
        (tmp_path / "records").mkdir(exist_ok=True)
        for record in records:
            (tmp_path / "records" / f"{record['key']}.json").write_text(json.dumps(_sealed(record)))
        return tmp_path

    return write
