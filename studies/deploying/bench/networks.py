"""C5, C6: whole networks from one call: the MLP of the goals, and the CIFAR network beside Larq Compute Engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from core.layers import Network
from studies.deploying.bench import graphs, kernels, peers
from studies.deploying.bench.compute_engine import MODES, Larq
from studies.deploying.bench.goals import Bench, Case, Found, Goal, Measured, Section, Unmeasured
from studies.deploying.bench.products import ratio

WIDTHS = (784, 2048, 2048, 10)
BATCHES = {1: 40, 32: 30, 256: 25}
MLP_GOALS = (
    *(
        Goal(
            f"C5 batch {batch}", f"MLP 784-2048-2048-10, float32 in, one call, batch {batch}: torch fp32 / ours", least
        )
        for batch, least in BATCHES.items()
    ),
    Goal("C5 microseconds", "MLP 784-2048-2048-10, one call, batch 1", 30, "us", least=False),
)
CIFAR_GOALS = (
    Goal("C6 larq", "BinaryNet-CIFAR, one 8-bit image: Larq Compute Engine's best mode / ours", 8),
    Goal("C6 fp32", "BinaryNet-CIFAR, one 8-bit image: torch fp32 channels_last / ours", 12),
    Goal("C6 size", "BinaryNet-CIFAR: float32 parameters' bytes / the file's", 25),
)


def mlp(bench: Bench) -> Found:
    """Each batch beside torch, batch norm folded there too."""
    kernels.built()
    widths = (64, 64, 64, 10) if bench.quick else WIDTHS
    network = graphs.packed(graphs.mlp(widths, np.random.default_rng(0)))
    found: dict[str, Measured | Unmeasured] = {}
    for batch in BATCHES:
        x = np.random.default_rng(batch).normal(size=(batch, widths[0])).astype(np.float32)
        case = Case("network", f"mlp {'-'.join(map(str, widths))}, batch {batch}", _work(widths, batch))
        runs = {"ours": lambda x=x: network.run(x, backend="native"), **peers.mlp(widths, batch, _rng())}
        medians = bench.time(case, {name: bench.sampler(run) for name, run in runs.items()})
        ours = medians["ours"]
        found[f"C5 batch {batch}"] = _beside(medians)
        if batch == 1:
            found["C5 microseconds"] = Measured(
                ours * 1e6, "CPU time of PackedNetwork.run, its checks of the input included"
            )
    return found


@dataclass(frozen=True)
class Cifar:
    """C6, with Larq Compute Engine's process or why there is none."""

    larq: Larq | Unmeasured

    def __call__(self, bench: Bench) -> Found:
        """One image through the exported network, torch's and Larq's; all in the same rounds."""
        kernels.built()
        width = 8 if bench.quick else 1
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, size=(16 if bench.quick else 64, 3, 32, 32), dtype=np.uint8)
        model, network = graphs.binarynet(images, width=width)
        runs = {"ours": lambda: network.run(images[:1], backend="native"), **peers.binarynet(1, _rng(), width=width)}
        samplers = {name: bench.sampler(run) for name, run in runs.items()}
        reason = self.larq
        if isinstance(self.larq, Larq):
            try:
                samplers |= {f"larq {mode}": self.larq.sampler("binarynet", mode, least=bench.least) for mode in MODES}
            except Unmeasured as error:
                reason = error
        medians = bench.time(Case("network", f"binarynet-cifar, width 1/{width}, batch 1"), samplers)
        ours = medians["ours"]
        found: dict[str, Measured | Unmeasured] = {
            "C6 fp32": _beside(medians),
            "C6 size": _size(model, network.size),
        }
        if isinstance(reason, Larq):
            default = medians["larq default"] / ours
            detail = (
                f"{reason}; {MODES['indirect']}, {medians['larq indirect'] * 1e3:.3g} ms; {default:.3g}x its default"
            )
            detail += f"; its file {reason.size('binarynet') / network.size:.3g}x ours"
            found["C6 larq"] = Measured(medians["larq indirect"] / ours, detail)
        else:
            found["C6 larq"] = reason
        return found


def sections(larq: Larq | Unmeasured) -> list[Section]:
    """C5, C6."""
    return [Section(MLP_GOALS, mlp), Section(CIFAR_GOALS, Cifar(larq))]


def _beside(medians: dict[str, float]) -> Measured:
    """Torch's fastest form over ours; the others are said."""
    found = ratio(medians, peers.FP32, "ours")
    peer = peers.fastest(medians, peers.FP32)
    others = [
        f"{name} {seconds * 1e6:.4g} us" for name, seconds in medians.items() if peers.FP32 in name and name != peer
    ]
    return replace(found, detail="; ".join([f"torch's fastest form: {found.detail}", *others]))


def _size(model: Network, size: int) -> Measured:
    holds = model.describe()
    detail = f"{size} bytes; {holds['binary']} binary and {holds['real']} real parameters"
    return Measured(4 * (holds["binary"] + holds["real"]) / size, detail)


def _work(widths: tuple[int, ...], batch: int) -> float:
    return 2.0 * batch * sum(n_in * n_out for n_in, n_out in zip(widths, widths[1:], strict=False))


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)
