"""The Bayesian learning rule as GeometricSGD on a Bernoulli's coordinates: stationarity, decay, N (B4, B6, B7, B8, B9).

lambda <- (1 - alpha) lambda - alpha (N grad_mu E[loss] - lambda0), with loss the mean over N examples.
"""

import itertools

import numpy as np
import pytest
import torch

from core.geometry import BernoulliFisher, DampedBernoulliFisher
from core.laws import Bernoulli
from core.ops import FlooredRelaxedSign
from solvers.geometric import GeometricSGD

N = 7.0


def learning_rule(law: Bernoulli, lr: float, scale: float, momentum: float = 0.0) -> GeometricSGD:
    return GeometricSGD(law.coordinates(), lr=lr, scale=scale, momentum=momentum, decay=1.0)


def natural_of(law: Bernoulli) -> torch.nn.Parameter:
    return law.coordinates()[0].parameter


def table(n: int, rng) -> torch.Tensor:
    """An arbitrary function on {-1, +1}^n, of a size that keeps N E_q f beside the KL (and lambda below 4)."""
    return 0.3 * torch.randn(2**n, generator=rng, dtype=torch.float64)


def expectation(natural: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """E_q f by enumeration of {-1, +1}^n; f is a table of 2^n values."""
    w = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(natural))), dtype=torch.float64)
    return ((w @ natural - torch.log(2 * torch.cosh(natural)).sum()).exp() * f).sum()


def objective(natural: torch.Tensor, prior: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """N E_q f + KL(q || prior)."""
    log_cosh = torch.log(torch.cosh(natural)) - torch.log(torch.cosh(prior))
    return N * expectation(natural, f) + (torch.tanh(natural) * (natural - prior) - log_cosh).sum()


def derivative(function, point: torch.Tensor, i: int, h: float = 1e-3) -> float:
    """d function / d point_i by the five-point rule: error h^4 / 30 times the fifth derivative, and rounding eps / h.

    Values near 10 with a fifth derivative below 100: 3e-12 and a few 1e-12.
    """
    step = h * torch.eye(len(point), dtype=torch.float64)[i]
    near = function(point + step) - function(point - step)
    far = function(point + 2 * step) - function(point - 2 * step)
    return (8 * near - far) / (12 * h)


# --- B4 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 6])
def test_exact_learning_rule_lowers_the_objective_at_every_step_and_ends_stationary(n, rng):
    """B4: on N E_q f + KL for an arbitrary table f; stationarity by finite differences of the objective itself."""
    f = table(n, rng)
    prior, start = (torch.randn(n, generator=rng, dtype=torch.float64) for _ in range(2))
    law = Bernoulli(start, prior=prior, geometry=BernoulliFisher())
    natural, solver = natural_of(law), learning_rule(law, lr=0.05, scale=N)

    values = []
    for _ in range(800):  # contraction about 1 - 0.05 a step near the solution: 0.95^800 = 1e-18
        (natural.grad,) = torch.autograd.grad(expectation(natural, f), natural)
        values.append(objective(natural.detach(), prior, f).item())
        solver.step()
    values.append(objective(natural.detach(), prior, f).item())

    assert values[0] - values[-1] > 0.01  # it had somewhere to go
    assert max(np.diff(values)) <= 1e-12  # objective of size 10 or so in float64
    for i in range(n):
        assert abs(derivative(lambda point: objective(point, prior, f).item(), natural.detach(), i)) < 1e-10


def test_fixed_point_is_the_prior_minus_n_times_the_gradient_in_the_mean(rng):
    f = table(4, rng)
    prior = torch.randn(4, generator=rng, dtype=torch.float64)
    law = Bernoulli(torch.zeros(4, dtype=torch.float64), prior=prior, geometry=BernoulliFisher())
    natural, solver = natural_of(law), learning_rule(law, lr=0.05, scale=N)
    for _ in range(800):
        (natural.grad,) = torch.autograd.grad(expectation(natural, f), natural)
        solver.step()
    (gradient,) = torch.autograd.grad(expectation(natural, f), natural)
    in_mean = gradient * torch.cosh(natural.detach()) ** 2
    # The enumerated gradient is right to 1e-15, divided by sech^2(4) = 1.3e-3 and times N.
    torch.testing.assert_close(natural.detach(), prior - N * in_mean, rtol=0, atol=1e-11)


# --- B6 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", [BernoulliFisher(), DampedBernoulliFisher(1e-10)], ids=repr)
@pytest.mark.parametrize("lr", [1e-4, 0.1, 1.0])
def test_without_data_the_distance_to_the_prior_decays_geometrically(geometry, lr, rng):
    """B6: lambda_t - lambda0 = (1 - alpha)^t (lambda_0 - lambda0)."""
    start, prior = 5 * torch.randn(2, 8, generator=rng, dtype=torch.float64)
    law = Bernoulli(start.clone(), prior=prior, geometry=geometry)
    natural, solver = natural_of(law), learning_rule(law, lr=lr, scale=60_000.0)
    for t in range(1, 101):
        natural.grad = torch.zeros_like(natural)
        solver.step()
        expected = (1 - lr) ** t * (start - prior)
        # Each step rounds lambda (|lambda| < 20) three times; earlier errors shrink with the rest.
        torch.testing.assert_close(natural.detach() - prior, expected, rtol=0, atol=3 * t * 20 * 1.2e-16)


def test_without_decay_and_data_nothing_moves(rng):
    start = torch.randn(8, generator=rng, dtype=torch.float64)
    law = Bernoulli(start.clone(), geometry=BernoulliFisher())
    solver = GeometricSGD(law.coordinates(), lr=0.5, scale=10.0)
    natural_of(law).grad = torch.zeros(8, dtype=torch.float64)
    solver.step()
    assert torch.equal(natural_of(law).detach(), start)


# --- B7 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_train", [1.0, 3.0, 12.0])
def test_a_linear_loss_moves_the_fixed_point_from_the_prior_by_n_times_its_slope(n_train, rng):
    """B7: E_q[c w] = c mu, so lambda* = lambda0 - N c exactly; the data's weight is proportional to N."""
    slope, prior = torch.tensor([0.3, -0.5, 0.0, 0.8], dtype=torch.float64), torch.tensor([0.0, 1.0, -2.0, 0.5])
    law = Bernoulli(torch.zeros(4, dtype=torch.float64), prior=prior.double(), geometry=BernoulliFisher())
    natural, solver = natural_of(law), learning_rule(law, lr=0.5, scale=n_train)
    for _ in range(80):  # 2^-80
        (natural.grad,) = torch.autograd.grad((slope * law.mean()).sum(), natural)
        solver.step()
    # autograd has 1 - tanh^2 by subtraction: at |lambda| = 9.6 the quotient is right to eps / sech^2 = 1.3e-8 of N c.
    torch.testing.assert_close(natural.detach(), prior.double() - n_train * slope, rtol=1e-6, atol=1e-12)


# --- B8 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "natural, temperature, stabiliser, expected, tolerance",
    [
        (9.1, 1e-10, 1e-10, 1e10, 1e-6),
        (-10.0, 1e-10, 1e-10, 1e10, 1e-6),
        (1e6, 1e-10, 1e-10, 1e10, 1e-6),
        (10.0, 1e-8, 1e-10, 1e8, 1e-6),
        (5.0, 1e-10, 1e-10, 5.5e3, 1e-2),  # cosh^2(5) = 5507, by float32 subtraction
    ],
)
def test_published_scale_in_float32_is_a_constant_on_saturated_weights(
    natural, temperature, stabiliser, expected, tolerance
):
    """B8: (1 - w^2 + eps) / T / (1 - mu^2 + eps) at |lambda| > 9.1 is 1 / T, whatever the noise."""
    point = torch.full((5,), natural)
    latent = point + torch.tensor([-8.3, -1.0, 0.0, 1.0, 8.3]) * (abs(natural) > 9)  # noise cannot turn the sign
    slope = FlooredRelaxedSign(temperature, stabiliser).slope(latent)
    scale = DampedBernoulliFisher(stabiliser).to_tangent(point, slope)
    np.testing.assert_allclose(scale.numpy(), expected, rtol=tolerance)


