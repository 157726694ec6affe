"""C1, C4 and C8's half: products of packed signs, thresholds fused, through the kernels of every CPU level."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from studies.deploying.bench import kernels, peers
from studies.deploying.bench.goals import Bench, Case, Found, Goal, Measured, Missing, Section, Unmeasured

SHAPES = (  # rows, outputs, inputs
    (1, 2048, 784),
    (1, 2048, 2048),
    (1, 4096, 4096),
    (32, 2048, 784),
    (32, 4096, 4096),
    (256, 2048, 784),
    (256, 2048, 2048),
    (256, 4096, 4096),
    (256, 1024, 256),
    (256, 1024, 8192),
    (256, 10, 2048),
)
QUICK = ((1, 64, 100), (20, 64, 128))
LARGE, SINGLE = (256, 4096, 4096), (1, 4096, 4096)
GOALS = (
    Goal("C1 limit", "256 x 4096 x 4096, bits in and out: share of the limit", 0.85, "share"),
    Goal("C1 fp32", "256 x 4096 x 4096, bits in and out: torch fp32 / ours", 24),
    Goal("C1 int8", "256 x 4096 x 4096, bits in and out: torch's best int8 / ours", 5),
    Goal("C4 fp32", "1 x 4096 x 4096, one native call: torch fp32 / ours", 60),
    Goal("C4 int8", "1 x 4096 x 4096, one native call: torch's best int8 / ours", 8),
    Goal("C8 avx2 product", "256 x 4096 x 4096: torch fp32 / our AVX2 level", 6),
    Goal("C8 portable product", "256 x 4096 x 4096: torch fp32 / our portable level", 1),
)


def measure(bench: Bench) -> Found:
    """Every shape, every level, every form of the peers."""
    large, single = (QUICK[1], QUICK[0]) if bench.quick else (LARGE, SINGLE)
    medians = {shape: _timed(bench, shape) for shape in (QUICK if bench.quick else SHAPES)}
    top = kernels.levels()[-1]
    found: dict[str, Measured | Unmeasured] = {
        "C1 limit": Measured(
            bench.fraction(_case(large), _name(top)), f"level {top}, {_told(medians[large], top, large)}"
        ),
        "C1 fp32": ratio(medians[large], peers.FP32, _name(top)),
        "C1 int8": ratio(medians[large], peers.INT8, _name(top)),
        "C4 fp32": ratio(medians[single], peers.FP32, _name(top)),
        "C4 int8": ratio(medians[single], peers.INT8, _name(top)),
    }
    return found | {f"C8 {level} product": of_level(medians[large], level) for level in ("avx2", "portable")}


def ratio(medians: Mapping[str, float], peer: str, ours: str) -> Measured:
    """Seconds of a peer's fastest form over ours."""
    form = peers.fastest(medians, peer)
    told = f"{form} {medians[form] * 1e6:.4g} us, {ours} {medians[ours] * 1e6:.4g} us"
    return Measured(medians[form] / medians[ours], told)


def of_level(medians: Mapping[str, float], level: str) -> Measured | Unmeasured:
    """Torch's float32, which keeps its own level, over one level of ours."""
    if _name(level) not in medians:
        return Missing(f"this processor does not run level {level}")
    return ratio(medians, peers.FP32, _name(level))


def section() -> Section:
    """C1, C4, C8."""
    return Section(GOALS, measure)


def _timed(bench: Bench, shape: tuple[int, int, int]) -> dict[str, float]:
    runs = {_name(level): kernels.product(level, *shape) for level in kernels.levels()}
    runs |= peers.linear(*shape, torch.Generator().manual_seed(0))
    return bench.time(_case(shape), {name: bench.sampler(run) for name, run in runs.items()})


def _case(shape: tuple[int, int, int]) -> Case:
    rows, outputs, inputs = shape
    return Case("product", f"{rows} x {outputs} x {inputs}", 2.0 * rows * outputs * inputs)


def _name(level: str) -> str:
    return f"ours {level}"


def _told(medians: Mapping[str, float], level: str, shape: tuple[int, int, int]) -> str:
    return f"{_case(shape).operations / medians[_name(level)] / 1e9:.4g} Gop/s"
