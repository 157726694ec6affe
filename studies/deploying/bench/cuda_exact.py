"""G6: random layers and networks on the device against NumPy, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from core.deploy import reference
from core.deploy.cuda.backend import Executor
from core.deploy.cuda.launcher import Launcher
from core.deploy.cuda.sum_steps import SUMS_BY
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.operations import Binarize, MaxPoolBits
from core.deploy.sums import PADDINGS, BinConv2d, BinLinear
from studies.deploying.bench import graphs

SHAPES = 240
SEED = 6


def mismatches(launcher: Launcher, shapes: int = SHAPES) -> tuple[int, list[str]]:
    """How many random graphs were run, and the names of those where a single bit or number differs.

    Each is run with one of the choices of kernels that sum bits, in turn.
    """
    wrong = []
    for number, (graph, x) in enumerate(cases(shapes)):
        sums = SUMS_BY[number % len(SUMS_BY)]
        found = Executor(graph, launcher=launcher, sums=sums).run(x)
        expected = reference.Executor(graph).run(x)
        if found.dtype != expected.dtype or not np.array_equal(found, expected):
            wrong.append(f"{number} ({sums}; {graph.input.value.shape} -> {graph.values[graph.output].shape})")
    return shapes, wrong


def cases(shapes: int) -> Iterator[tuple[Graph, np.ndarray]]:
    """Random graphs, linear layers and convolutions in turn, each with random inputs."""
    rng = np.random.default_rng(SEED)
    for number in range(shapes):
        graph = _linear(rng) if number % 2 else _convolution(rng)
        batch = int(rng.integers(1, 200 if number % 2 else 5))
        yield graph, rng.normal(size=(batch, *graph.input.raw_shape)).astype(np.float32)


def _linear(rng: np.random.Generator) -> Graph:
    """Two linear layers of ragged widths, with a sign between them; sums at the end."""
    n_in, n_hidden, n_out = (int(n) for n in rng.integers(1, 700, size=3))
    nodes = (
        Node("pack", Binarize(np.zeros(n_in, np.float32)), ("input",)),
        Node("first", BinLinear(graphs.bits((n_hidden, 1, 1, n_in), rng)), ("pack",)),
        Node("sign", graphs.threshold(n_hidden, n_in, rng), ("first",)),
        Node("second", BinLinear(graphs.bits((n_out, 1, 1, n_hidden), rng)), ("sign",)),
    )
    return Graph(Input((n_in,), Value("f32", (1, 1, n_in))), nodes, "second")


def _convolution(rng: np.random.Generator) -> Graph:
    """One convolution of random kernel, stride, dilation, groups and padding, its sign, and a pooling where it fits."""
    groups = int(rng.choice([1, 1, 1, 2, 4]))
    n_in, n_out = (int(n) * groups for n in rng.integers(1, 150 // groups, size=2))
    kernel, stride, dilation = (int(n) for n in rng.integers(1, [4, 3, 3]))
    height, width = (int(n) for n in rng.integers(dilation * (kernel - 1) + 2, 20, size=2))
    weights = graphs.bits((n_out, kernel, kernel, n_in // groups), rng)
    pad = PADDINGS[int(rng.integers(3))]
    sums = BinConv2d(weights, stride, dilation, int(rng.integers(0, kernel)), groups, pad)
    fan_in = kernel * kernel * n_in // groups
    nodes = [
        Node("pack", Binarize(np.zeros(n_in, np.float32)), ("input",)),
        Node("convolution", sums, ("pack",)),
        Node("sign", graphs.threshold(n_out, fan_in, rng), ("convolution",)),
    ]
    graph = Graph(Input((n_in, height, width), Value("f32", (height, width, n_in))), tuple(nodes), "sign")
    made = graph.values["sign"].shape
    if min(made[:2]) < 2:
        return graph
    pool = MaxPoolBits(2, 2, smallest=graphs.bits((n_out,), rng))
    return Graph(graph.input, (*nodes, Node("pool", pool, ("sign",))), "pool")
