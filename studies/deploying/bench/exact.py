"""X1-X3: that packed networks are the networks, counted in this run; no time is taken here.

X1 is of networks of random weights and statistics of every architecture, on random pixels, beside torch's evaluation;
X3 of random layers and graphs, at every CPU level beside NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from core.architectures import InputForm, build
from core.deploy import reference
from core.deploy.export import export
from core.deploy.native import Executor
from core.deploy.network import PackedNetwork
from core.layers import BatchNorm, Network
from core.ops import StraightThrough
from core.predict import logits, mode, reestimate
from core.readings import SignActivation
from core.seeds import generator
from methods.ste import ste
from studies.deploying.bench import cuda_exact, kernels
from studies.deploying.bench.goals import Bench, Found, Goal, Measured, Missing, Section

PIXELS = InputForm(3 * 16 * 16, shift=120.7, scale=64.1, maximum=255.0, integer=True, shape=(3, 16, 16))
BINARY = {"first": "binary", "last": "binary"}
ARCHITECTURES = (
    ("mlp", {"widths": (70, 33)}),
    ("lenet", {"channels": (9, 20), "units": 45}),
    ("vgg-small", {"channels": (9, 20, 33), "units": 40}),
)
NETWORKS, GRAPHS = 12, 240
EXAMPLES = 64
GOALS = (
    Goal(
        "X1", "random networks on random pixels: logits of which a bit differs from torch's", 0, "logits", least=False
    ),
    Goal("X2", "every pitfall of packing has a test of its own: those without", 0, "pitfalls", least=False),
    Goal("X3", "random graphs of which a bit differs from NumPy at some CPU level", 0, "graphs", least=False),
)


def measure(bench: Bench) -> Found:
    """X1 and X3 as counts of what differs; X2 is the tests' own."""
    levels = kernels.levels()
    networks, graphs = (3, 20) if bench.quick else (NETWORKS, GRAPHS)
    return {
        "X1": _networks(networks, levels),
        "X2": Missing("counted by nothing in this run; the tests of packing, export and kernels are where they are"),
        "X3": _graphs(graphs, levels),
    }


def section() -> Section:
    """X1, X2, X3."""
    return Section(GOALS, measure)


def _networks(count: int, levels: tuple[str, ...]) -> Measured:
    wrong = classes = compared = 0
    for packed, images, expected in _exported(count):
        (graph,) = packed.form.networks
        answers = [Executor(graph, level=level).run(images) for level in levels]
        for found in [reference.Executor(graph).run(images), *answers]:
            found = found.reshape(expected.shape)
            wrong += int((found.view(np.uint32) != expected.view(np.uint32)).sum())
            classes += int((found.argmax(1) != expected.argmax(1)).sum())
            compared += expected.size
    told = f"{count} networks of {', '.join(name for name, _ in ARCHITECTURES)}, {EXAMPLES} images each, by NumPy and"
    return Measured(wrong, f"{told} {', '.join(levels)}: {compared:,} logits compared, {classes} classes differ")


def _exported(count: int) -> Iterator[tuple[PackedNetwork, np.ndarray, np.ndarray]]:
    """Packed networks, images (N, 3, 16, 16) that they were not made with, and torch's logits (N, C) of these."""
    for number in range(count):
        name, options = ARCHITECTURES[number % len(ARCHITECTURES)]
        rng = generator("deploy bench", "exact", number)
        model = build(name, PIXELS, 10, ste().law, rng, activation="sign", affine=True, **BINARY, **options)
        _scattered(model, rng)
        seen, images = (torch.randint(0, 256, (EXAMPLES, 3, 16, 16), generator=rng, dtype=torch.uint8) for _ in "ab")
        rule = mode(SignActivation(StraightThrough()))
        (reading,) = rule.readings(model, rng)
        statistics = reestimate(model, reading, seen, rng)
        packed = export(model, rule, inputs=seen, statistics=[statistics], rng=rng)
        yield packed, images.numpy(), logits(model, reading, statistics, images, rng).numpy()


@torch.no_grad()
def _scattered(model: Network, rng: torch.Generator) -> None:
    """Batch norms of random scale and shift: negative and zero scales among them."""
    for module in model.modules():
        if isinstance(module, BatchNorm) and module.weight is not None:
            scales = torch.randn(module.weight.shape, generator=rng)
            module.weight.copy_(torch.where(torch.rand(scales.shape, generator=rng) < 0.1, 0.0, scales))
            module.bias.copy_(torch.randn(scales.shape, generator=rng))


def _graphs(count: int, levels: tuple[str, ...]) -> Measured:
    wrong, bits = [], 0
    for number, (graph, x) in enumerate(cuda_exact.cases(count)):
        expected = reference.Executor(graph).run(x)
        bits += 8 * expected.nbytes * len(levels)
        differ = [level for level in levels if not np.array_equal(Executor(graph, level=level).run(x), expected)]
        wrong += [f"{number} ({', '.join(differ)})"] if differ else []
    told = f"{count} graphs (ragged widths, strides, dilations, groups, paddings, poolings) at {', '.join(levels)}"
    return Measured(len(wrong), f"{told}: {bits:,} bits compared; differing: {', '.join(wrong[:3]) or 'none'}")
