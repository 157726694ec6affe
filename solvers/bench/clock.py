"""Times contenders in interleaved rounds: seconds of CPU of one thread, children included.

On an idle machine they are the seconds of the clock; on a busy one they leave out what other processes take.
"""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ROUNDS = 5
PATIENCE = 90.0  # seconds after which a contender has no further round


@dataclass(frozen=True)
class Timed:
    """The runs of a contender: the seconds of each, and what its last one returned."""

    seconds: tuple[float, ...]
    result: Any

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.3g} s ({len(self.seconds)} run{'s' * (len(self.seconds) > 1)})"


def interleaved(
    contenders: Mapping[str, Callable[[], Any]], *, rounds: int = ROUNDS, patience: float = PATIENCE
) -> dict[str, Timed]:
    """Run the contenders one after another, `rounds` times; who has used up `patience` sits the rest out."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    results: dict[str, Any] = {}
    gc.collect()  # the waste of what came before is not the first contender's
    for _ in range(rounds):
        for name, run in contenders.items():
            if sum(seconds[name]) < patience:
                took, results[name] = once(run)
                seconds[name].append(took)
    return {name: Timed(tuple(seconds[name]), results[name]) for name in contenders}


def once(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one run, and what it returned."""
    begin = _used()
    result = run()
    return _used() - begin, result


def _used() -> float:
    """CPU seconds of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
