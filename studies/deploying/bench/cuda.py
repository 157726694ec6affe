"""G0-G6: the kernels for NVIDIA GPUs beside cuBLAS and cuDNN, where there is a device; open rows where there is none.

Seconds are by device events around graphs captured once; buffers rotate over several hundred MB, data are random bits.
The instructions' own rates are measured first: shares are of those.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from core.deploy.cuda.device import CupyLauncher
from core.deploy.cuda.launcher import DeviceError
from core.deploy.cuda.rates import rates
from core.deploy.cuda.sum_steps import Sums
from studies.deploying.bench import cuda_exact, cuda_peers, graphs
from studies.deploying.bench.clock import Sampler
from studies.deploying.bench.goals import Bench, Case, Failed, Found, Goal, Measured, Missing, Row, Section, Unmeasured
from studies.deploying.bench.networks import WIDTHS
from studies.deploying.bench.recorded import Recording, record, touched

ROTATED = 400 << 20  # bytes: several times the second cache of any device
MOST_COPIES = 256
SAMPLE = 0.02  # seconds of the device
TURNS, BLOCKS_A_PROCESSOR = 4096, 8  # of the kernels of rates alone
OCTETS = {"fp32": 4, "bf16": 2, "fp8": 1, "int8": 1}  # of a number
NO_WGMMA = Missing("there is no wgmma kernel in this package")
GOALS = (
    Goal("G0 and", "rate of the bit mma with and (BMMA.AND)", None, "Pop/s"),
    Goal("G0 xor", "rate of the bit mma with xor, emulated from sm_90 on", None, "Pop/s"),
    Goal("G0 popc", "rate of xor, popcount and add of 32-bit words (POPC)", None, "Pop/s"),
    Goal("G0 wgmma", "rate of wgmma b1 (BGMMA)", None, "Pop/s"),
    Goal("G1 limit", "popcount kernel, 4096^3, bits in and out: share of the measured POPC rate", 0.75, "share"),
    Goal("G1 fp32", "popcount kernel, 4096^3, bits in and out: cuBLAS fp32 without TF32 / ours", 3),
    Goal("G2 limit", "bit mma kernel, 8192^3, bits in and out: share of the measured BMMA.AND rate", 0.6, "share"),
    Goal("G2 bf16", "bit mma kernel, 8192^3, bits in and out: cuBLAS bf16 / ours", 4),
    Goal("G2 fp8", "bit mma kernel, 8192^3, bits in and out: cuBLASLt fp8 / ours", 1.5),
    Goal("G2 int8", "bit mma kernel, 8192^3, bits in and out: cuBLASLt int8 / ours", 1.5),
    Goal("G3", "wgmma b1 kernel: share of the measured BGMMA rate", 0.6, "share"),
    Goal("G4 bf16", "1 x 16384 x 16384, bits in and out: cuBLAS bf16 / ours", 10),
    Goal("G4 bytes", "1 x 16384 x 16384, bits in and out: bytes a second, share of a copy's", 0.7, "share"),
    Goal("G4 small", "1 x 4096 x 4096, bits in and out: cuBLAS bf16 / ours", 3),
    Goal("G5 mlp", "MLP 784-2048-2048-10, batch 1, as one graph", 15, "us", least=False),
    Goal("G5 convolutions", "8 3 x 3 convolutions, 256 @ 16 x 16, batch 256: cuDNN bf16 channels_last / ours", 4),
    Goal("G6", "random shapes on which the device and NumPy differ", 0, "shapes", least=False),
)  # fmt: skip
WHY = dict.fromkeys(("G0 wgmma", "G3"), NO_WGMMA)


def missing() -> str | None:
    """Why there is no device to measure on; None where there is one."""
    try:
        CupyLauncher()
    except DeviceError as error:
        return str(error)
    return None if torch.cuda.is_available() else f"torch {torch.__version__}, the peer, sees no CUDA device"


def left_open(reason: str) -> list[Row]:
    """Every goal, not measured."""
    return [goal.row(Missing(reason)) for goal in GOALS]


def told() -> str:
    """The device in words."""
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.multi_processor_count} multiprocessors, CUDA {torch.version.cuda}"


def sections() -> list[Section]:
    """Rates first, then exactness, then the goals; raises DeviceError without a device."""
    device = Device(CupyLauncher())
    parts = {
        "G0": device.rates,
        "G6": device.exactness,
        "G1": device.popcount,
        "G2": device.tensor_cores,
        "G3": lambda _bench: WHY,
        "G4": device.single,
        "G5": device.networks,
    }
    return [
        Section(tuple(goal for goal in GOALS if goal.id.split()[0] == name), _kept_apart(measure))
        for name, measure in parts.items()
    ]


@dataclass
class Device:
    """The launcher, and the rates of instructions once they are measured, in operations a second."""

    launcher: CupyLauncher
    rate: dict[str, float] = field(default_factory=dict)

    def rates(self, bench: Bench) -> Found:
        """G0: what the instructions do on registers alone."""
        processors = torch.cuda.get_device_properties(0).multi_processor_count
        measured = rates(self.launcher, blocks=processors * BLOCKS_A_PROCESSOR, turns=TURNS, clock=self._seconds)
        found: dict[str, Measured | Unmeasured] = dict(WHY)
        for name, (operations, seconds) in measured.items():
            self.rate[part := name.removeprefix("rate_").removeprefix("mma_")] = operations
            told = f"best of 5, {seconds * 1e3:.3g} ms on {processors} multiprocessors, clock as found"
            found[f"G0 {part}"] = Measured(operations / 1e15, told)
        return found

    def exactness(self, bench: Bench) -> Found:
        """G6."""
        count, wrong = cuda_exact.mismatches(self.launcher, 20 if bench.quick else cuda_exact.SHAPES)
        return {
            "G6": Measured(
                len(wrong), f"{count} shapes, the kernels that sum bits in turn; differing: {wrong[:3] or 'none'}"
            )
        }

    def popcount(self, bench: Bench) -> Found:
        """G1."""
        size = 256 if bench.quick else 4096
        medians, case, refused = self._product(bench, (size, size, size), ("fp32",), "tile")
        share = _share(case, medians["ours"], self._measured_rate("popc"))
        return {"G1 limit": share, "G1 fp32": _ratio(medians, "fp32", refused)}

    def tensor_cores(self, bench: Bench) -> Found:
        """G2."""
        size, kinds = 256 if bench.quick else 8192, ("bf16", "fp8", "int8")
        medians, case, refused = self._product(bench, (size, size, size), kinds, "mma")
        found: dict[str, Measured | Unmeasured] = {
            "G2 limit": _share(case, medians["ours"], self._measured_rate("and"))
        }
        return found | {f"G2 {kind}": _ratio(medians, kind, refused) for kind in kinds}

    def single(self, bench: Bench) -> Found:
        """G4: one row, where memory is the limit."""
        large, small = (512, 256) if bench.quick else (16384, 4096)
        wide, _, refused = self._product(bench, (1, large, large), ("bf16",), "auto")
        narrow, _, _ = self._product(bench, (1, small, small), ("bf16",), "auto")
        speed, copied = large * large / 8 / wide["ours"], cuda_peers.copied_bytes_a_second()
        told = f"{speed / 1e12:.3g} TB/s of weights; a copy reads and writes {copied / 1e12:.3g} TB/s"
        return {
            "G4 bf16": _ratio(wide, "bf16", refused),
            "G4 bytes": Measured(speed / copied, told),
            "G4 small": _ratio(narrow, "bf16", refused),
        }

    def networks(self, bench: Bench) -> Found:
        """G5: whole networks, from raw inputs on the device."""
        channels, side, layers, batch = (32, 8, 2, 2) if bench.quick else (256, 16, 8, 256)
        rng = np.random.default_rng(0)
        small = record(self.launcher, graphs.mlp(WIDTHS, rng), 1)
        deep = record(self.launcher, graphs.convolutions(channels, side, layers, rng), batch)
        peers = cuda_peers.mlp(WIDTHS, 1), cuda_peers.convolutions(channels, side, layers, batch)
        runs = ("mlp, batch 1", small, peers[0]), (f"{layers} convolutions, batch {batch}", deep, peers[1])
        mlp, convolutions = (
            bench.time(
                Case("gpu network", name),
                {"ours": self._sampler(ours), "torch bf16": _lasting(theirs.sampler)},
            )
            for name, ours, theirs in runs
        )
        return {
            "G5 mlp": Measured(mlp["ours"] * 1e6, f"torch bf16 as one graph {mlp['torch bf16'] * 1e6:.3g} us"),
            "G5 convolutions": _ratio(convolutions, "bf16"),
        }

    def _product(
        self, bench: Bench, shape: tuple[int, int, int], kinds: tuple[str, ...], sums: Sums
    ) -> tuple[dict[str, float], Case, dict[str, Missing]]:
        """Median seconds of ours and of torch in each kind, and why torch has no time in one."""
        rows, outputs, inputs = shape
        case = Case("gpu product", f"{rows} x {outputs} x {inputs}", 2.0 * rows * outputs * inputs)
        graph = graphs.layer(outputs, inputs, np.random.default_rng(0))
        copies = _copies(touched(graph, rows, layer=True))
        ours = record(self.launcher, graph, rows, copies=copies, sums=sums, layer=True)
        samplers, refused = {"ours": self._sampler(ours)}, {}
        for kind in kinds:
            octets = OCTETS[kind] * (rows + outputs) * inputs
            try:
                samplers[f"torch {kind}"] = _lasting(cuda_peers.product(kind, *shape, _copies(octets)).sampler)
            except Missing as reason:
                refused[kind] = reason
        return bench.time(case, samplers), case, refused

    def _measured_rate(self, name: str) -> float:
        if name not in self.rate:
            raise Missing(f"the rate of {name} itself was not measured")
        return self.rate[name]

    def _seconds(self, call: Callable[[], None], times: int = 1) -> float:
        """Of so many calls, by device events."""
        import cupy

        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record(self.launcher.stream)
        for _ in range(times):
            call()
        end.record(self.launcher.stream)
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, end)) / 1e3

    def _sampler(self, recording: Recording) -> Sampler:
        """Seconds of one of the recording's networks, by device events."""

        def of(replays: int) -> Sampler:
            return lambda: self._seconds(recording.replay, replays) / (replays * recording.copies)

        return _lasting(of, recording.copies)


