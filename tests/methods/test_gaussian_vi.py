"""gaussian-vi: it conforms with either estimator, and one step is the written rule fed the same noise."""

import pytest
import torch

from core.claims import laws
from core.gaussian_laws import UnitGaussian
from core.interface import Budget, Reading, Tape
from core.layers import BinaryLinear, Chain
from methods import make
from methods.conformance import CHECKS, loss_falls

BUDGET = Budget(n_train=100, batch=10, steps=10)


@pytest.mark.parametrize("law", CHECKS)
def test_gaussian_vi_conforms(law):
    law("gaussian-vi")


def test_the_smooth_estimator_learns_too():
    loss_falls("gaussian-vi", estimator="smooth")


@pytest.mark.parametrize("estimator", ["rounded", "smooth"])
def test_steps_are_projected_gradient_descent_at_the_estimators_own_point(estimator):
    rng = torch.Generator().manual_seed(1)
    method = make("gaussian-vi", estimator=estimator, lr=0.7, momentum=0.9)
    model = Chain(BinaryLinear(method.law(torch.Size([3, 5]), rng))).double()
    ((_, law),) = laws(model)
    assert isinstance(law, UnitGaussian)
    solvers, train = method.solvers(model, BUDGET), method.train(0.0)
    x = torch.randn(8, 5, generator=rng, dtype=torch.float64)
    target = torch.randn(8, 3, generator=rng, dtype=torch.float64)
    m, velocity = law.means.detach().clone(), torch.zeros(3, 5, dtype=torch.float64)
    for t in (1, 2, 3):
        eps = torch.randn(3, 5, generator=rng.clone_state(), dtype=torch.float64)
        s = (1 - m**2).sqrt()
        z = m + s * eps
        w = z if estimator == "smooth" else torch.where(z >= 0, 1.0, -1.0).double()
        gradient = (x @ w.T - target).T @ x / 8
        if estimator == "smooth":
            gradient = gradient * torch.where(s > 0, 1 - m * eps / s, 1)
        velocity = 0.9 * velocity + 0.1 * gradient
        m = (m - 0.7 * velocity / (1 - 0.9**t)).clamp(-1, 1)
        tape = Tape()
        loss = (model(x, Reading(train.weights, train.activations, tape=tape), rng) - target).square().sum(1).mean() / 2
        loss.backward()
        tape.pull_back()
        for solver in solvers:
            solver.step()
            solver.zero_grad()
        torch.testing.assert_close(law.means.detach(), m)
    assert (m.abs() == 1).any() and (m.abs() < 1).any()  # the box was reached, and not by all


def test_rules_are_mode_mean_ensemble_and_ternary():
    assert [r.name for r in make("gaussian-vi").predictors] == ["mode", "mean", "ensemble(10)", "ternary"]


@pytest.mark.parametrize("wrong", [{"estimator": "identity"}, {"init": 0.0}, {"init": 1.5}])
def test_impossible_values_are_refused_by_name_and_value(wrong):
    ((key, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{key} must be.*{value}"):
        make("gaussian-vi", **wrong)
