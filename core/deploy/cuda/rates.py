"""How fast a device executes the instructions that the kernels are made of: what their speed is a fraction of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from core.deploy.cuda.launcher import Launcher
from core.deploy.cuda.records import RATES, THREADS, record
from core.deploy.cuda.steps import Launch

CHAINS = 8  # independent sums a thread or warp, as rates.cu has them
WORK = {  # operations (one and or xor of two bits, one addition) a turn of a block
    "rate_mma_and": THREADS // 32 * CHAINS * 2 * 16 * 8 * 256,
    "rate_mma_xor": THREADS // 32 * CHAINS * 2 * 16 * 8 * 256,
    "rate_popc": THREADS * CHAINS * 2 * 2 * 32,
}
Clock = Callable[[Callable[[], None]], float]


class Rate(NamedTuple):
    """Operations a second that a kernel of nothing else reaches, and the seconds it was timed for."""

    operations: float
    seconds: float


def rates(
    launcher: Launcher, *, blocks: int = 1056, turns: int = 4096, repeats: int = 5, clock: Clock | None = None
) -> dict[str, Rate]:
    """The best of `repeats` runs of each kernel, after one that is not timed.

    blocks: several waves of a device (8 a multiprocessor on 132). clock: the seconds of a call, by the device's events,
    say; by default the wall clock around it and a wait. Units: one binary product and sum is 2 operations.
    """
    clock = clock or (lambda call: _seconds(launcher, call))
    out = launcher.allocate(4 * blocks * THREADS)
    found = {}
    for name, work in WORK.items():
        call = Launch(name, (blocks, 1, 1), 0, record(RATES, out=out.address, turns=turns, seed=1))

        def run(call: Launch = call) -> None:
            launcher.launch(call)

        run()
        launcher.synchronise()
        seconds = min(clock(run) for _ in range(repeats))
        found[name] = Rate(blocks * turns * work / seconds, seconds)
    return found


def _seconds(launcher: Launcher, call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    launcher.synchronise()
    return time.perf_counter() - start


def counted(launcher: Launcher, name: str, *, turns: int, seed: int) -> np.ndarray:
    """What the kernel `name` of WORK leaves of one block: (256,) of uint32, for a check against its own formula."""
    out = launcher.allocate(4 * THREADS)
    launcher.launch(Launch(name, (1, 1, 1), 0, record(RATES, out=out.address, turns=turns, seed=seed)))
    array = np.empty(THREADS, np.uint32)
    launcher.read(out, 0, array)
    return array
