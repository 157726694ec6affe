"""Nan within a network, where real sums overflowed: activations keep it, signs take it as -1, on every backend."""

import numpy as np
import pytest

from core import extension
from core.deploy import Form, FormError, PackedNetwork
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.operations import Binarize, F32BinLinear, HardTanh, Relu

BACKENDS = ["numpy", *(["native"] if extension.module() is not None else [])]
HUGE = np.float32([[3e38, 3e38, 3e38, 3e38]])  # two sums overflow, and their difference is nan


def network(operation) -> PackedNetwork:
    doubling = np.full((2, 1, 1, 1), 0b1111, np.uint32)
    difference = np.full((1, 1, 1, 1), 0b01, np.uint32)
    nodes = (
        Node("sum", F32BinLinear(doubling), ("input",)),
        Node("difference", F32BinLinear(difference), ("sum",)),
        Node("after", operation, ("difference",)),
    )
    return PackedNetwork(Form((Graph(Input((4,), Value("f32", (1, 1, 4))), nodes, "after"),)))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operation", [Relu(), HardTanh()])
def test_activations_keep_nan(operation, backend: str) -> None:
    assert np.isnan(network(operation).run(HUGE, backend=backend)).all()


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_sign_of_nan_is_minus_one(backend: str) -> None:
    assert (network(Binarize(np.zeros(1, np.float32))).run(HUGE, backend=backend) == 0).all()


def test_names_of_values_are_strings(shapes_unchecked) -> None:
    with pytest.raises(FormError, match="names of values are str"):
        Graph(Input((4,), Value("f32", (1, 1, 4))), (Node(5, Relu(), ("input",)),), 5)
