"""Every method's network after training, by each of its rules, says when packed what it says in torch."""

import functools
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

import methods
from core import problems
from core.deploy.export import ExportError, export
from core.fit import Run, fit
from core.interface import Predictor, Rng
from core.layers import Network
from core.ops import StraightThrough
from core.predict import ensemble, predict
from core.problems import Problem
from core.readings import SignActivation
from studies.runner.built import build
from studies.runner.cells import Cell

SIGNS = SignActivation(StraightThrough())
NETWORKS = {"mlp": {"widths": (50, 33), "dropout": 0.1}, "lenet": {"channels": (8, 12), "units": 40, "affine": True}}
CHEAPER = {"layerwise-sdp": {"signs": "descent", "examples": 500}}


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["sign", "relu"])
@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("name", methods.names())
def test_trained_on_digits(name: str, architecture: str, activation: str, case, check_identical, check_close) -> None:
    problem, net, rules = trained(name, "digits", architecture, activation, 60)
    for rule in rules:
        rule = ensemble(5, SIGNS) if rule.networks > 10 else rule
        check(net, rule, problem.train.inputs[:500], problem.test.inputs, case, check_identical, check_close)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("activation", ["sign", "relu"])
@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("name", methods.names())
def test_trained_on_mnist(name: str, architecture: str, activation: str, case, check_identical, check_close) -> None:
    problem, net, rules = trained(name, "mnist-10k", architecture, activation, 20)
    for rule in (rule for rule in rules if rule.networks == 1):
        check(net, rule, problem.train.inputs[:500], problem.test.inputs[:200], case, check_identical, check_close)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("activation", ["sign", "relu"])
def test_whole_test_set_of_mnist(activation: str, case, check_identical, check_close) -> None:
    problem, net, (rule, *_) = trained("ste", "mnist-10k", "mlp", activation, 180)
    check(net, rule, problem.train.inputs[:1000], problem.test.inputs, case, check_identical, check_close)


def check(net: Network, rule: Predictor, train: Tensor, unseen: Tensor, case, identical, close) -> None:
    if rule.weight_bits == 32:
        with pytest.raises(ExportError, match="no layer has binary weights|real weights|fixes no network"):
            export(net, rule, inputs=train)
        return
    made = case(net, train, rule, seed=7)
    packed = export(net, rule, inputs=train, statistics=made.statistics, rng=Rng().manual_seed(7))
    assert len(packed.form.networks) == rule.networks
    if net.activation == "sign":
        identical(made, packed, unseen)
    else:
        close(made, packed, unseen)


def trained(
    name: str, source: str, architecture: str, activation: str, steps: int
) -> tuple[Problem, Network, tuple[Predictor, ...]]:
    problem, method = load(source), methods.make(name, **CHEAPER.get(name, {}))
    options = {"name": architecture, "activation": activation, **NETWORKS[architecture]}
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
def load(source: str) -> Problem:
    folder = os.environ.get("BITRELAX_DATA")
    return problems.load(source, Path(folder) if folder else None)


def test_ensembles_are_the_networks_that_predict_draws() -> None:
    """With one generator, export and `predict` see the same draws."""
    problem, net, rules = trained("bayesbinn", "digits", "mlp", "sign", 60)
    rule = next(rule for rule in rules if rule.networks > 1)
    train, unseen = problem.train.inputs, problem.test.inputs
    packed = export(net, rule, inputs=train, rng=Rng().manual_seed(3))
    expected = predict(net, rule, train, (unseen,), Rng().manual_seed(3)).scores[0]
    assert torch.equal(torch.from_numpy(packed.run(unseen.numpy())), expected)
