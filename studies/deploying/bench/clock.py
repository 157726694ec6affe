"""Times contenders in shuffled, interleaved rounds, and says how busy the rest of the machine is.

Seconds are of CPU, of this process alone, unless a contender brings its own clock: on an idle machine those of a clock
on the wall, on a busy one without what other processes take. What they share, caches and power, still shows.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Sampler = Callable[[], float]  # one sample: seconds of one run
_STAT = Path("/proc/stat")


def repeated(run: Callable[[], object], *, least: float, clock: Callable[[], float] = time.process_time) -> Sampler:
    """A sampler that averages over as many runs as take `least` seconds; warm: runs until two of them take as long."""
    count = 1
    while (took := _seconds(run, count, clock)) < least:
        count = max(2 * count, int(1.2 * count * least / max(took, 1e-9))) if took > least / 50 else 8 * count
    return lambda: _seconds(run, count, clock) / count


def interleaved(samplers: Mapping[str, Sampler], *, rounds: int, seed: int = 0) -> dict[str, float]:
    """Median seconds of each contender over `rounds`, every round in a new shuffled order."""
    order, rng = list(samplers), random.Random(seed)
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    gc.collect()  # the waste of what came before is not the first contender's
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            samples[name].append(samplers[name]())
    return {name: statistics.median(found) for name, found in samples.items()}


def busy_cores(seconds: float = 0.2) -> float | None:
    """How many cores others keep busy while this process sleeps; None where /proc/stat does not say."""
    if not _STAT.exists():
        return None
    before = _ticks()
    time.sleep(seconds)
    busy, idle = (after - then for after, then in zip(_ticks(), before, strict=True))
    return busy / max(busy + idle, 1) * _cores()


def _ticks() -> tuple[int, int]:
    """Of all cores since the start of the machine: busy (stolen by other guests included), and idle."""
    user, nice, system, idle, wait, *rest = map(int, _STAT.read_text().splitlines()[0].split()[1:])
    return user + nice + system + sum(rest[:3]), idle + wait


def _cores() -> int:
    return sum(line.startswith("cpu") for line in _STAT.read_text().splitlines()) - 1


def _seconds(run: Callable[[], object], count: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(count):
        run()
    return clock() - start
