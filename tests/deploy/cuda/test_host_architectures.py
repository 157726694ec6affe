"""Exported architectures on the host's emulation of the GPU kernels: the logits are torch's, bit for bit."""

import numpy as np
import pytest
import torch

from core.architectures import InputForm, build
from core.deploy.cuda.backend import Executor
from core.deploy.cuda.sum_steps import SUMS_BY
from core.deploy.export import export
from core.interface import Rng
from core.laws import Point, initial_uniform
from core.ops import StraightThrough
from core.predict import logits, mode, reestimate
from core.readings import SignActivation

FORM = InputForm(432, shift=100.3, scale=61.7, maximum=255.0, integer=True, shape=(3, 12, 12))
NETWORKS = {
    "mlp": {"widths": (64, 33), "affine": True},
    "lenet": {"channels": (20, 37), "units": 50, "affine": True},
    "vgg-small": {"channels": (16, 48, 128), "units": 160},
    "resnet18": {"channels": (8, 16, 32, 64), "downsample": "binary", "first": "binary", "last": "binary"},
}


@pytest.mark.parametrize("sums", SUMS_BY)
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_of_a_network_of_signs_are_those_of_torch(host, name: str, sums: str) -> None:
    rng = Rng().manual_seed(0)
    net = build(
        name, FORM, 7, lambda shape, rng: Point(initial_uniform(shape, rng)), rng, activation="sign", **NETWORKS[name]
    )
    generator = torch.Generator().manual_seed(1)
    inputs, unseen = torch.randint(0, 256, (2, 60, 3, 12, 12), dtype=torch.uint8, generator=generator)
    (graph,) = export(net, inputs=inputs).form.networks
    (reading,) = mode(SignActivation(StraightThrough())).readings(net, rng)
    expected = logits(net, reading, reestimate(net, reading, inputs, rng), unseen[:12], rng).detach().numpy()
    found = Executor(graph, launcher=host(), sums=sums).run(unseen[:12].numpy())
    assert np.array_equal(found.reshape(expected.shape), expected)