def _kept_apart(measure: Callable[[Bench], Found]) -> Callable[[Bench], Found]:
    """Whatever goes wrong on a device becomes the reason of these rows; time on one is short, and the others go on."""

    def measured(bench: Bench) -> Found:
        try:
            return measure(bench)
        except Unmeasured:
            raise
        except Exception as error:
            traceback.print_exc()
            raise Failed(f"{type(error).__name__}: {error}") from error

    return measured


def _lasting(of: Callable[[int], Sampler], copies: int = 1) -> Sampler:
    """A sampler of as many replays as last SAMPLE seconds."""
    once = max(of(1)(), of(1)()) * copies
    return of(max(1, math.ceil(SAMPLE / once)))


def _copies(octets: int) -> int:
    """How many networks rotate over ROTATED bytes."""
    return min(MOST_COPIES, max(1, -(-ROTATED // octets)))


def _ratio(
    medians: Mapping[str, float], kind: str, refused: Mapping[str, Missing] | None = None
) -> Measured | Unmeasured:
    if refused and kind in refused:
        return refused[kind]
    theirs, ours = medians[f"torch {kind}"], medians["ours"]
    return Measured(theirs / ours, f"torch {kind} {theirs * 1e6:.4g} us, ours {ours * 1e6:.4g} us")


def _share(case: Case, seconds: float, rate: float) -> Measured:
    speed = case.operations / seconds
    return Measured(speed / rate, f"{speed / 1e15:.3g} of {rate / 1e15:.3g} Pop/s")
