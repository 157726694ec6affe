"""The mean-field Bernoulli against enumeration of {-1, +1}^n, n <= 12: draws, gradients, KL (B1, B2, B3, B12)."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.geometry import BernoulliFisher
from core.laws import Bernoulli
from core.ops import half_logit

SIZES = pytest.mark.parametrize("n", [1, 2, 5, 12])
lawful = settings(derandomize=True, deadline=None, max_examples=60)
naturals = st.lists(st.floats(-8, 8), min_size=1, max_size=8)


def configurations(n: int) -> torch.Tensor:
    """All of {-1, +1}^n, (2^n, n)."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)


def probabilities(mean: torch.Tensor) -> torch.Tensor:
    """q(w) = prod (1 + w mu) / 2 over all configurations, (2^n,)."""
    return ((1 + configurations(len(mean)) * mean) / 2).prod(1)


def logs(natural: torch.Tensor) -> torch.Tensor:
    """log q(w) = sum of w lambda - log(2 cosh lambda): the minimal exponential family, (2^n,)."""
    return configurations(len(natural)) @ natural - torch.log(2 * torch.cosh(natural)).sum()


def table(n: int, rng) -> torch.Tensor:
    """An arbitrary function on {-1, +1}^n."""
    return torch.randn(2**n, generator=rng, dtype=torch.float64)


