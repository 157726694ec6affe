"""C2, C3, C7 and C8's other half: 3 x 3 convolutions of one image, as layers of a packed network.

From bits to bits: what a network of five such layers takes beyond one of a single layer, over four. From floats to
floats: what packing, a layer and its sums as floats take beyond the network that only hands on the floats, channels
last as Larq has them. So borders, padding and every output are in the times, and what comes before a layer is not.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from core.deploy.form import Graph
from core.deploy.native import Executor
from studies.deploying.bench import graphs, kernels, peers
from studies.deploying.bench.clock import Sampler
from studies.deploying.bench.compute_engine import MODES, Larq
from studies.deploying.bench.goals import Bench, Case, Found, Goal, Measured, Section, Unmeasured
from studies.deploying.bench.products import of_level, ratio

SHAPES = ((128, 32), (256, 16))  # channels, side
QUICK = ((32, 8), (64, 4))
DEEP = 5  # layers of the longer network
BEFORE = ("input", "floats")  # steps that are not the layer's
WHOLE = "ours, the whole call"


def _goals(channels: int, side: int) -> tuple[Goal, ...]:
    name = f"3 x 3, {channels} -> {channels} @ {side} x {side}"
    end = str(channels)
    return (
        Goal(f"C2 {end} limit", f"{name}, bits to bits: share of the limit", 0.8, "share"),
        Goal(f"C2 {end} fp32", f"{name}, bits to bits: torch fp32 channels_last / ours", 17),
        Goal(f"C2 {end} int8", f"{name}, bits to bits: torch's quantized convolution / ours", 4.5),
        Goal(f"C3 {end} best", f"{name}, float32 in and out: Larq Compute Engine's best mode / ours", 10),
        Goal(f"C3 {end} default", f"{name}, float32 in and out: Larq Compute Engine's default mode / ours", 50),
        Goal(f"C7 {end}", f"{name}, float32 to pooled bits: share that is not sums", 0.12, "share", least=False),
        Goal(f"C8 avx2 {end}", f"{name}, bits to bits: torch fp32 / our AVX2 level", 6),
        Goal(f"C8 portable {end}", f"{name}, bits to bits: torch fp32 / our portable level", 1),
    )


@dataclass(frozen=True)
class Convolution:
    """One shape, with Larq Compute Engine's process or why there is none."""

    channels: int
    side: int
    larq: Larq | Unmeasured

    def __call__(self, bench: Bench) -> Found:
        """From bits to bits beside torch, from floats to floats beside Larq too, and the shares of one layer."""
        channels, side = self._size(bench)
        medians = _bits(bench, channels, side)
        top, end = kernels.levels()[-1], str(self.channels)
        fraction = bench.fraction(_case(channels, side), f"ours {top}")
        found: dict[str, Measured | Unmeasured] = {
            f"C2 {end} limit": Measured(fraction, f"level {top}, a layer of a network, its borders included"),
            f"C2 {end} fp32": ratio(medians, peers.FP32, f"ours {top}"),
            f"C2 {end} int8": ratio(medians, peers.INT8, f"ours {top}"),
            f"C7 {end}": _shares(bench, channels, side),
        }
        found |= {f"C8 {level} {end}": of_level(medians, level) for level in ("avx2", "portable")}
        return found | self._floats(bench, channels, side)

    def _size(self, bench: Bench) -> tuple[int, int]:
        mine = (self.channels, self.side)
        return QUICK[SHAPES.index(mine)] if bench.quick else mine

    def _floats(self, bench: Bench, channels: int, side: int) -> Found:
        """C3; Larq's runs are between ours."""
        end = str(self.channels)
        graph = graphs.convolutions(channels, side, 1, np.random.default_rng(1), real_output=True)
        samplers = {
            "ours": _beyond(bench, graph, graphs.floats(channels, side), channels, side),
            WHOLE: bench.sampler(_run(graph, channels, side)),
        }
        forms = peers.convolution(channels, side, 1, _rng())
        samplers |= {name: bench.sampler(run) for name, run in forms.items() if name.startswith(peers.FP32)}
        reason = self.larq
        if isinstance(self.larq, Larq):
            try:
                layer = f"conv {channels} {side}"
                samplers |= {f"larq {mode}": self.larq.sampler(layer, mode, least=bench.least) for mode in MODES}
            except Unmeasured as error:
                reason = error
        medians = bench.time(_case(channels, side, ", float32 in and out"), samplers)
        if isinstance(reason, Unmeasured):
            return {f"C3 {end} best": reason, f"C3 {end} default": reason}
        ours, whole, fp32 = medians["ours"], medians[WHOLE], peers.best(medians, peers.FP32)
        found = {}
        for part, mode in (("best", "indirect"), ("default", "default")):
            theirs = medians[f"larq {mode}"]
            told = f"{MODES[mode]}, {theirs * 1e3:.3g} ms, ours {ours * 1e6:.4g} us, torch fp32 {fp32 * 1e3:.3g} ms"
            told += (
                "; ours is a layer within a network, transposition and call taken off; "
                f"the whole call takes {whole * 1e6:.4g} us, {theirs / whole:.3g}x"
            )
            found[f"C3 {end} {part}"] = Measured(theirs / ours, f"{told}; {reason}")
        return found