def test_published_scale_at_a_fair_coin_is_one():
    """B8: only the stabiliser is left of the slope, and the Fisher information is 1."""
    slope = FlooredRelaxedSign(1e-10, 1e-10).slope(torch.tensor([0.3, -0.3]))  # lambda = 0, noise +-0.3
    scale = DampedBernoulliFisher(1e-10).to_tangent(torch.zeros(2), slope)
    np.testing.assert_allclose(scale.numpy(), 1.0, rtol=1e-6)


def published_step(natural: torch.Tensor, gradient: torch.Tensor, lr: float, n_train: float) -> torch.Tensor:
    """One step of the published rule in float32 from a gradient at the (saturated) weights."""
    law = Bernoulli(natural.clone(), geometry=DampedBernoulliFisher(1e-10))
    slope = FlooredRelaxedSign(1e-10, 1e-10).slope(natural)
    (natural_of(law).grad,) = law.pull_back(torch.zeros_like(natural), gradient * slope)
    learning_rule(law, lr=lr, scale=n_train).step()
    return natural_of(law).detach()


def saturated(count: int, rng) -> tuple[torch.Tensor, torch.Tensor]:
    """Naturals at +-10 and gradients that span six orders of magnitude."""
    natural = 10 * torch.sign(torch.rand(count, generator=rng) - 0.5)
    gradient = torch.randn(count, generator=rng) * 10 ** (-6 * torch.rand(count, generator=rng))
    return natural, gradient


@pytest.mark.parametrize("lr", [1e-4, 0.3])
def test_one_published_step_is_one_step_of_an_average_of_gradients(lr, rng):
    """B8: lambda <- (1 - alpha) lambda - alpha C g with C = N 1e10."""
    natural, gradient = saturated(500, rng)
    stepped = published_step(natural, gradient, lr, n_train=54_000.0)
    expected = (1 - lr) * natural.double() - lr * 54_000.0 * 1e10 * gradient.double()
    # float32: half a dozen roundings of terms of size |expected| + 10.
    assert ((stepped.double() - expected).abs() <= 6e-7 * (expected.abs() + 10)).all()


# --- B9 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2.0, 2.0**3, 2.0**20])
def test_scaling_the_start_and_n_together_scales_the_step_and_keeps_its_signs(factor, rng):
    """B9: the averaging rule is homogeneous; a power of two makes that exact in floating point."""
    natural, gradient = saturated(500, rng)
    gradient = gradient * 1e-9  # so that prior pull and gradient compete for the sign
    once = published_step(natural, gradient, 0.3, n_train=100.0)
    scaled = published_step(factor * natural, gradient, 0.3, n_train=100.0 * factor)
    assert 0.02 < (torch.sign(once) != torch.sign(natural)).float().mean() < 0.98  # some flip, some do not
    assert torch.equal(scaled, factor * once)
    assert torch.equal(torch.sign(scaled), torch.sign(once))
