"""Every method's network after training on MNIST, by each of its rules, says when packed what it says in torch."""

import pytest

import methods


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("activation", ["sign", "relu"])
@pytest.mark.parametrize("architecture", ["mlp", "lenet"])
@pytest.mark.parametrize("name", methods.names())
def test_trained_on_mnist(name: str, architecture: str, activation: str, trained_by, check_rule) -> None:
    problem, net, rules = trained_by(name, "mnist-10k", architecture, activation, 20)
    for rule in (rule for rule in rules if rule.networks == 1):
        check_rule(net, rule, problem.train.inputs[:500], problem.test.inputs[:200])


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("activation", ["sign", "relu"])
def test_whole_test_set_of_mnist(activation: str, trained_by, check_rule) -> None:
    problem, net, (rule, *_) = trained_by("ste", "mnist-10k", "mlp", activation, 180)
    check_rule(net, rule, problem.train.inputs[:1000], problem.test.inputs)
