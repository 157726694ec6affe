"""The whole GPU backend on the host's emulation: every value of every network is that of the reference, bit for bit."""

import numpy as np
import pytest

from core.deploy import reference
from core.deploy.cuda.backend import Executor
from core.deploy.cuda.sum_steps import SUMS_BY

BATCHES = (1, 2, 3, 5, 9)


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Same shape, kind and numbers; -0.0 is 0.0 (the order of a maximum's operands decides between them)."""
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sums", SUMS_BY)
def test_every_value_of_random_networks_is_the_reference(host, random, sums, seed) -> None:
    for k in range(8):
        source = random(1000 * seed + k)
        graph = source.graph()
        x = source.inputs(graph, BATCHES[k % len(BATCHES)])
        expected = reference.Executor(graph).trace(x)
        executor = Executor(graph, launcher=host(), sums=sums)
        for name, array in executor.trace(x).items():
            assert equal(array, expected[name]), (name, graph.nodes)
        assert equal(executor.run(x), expected[graph.output]), graph.nodes
