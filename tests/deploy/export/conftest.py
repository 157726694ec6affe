"""What the tests of export compare: every integer sum, every sign and the logits of a network in torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from core.deploy import PackedNetwork, info
from core.deploy.packing import unpack
from core.interface import Predictor, Reading, Rng
from core.layers import Activation, FirstLayer, Network
from core.ops import StraightThrough
from core.predict import as_float, logits, mode, reestimate
from core.readings import SignActivation
from core.statistics import Evaluation, Statistics

SIGNS = SignActivation(StraightThrough())
BACKENDS = ["numpy", "native"] if info().backend == "native" else ["numpy"]


@dataclass(frozen=True)
class Truth:
    """Of one network in torch: sums of its linear maps and signs by layer name, channels last, and its logits."""

    sums: dict[str, np.ndarray]
    signs: dict[str, np.ndarray]
    logits: np.ndarray


@dataclass(frozen=True)
class Case:
    """A network, the rule that predicts with it, its readings and their statistics."""

    net: Network
    rule: Predictor
    readings: Sequence[Reading]
    statistics: Sequence[Statistics]

    def truth(self, inputs: Tensor, i: int = 0) -> Truth:
        return _truth(self.net, self.readings[i], self.statistics[i], inputs)


@pytest.fixture
def case() -> Callable[..., Case]:
    """(network, training inputs, rule=mode, seed=0) -> the networks that the rule draws with that seed."""
    return _case


@pytest.fixture
def check_identical() -> Callable[[Case, PackedNetwork, Tensor], None]:
    """Every sum, every sign and every logit of every network is equal to torch's, bit for bit, in all backends."""
    return _check_identical


@pytest.fixture
def check_close() -> Callable[..., None]:
    """The classes are torch's, and the logits within `bound` of them, in all backends."""
    return _check_close


def _case(net: Network, inputs: Tensor, rule: Predictor | None = None, *, seed: int = 0) -> Case:
    rule, rng = rule or mode(SIGNS), Rng().manual_seed(seed)
    readings = list(rule.readings(net, rng))
    return Case(net, rule, readings, [reestimate(net, reading, inputs, rng) for reading in readings])


@torch.no_grad()
def _truth(net: Network, reading: Reading, statistics: Statistics, inputs: Tensor) -> Truth:
    sums: dict[str, np.ndarray] = {}
    signs: dict[str, np.ndarray] = {}

    def note(name, module, args, output):
        if isinstance(module, Activation):
            signs[name] = _channels_last(output)
        elif isinstance(module, FirstLayer):
            weights = reading.weights.weights[module.law]
            sums[name] = _channels_last(module.contract(module.arranged(args[0]), weights))
        else:
            sums[name] = _channels_last(output)

    watched = [(name, m) for name, m in net.named_modules() if isinstance(m, Activation) or hasattr(m, "contract")]
    hooks = [m.register_forward_hook(lambda m, a, out, name=name: note(name, m, a, out)) for name, m in watched]
    try:
        out = net(as_float(inputs, net), reading.during(Evaluation(statistics)), Rng())
    finally:
        for hook in hooks:
            hook.remove()
    return Truth(sums, signs, out.numpy())


def _channels_last(h: Tensor) -> np.ndarray:
    return h.reshape(*h.shape, *[1] * (4 - h.ndim)).permute(0, 2, 3, 1).numpy()


def _check_identical(case: Case, packed: PackedNetwork, inputs: Tensor) -> None:
    assert packed.form.facts["exact"], packed.form.facts["inexact_because"]
    for backend in BACKENDS:
        for i in range(len(case.readings)):
            _check_trace(case.truth(inputs, i), packed.trace(inputs.numpy(), backend=backend, network=i))
        rng = Rng()
        total = 0
        for reading, statistics in zip(case.readings, case.statistics, strict=True):
            total = total + logits(case.net, reading, statistics, inputs, rng)
        expected = (total / len(case.readings)).numpy()
        np.testing.assert_array_equal(packed.run(inputs.numpy(), backend=backend), expected)


def _check_trace(truth: Truth, trace: dict[str, np.ndarray]) -> None:
    assert truth.sums, "a network has linear maps"
    for name, sums in truth.sums.items():
        assert trace[name].dtype == np.int32 or sums.shape[1:3] == (1, 1), "integers, but for averaged features"
        np.testing.assert_array_equal(trace[name], sums, err_msg=name)
    for name, signs in truth.signs.items():
        np.testing.assert_array_equal(unpack(trace[name], signs.shape[3]), signs, err_msg=name)


def _check_close(case: Case, packed: PackedNetwork, inputs: Tensor, bound: float) -> None:
    total = sum(logits(case.net, r, s, inputs, Rng()) for r, s in zip(case.readings, case.statistics, strict=True))
    expected = (total / len(case.readings)).numpy()
    for backend in BACKENDS:
        found = packed.run(inputs.numpy(), backend=backend)
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
        np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
