"""The table of the README: a line a network whose export is on record (`--json` of `python -m studies.deploy`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.deploying.report import PLAIN
from studies.deploying.timing import BATCHES

HEAD = ("network", "claim, proven on the whole test set", "file", "batch 1", "batch 256")
BEST = "native"


def markdown(folder: Path) -> str:
    """Sizes, and times of the best native level beside torch in float32; in order of the file names."""
    records = [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]
    rows = [HEAD, ("---",) * len(HEAD), *(_row(name, record) for name, record in records)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _row(name: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    proof = record["parity"][0]
    if proof["exact"]:
        claim = f"{proof['sums']:,} integers and {proof['logits']:,} logits identical, {proof['examples']:,} examples"
    else:
        claim = f"{proof['examples']:,} predictions identical"
    size = f"{record['size']['file'] / 1000:,.1f} kB, 1/{record['size']['ratio']:.0f} of float32"
    return name.partition("-")[2].replace("-", " "), claim, size, *(_speed(record, batch) for batch in BATCHES)


def _speed(record: Mapping[str, Any], batch: int) -> str:
    seconds = {rate["name"]: rate["seconds"] for rate in record["rates"] if rate["batch"] == batch}
    ours = next(taken for name, taken in seconds.items() if name.startswith(BEST))
    return f"{1e6 * ours:,.1f} us, {seconds[PLAIN] / ours:.1f} x torch"
