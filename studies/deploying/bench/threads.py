"""C9: two threads beside one, by the clock on the wall, and only where another core has nothing else to do."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from core.deploy.form import Graph
from core.deploy.native import Executor
from studies.deploying.bench import clock, graphs, kernels
from studies.deploying.bench.goals import Bench, Case, Found, Goal, Measured, Missing, Section, Unmeasured
from studies.deploying.bench.networks import WIDTHS
from studies.runner import machine

MOST_BUSY = 0.3  # cores kept busy by others
GOALS = (
    Goal("C9 convolution", "3 x 3, 128 -> 128 @ 32 x 32, 5 layers, 8 images: one thread / two", 1.7),
    Goal("C9 mlp", "MLP 784-2048-2048-10, batch 256: one thread / two", 1.7),
    Goal("C9 small", "MLP 784-2048-2048-10, batch 1, little work: one thread / two", 0.95),
)


def measure(bench: Bench) -> Found:
    """Each network with one thread and two; a row that was not quiet to its end is not measured."""
    kernels.built()
    if machine.cores() < 2:
        raise Missing("this process may use one core only")
    rng = np.random.default_rng(0)
    channels, widths = (32, (64, 64, 10)) if bench.quick else (128, WIDTHS)
    deep, wide = graphs.convolutions(channels, 32, 5, rng), graphs.mlp(widths, rng)
    cases = (("convolution", deep, 8), ("mlp", wide, 256), ("small", wide, 1))
    return {f"C9 {part}": _ratio(bench, part, graph, batch) for part, graph, batch in cases}


def section() -> Section:
    """C9."""
    return Section(GOALS, measure)


def _ratio(bench: Bench, part: str, graph: Graph, batch: int) -> Measured | Unmeasured:
    before = clock.busy_cores(1.0)
    if before is None or before > MOST_BUSY:
        told = "how busy the cores are is not known" if before is None else f"others keep {before:.2f} cores busy"
        return Missing(f"two threads are timed on idle cores only: {told}, at most {MOST_BUSY}")
    x = np.random.default_rng(0).normal(size=(batch, *graph.input.raw_shape)).astype(np.float32)
    least = bench.least
    samplers = {
        f"{n} thread{'s' * (n > 1)}": clock.repeated(_run(graph, x, n), least=least, clock=time.perf_counter)
        for n in (1, 2)
    }
    medians = bench.time(Case("threads", f"{part}, batch {batch}"), samplers)
    after = clock.busy_cores(1.0)
    if after is None or after > MOST_BUSY:
        return Missing(f"the other core was idle when it began and not when it ended ({after} cores busy)")
    one, two = medians["1 thread"], medians["2 threads"]
    return Measured(one / two, f"{one * 1e6:.4g} us, {two * 1e6:.4g} us; others kept {before:.2f} cores busy")


def _run(graph: Graph, x: np.ndarray, threads: int) -> Callable[[], object]:
    executor = Executor(graph, threads=threads)
    return lambda: executor.run(x)