def sections(larq: Larq | Unmeasured) -> list[Section]:
    """C2, C3, C7, C8, one section a shape."""
    return [Section(_goals(*shape), Convolution(*shape, larq)) for shape in SHAPES]


def _bits(bench: Bench, channels: int, side: int) -> dict[str, float]:
    samplers = {f"ours {level}": _layer(bench, channels, side, level) for level in kernels.levels()}
    forms = peers.convolution(channels, side, 1, _rng())
    return bench.time(_case(channels, side), samplers | {name: bench.sampler(run) for name, run in forms.items()})


def _layer(bench: Bench, channels: int, side: int, level: str) -> Sampler:
    """Seconds of one layer within a network: what DEEP - 1 layers add to one."""
    single, deep = (graphs.convolutions(channels, side, n, np.random.default_rng(n)) for n in (1, DEEP))
    more = _beyond(bench, deep, single, channels, side, level)
    return lambda: more() / (DEEP - 1)


def _beyond(bench: Bench, whole: Graph, part: Graph, channels: int, side: int, level: str | None = None) -> Sampler:
    """Seconds that one network takes more than another, one right after the other."""
    long, short = (bench.sampler(_run(graph, channels, side, level)) for graph in (whole, part))
    return lambda: long() - short()


def _shares(bench: Bench, channels: int, side: int) -> Measured:
    """Of a layer from floats (channels last) to pooled bits: what is not sums, by the clock of its steps."""
    graph = graphs.convolutions(channels, side, 1, np.random.default_rng(2), pool=True)
    executor, x = Executor(graph), _images(channels, side)
    shares: list[dict[str, float]] = []
    for _ in range(20 * bench.rounds):
        seconds: dict[str, float] = {}
        for name, kind, took in executor.profile(x):
            if name not in BEFORE:
                seconds[kind] = seconds.get(kind, 0.0) + took
        shares.append({kind: took / sum(seconds.values()) for kind, took in seconds.items()})
    medians = {kind: statistics.median(share[kind] for share in shares) for kind in shares[0]}
    told = ", ".join(f"{kind} {share:.1%}" for kind, share in medians.items())
    return Measured(
        statistics.median(1 - share["sums"] for share in shares), f"{told}; borders and the sign are within the sums"
    )


def _run(graph: Graph, channels: int, side: int, level: str | None = None) -> Callable[[], object]:
    executor, x = Executor(graph, level=level), _images(channels, side)
    return lambda: executor.run(x)


def _images(channels: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, channels, side, side)).astype(np.float32)


def _case(channels: int, side: int, how: str = "") -> Case:
    work = 2.0 * 9 * channels * channels * side * side
    return Case("convolution", f"3 x 3, {channels} -> {channels} @ {side} x {side}{how}", work)


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
