"""What the tests of export compare: every integer sum, every sign and the logits of a network in torch."""

import copy
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import methods
from core import problems
from core.claims import laws
from core.deploy import PackedNetwork, info
from core.deploy.export import ExportError, export
from core.deploy.packing import unpack
from core.fit import Run, fit
from core.interface import Predictor, Reading, Rng
from core.layers import Activation, FirstLayer, Network
from core.ops import StraightThrough
from core.predict import as_float, logits, mode, reestimate
from core.problems import Problem
from core.readings import Fixed, SignActivation
from core.statistics import Evaluation, Statistics
from studies.runner.built import build
from studies.runner.cells import Cell

SIGNS = SignActivation(StraightThrough())
STRAY = 1e-3
OPTIONS = {"mlp": {"widths": (50, 33), "dropout": 0.1}, "lenet": {"channels": (8, 12), "units": 40, "affine": True}}
CHEAPER = {"layerwise-sdp": {"signs": "descent", "examples": 500}}
TRACED = 60  # examples whose every value is compared
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
def trained_by() -> Callable[..., tuple[Problem, Network, tuple[Predictor, ...]]]:
    """(method, problem, architecture, activation, steps) -> the problem, the trained network, the method's rules."""
    return _trained


@pytest.fixture
def check_rule() -> Callable[[Network, Predictor, Tensor, Tensor], None]:
    """(network, rule, training inputs, unseen): packed it says what it says in torch, or real weights are refused."""
    return _check_rule


@pytest.fixture
def check_identical() -> Callable[[Case, PackedNetwork, Tensor], None]:
    """Every sum, every sign and every logit of every network is equal to torch's, bit for bit, in all backends."""
    return _check_identical


@pytest.fixture
def check_close() -> Callable[..., None]:
    """The classes are torch's and the logits close to its, in all backends.

    strays: the share of examples that may be further than STRAY, where a sign follows real sums: one that torch's own
    rounding decides may turn.
    """
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
    expected, few = _averaged(case, inputs), inputs[:TRACED]
    for i in range(len(case.readings)):
        truth = case.truth(few, i)
        for backend in BACKENDS:
            _check_trace(truth, packed.trace(few.numpy(), backend=backend, network=i))
    for backend in BACKENDS:
        found = packed.run(inputs.numpy(), backend=backend)
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def _check_trace(truth: Truth, trace: dict[str, np.ndarray]) -> None:
    assert truth.sums, "a network has linear maps"
    for name, sums in truth.sums.items():
        # of ternary weights the sum of both bases, twice theirs
        found = trace[name] if name in trace else trace[f"{name}.bases"] / 2
        np.testing.assert_array_equal(found, sums, err_msg=name)
    for name, signs in truth.signs.items():
        np.testing.assert_array_equal(unpack(trace[name], signs.shape[3]), signs, err_msg=name)


def _check_close(case: Case, packed: PackedNetwork, inputs: Tensor, *, strays: float = 0.0) -> None:
    expected = _averaged(case, inputs)
    # Sums in another order err as torch's own float32 sums do; the largest of those errors is met here against float64.
    # Twice that is between two float32 evaluations, and the largest of another sample may be a few times larger.
    bound = 8 * np.abs(expected - _averaged(_in_double(case), inputs)).max() if not strays else STRAY
    for backend in BACKENDS:
        found = packed.run(inputs.numpy(), backend=backend)
        far = (np.abs(found - expected) > bound).any(1)
        assert far.mean() <= strays, f"{far.sum()} of {len(far)} examples further than {bound:.2g}"
        np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))


def _in_double(case: Case) -> Case:
    """The same networks in float64."""
    net = copy.deepcopy(case.net).double()
    pairs = list(zip((law for _, law in laws(case.net)), (law for _, law in laws(net)), strict=True))
    readings = [
        replace(reading, weights=Fixed({new: reading.weights.weights[old].double() for old, new in pairs}))
        for reading in case.readings
    ]
    return Case(net, case.rule, readings, case.statistics)


def _averaged(case: Case, inputs: Tensor) -> np.ndarray:
    """As `predict` averages logits."""
    pairs = zip(case.readings, case.statistics, strict=True)
    first, *others = (logits(case.net, reading, statistics, inputs, Rng()) for reading, statistics in pairs)
    return (sum(others, first) / len(case.readings)).numpy()


def _check_rule(net: Network, rule: Predictor, train: Tensor, unseen: Tensor) -> None:
    if rule.weight_bits == 32:
        with pytest.raises(ExportError, match="no layer has binary weights|real weights|fixes no network"):
            export(net, rule, inputs=train)
        return
    made = _case(net, train, rule, seed=7)
    packed = export(net, rule, inputs=train, statistics=made.statistics, rng=Rng().manual_seed(7))
    assert len(packed.form.networks) == rule.networks
    check = _check_identical if net.activation == "sign" else _check_close
    check(made, packed, unseen)


def _trained(
    name: str, source: str, architecture: str, activation: str, steps: int
) -> tuple[Problem, Network, tuple[Predictor, ...]]:
    problem, method = _problem(source), methods.make(name, **CHEAPER.get(name, {}))
    options = {"name": architecture, "activation": activation, **OPTIONS[architecture]}
    cell = Cell("export", source, name, 0, options, {}, {"steps": steps}, 100, "cosine")
    built = build(cell, method, problem)
    prepared = built.prepared()
    train = problem.train
    run = Run(
        built.model,
        method,
        train.inputs,
        train.labels,
        built.budget,
        schedule="cosine",
        order=built.rng("order"),
        noise=built.rng("noise"),
        masks=built.rng("masks"),
        prepared=prepared,
    )
    assert fit(run).diverged is None
    return problem, built.model, tuple(method.predictors)


@functools.cache
def _problem(source: str) -> Problem:
    folder = os.environ.get("BITRELAX_DATA")
    return problems.load(source, Path(folder) if folder else None)
