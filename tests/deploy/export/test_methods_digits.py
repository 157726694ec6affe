"""Every method's network after training on digits, by each of its rules, says when packed what it says in torch."""

import pytest
import torch

import methods
from core.deploy.export import export
from core.interface import Rng
from core.ops import StraightThrough
from core.predict import ensemble, predict
from core.readings import SignActivation


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["sign", "relu"])
@pytest.mark.parametrize("architecture", ["mlp", "lenet"])
@pytest.mark.parametrize("name", methods.names())
def test_trained_on_digits(name: str, architecture: str, activation: str, trained_by, check_rule) -> None:
    problem, net, rules = trained_by(name, "digits", architecture, activation, 60)
    for rule in rules:
        fewer = ensemble(5, SignActivation(StraightThrough())) if rule.networks > 10 else rule
        check_rule(net, fewer, problem.train.inputs[:500], problem.test.inputs)


def test_ensembles_are_the_networks_that_predict_draws(trained_by) -> None:
    """With one generator, export and `predict` see the same draws."""
    problem, net, rules = trained_by("bayesbinn", "digits", "mlp", "sign", 60)
    rule = next(rule for rule in rules if rule.networks > 1)
    train, unseen = problem.train.inputs, problem.test.inputs
    packed = export(net, rule, inputs=train, rng=Rng().manual_seed(3))
    expected = predict(net, rule, train, (unseen,), Rng().manual_seed(3)).scores[0]
    assert torch.equal(torch.from_numpy(packed.run(unseen.numpy())), expected)