# --- B1 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("natural", [-3.0, -0.4, 0.0, 0.1, 1.0, 4.0])
def test_a_sign_of_natural_plus_noise_is_plus_one_with_probability_sigmoid(natural, rng):
    """B1: within the binomial interval of five standard errors."""
    n = 100_000
    law = Bernoulli(torch.full((n,), natural, dtype=torch.float64))
    plus = (law.values(law.latent(law.noise(rng))) == 1).sum().item()
    p = 1 / (1 + math.exp(-2 * natural))
    assert abs(plus - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1


@pytest.mark.parametrize("natural", [-3.0, -0.4, 0.0, 0.1, 1.0, 4.0])
def test_the_share_of_uniforms_that_give_plus_one_is_prob_plus(natural, feed):
    """B1 without chance: a grid of uniforms in place of draws; the count is exact to one grid cell."""
    n = 100_000
    law = Bernoulli(torch.full((n,), natural, dtype=torch.float64))
    grid = half_logit((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    plus = (law.values(law.latent(feed(law, grid).noise(None))) == 1).double().mean().item()
    assert abs(plus - law.prob_plus()[0].item()) <= 1 / n
    assert law.prob_plus()[0].item() == pytest.approx(1 / (1 + math.exp(-2 * natural)), rel=1e-14)


def test_mean_probability_and_fisher_are_those_of_the_natural_parameter(rng):
    natural = 3 * torch.randn(50, generator=rng, dtype=torch.float64)
    law = Bernoulli(natural)
    lam = natural.numpy()
    np.testing.assert_allclose(law.mean().detach().numpy(), np.tanh(lam), rtol=1e-14)
    np.testing.assert_allclose(law.prob_plus().detach().numpy(), 1 / (1 + np.exp(-2 * lam)), rtol=1e-13)
    sech2 = [float(mpmath.sech(x) ** 2) for x in lam.tolist()]
    np.testing.assert_allclose(law.fisher().detach().numpy(), sech2, rtol=1e-13)


# --- B2, B3 -------------------------------------------------------------------------------------------------------


@SIZES
def test_the_inverse_fisher_turns_the_natural_gradient_into_the_gradient_in_the_mean(n, rng):
    """B2: F^-1 grad_lambda E_q f = grad_mu E_q f for an arbitrary table f."""
    f = table(n, rng)
    natural = torch.randn(n, generator=rng, dtype=torch.float64).requires_grad_()
    mean = torch.tanh(natural.detach()).requires_grad_()
    (in_natural,) = torch.autograd.grad((logs(natural).exp() * f).sum(), natural)
    (in_mean,) = torch.autograd.grad((probabilities(mean) * f).sum(), mean)
    # Sums of 2^12 terms below 4 in float64, divided by sech^2 >= 1e-3.
    torch.testing.assert_close(BernoulliFisher().to_tangent(natural.detach(), in_natural), in_mean, rtol=0, atol=1e-10)


@SIZES
def test_fisher_is_the_variance_of_the_score(n, rng):
    natural = torch.randn(n, generator=rng, dtype=torch.float64)
    law = Bernoulli(natural)
    score = configurations(n) - law.mean().detach()  # d log q / d lambda
    q = probabilities(law.mean().detach())
    torch.testing.assert_close(law.fisher().detach(), (q[:, None] * score**2).sum(0), rtol=1e-11, atol=0)


@SIZES
def test_the_gradient_in_the_mean_is_the_expected_discrete_derivative(n, rng):
    """B3: d E_q f / d mu_i = E_q[(f(w_i = +1) - f(w_i = -1)) / 2], with E_q written in the law's own probabilities."""
    f = table(n, rng)
    law = Bernoulli(torch.randn(n, generator=rng, dtype=torch.float64))
    parameter = law.coordinates()[0].parameter
    w, plus = configurations(n), law.prob_plus()
    q = torch.where(w > 0, plus, 1 - plus).prod(1)
    (in_natural,) = torch.autograd.grad((q * f).sum(), parameter)
    in_mean = law.coordinates()[0].geometry.to_tangent(parameter.detach(), in_natural)

    cube, weights = f.reshape((2,) * n).numpy(), q.detach().reshape((2,) * n).numpy()
    expected = []
    for i in range(n):  # axis i of the cube is w_i, -1 first
        derivative = (cube.take(1, axis=i) - cube.take(0, axis=i)) / 2
        expected.append((weights.sum(axis=i) * derivative).sum())
    np.testing.assert_allclose(in_mean.numpy(), expected, rtol=0, atol=1e-10)  # as B2


# --- B12, entropy -------------------------------------------------------------------------------------------------


@SIZES
def test_kl_and_entropy_equal_enumeration(n, rng):
    """B12: sum over configurations of q (log q - log p), and of -q log q; nats."""
    natural, prior = (torch.randn(n, generator=rng, dtype=torch.float64) for _ in range(2))
    law = Bernoulli(natural, prior=prior)
    log_q, log_p = logs(natural), logs(prior)
    kl = (log_q.exp() * (log_q - log_p)).sum()
    entropy = -(log_q.exp() * log_q).sum()
    # 2^12 terms of size up to n log 2 in float64.
    torch.testing.assert_close(law.kl().detach(), kl, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(law.entropy().detach(), entropy, rtol=1e-12, atol=1e-13)


@lawful
@given(naturals, st.data())
def test_kl_is_never_negative_and_zero_only_at_the_prior(values, data):
    """B12: positive off the prior by at least the curvature of the family there."""
    prior = data.draw(st.lists(st.floats(-8, 8), min_size=len(values), max_size=len(values)))
    q, p = torch.tensor(values, dtype=torch.float64), torch.tensor(prior, dtype=torch.float64)
    kl = Bernoulli(q, prior=p).kl().item()
    rounding = 1e-14 * (1 + (q.abs() + p.abs()).sum().item())  # terms of size |lambda| + |lambda0|, a few ulps each
    assert kl >= -rounding
    assert abs(Bernoulli(q, prior=q.clone()).kl().item()) <= rounding
    # KL = integral of Fisher (lambda - s) ds >= min Fisher * gap^2 / 2, sech^2 least at the larger magnitude.
    gap = (q - p).abs()
    fisher = 1 / torch.cosh(torch.maximum(q.abs(), p.abs())) ** 2
    assert kl >= (fisher * gap**2 / 2).sum().item() - rounding


def test_kl_to_a_fair_coin_is_what_the_entropy_lacks_of_n_log_2(rng):
    law = Bernoulli(4 * torch.randn(30, generator=rng, dtype=torch.float64))
    torch.testing.assert_close(law.kl() + law.entropy(), torch.tensor(30 * math.log(2), dtype=torch.float64))


def test_the_gradient_of_the_kl_is_fisher_times_the_distance_to_the_prior(rng):
    natural, prior = (torch.randn(6, generator=rng, dtype=torch.float64) for _ in range(2))
    law = Bernoulli(natural, prior=prior)
    (gradient,) = torch.autograd.grad(law.kl(), law.coordinates()[0].parameter)
    torch.testing.assert_close(gradient, law.fisher().detach() * (natural - prior), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_kl_and_entropy_of_saturated_laws_are_finite_and_right(dtype):
    law = Bernoulli(torch.tensor([500.0, -500.0, 1000.0], dtype=dtype))  # cosh overflows, log cosh must not
    eps = torch.finfo(dtype).eps
    # Exactly 3 log 2 and 0; formed from differences of numbers up to 1000 each: 1000 eps apiece.
    assert law.kl().item() == pytest.approx(3 * math.log(2), abs=2000 * eps)
    assert law.entropy().item() == pytest.approx(0.0, abs=2000 * eps)


# --- the prior ----------------------------------------------------------------------------------------------------


def test_the_prior_is_the_anchor_the_solver_decays_to_and_a_fair_coin_by_default():
    prior = torch.tensor([0.5, -2.0])
    (coordinate,) = Bernoulli(torch.zeros(2), prior=prior).coordinates()
    assert torch.equal(coordinate.anchor, prior)
    (coordinate,) = Bernoulli(torch.ones(2)).coordinates()
    assert coordinate.anchor is None or torch.equal(coordinate.anchor, torch.zeros(2))
    assert torch.equal(Bernoulli(torch.ones(2)).prior, torch.zeros(2))


def test_the_prior_is_saved_with_the_law_but_is_no_parameter():
    law = Bernoulli(torch.zeros(2), prior=torch.tensor([0.5, -2.0]))
    other = Bernoulli(torch.ones(2))
    other.load_state_dict(law.state_dict())
    assert torch.equal(other.prior, law.prior)
    assert len(list(law.parameters())) == 1


@pytest.mark.parametrize("natural", [10.0, 1e6, 1e8])
def test_kl_and_entropy_keep_their_digits_in_float32_however_certain(natural):
    # two certain signs against fair coins: log 2 each; one rounding of a float32 sum of two: 2e-7
    law = Bernoulli(torch.tensor([natural, -natural]))
    assert abs(law.kl().item() - 2 * math.log(2.0)) < (1e-6 if natural > 100 else 1e-5)
    assert 0 <= law.entropy().item() < 1e-6 * natural


def test_a_prior_of_another_shape_is_refused_with_both_shapes(shapes_unchecked):
    with pytest.raises(ValueError, match=r"prior.*2, 3.*3, 2|prior.*3, 2.*2, 3"):
        Bernoulli(torch.zeros(2, 3), prior=torch.zeros(3, 2))


def test_a_prior_that_would_broadcast_is_refused_too(shapes_unchecked):
    with pytest.raises(ValueError, match="prior"):
        Bernoulli(torch.zeros(2, 3), prior=torch.zeros(3))
