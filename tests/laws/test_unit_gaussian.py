"""UnitGaussian: w = sign(z), z ~ N(m, 1 - m^2). Its moments against high precision and enumeration, its two pull-backs
against derivatives of exact expectations (Gauss-Hermite; Theorem 1 and Price), and the rounded estimator's bias.

Noise is fed: one copy of the weights per quadrature node, as rows of one law, so that a single pass is an expectation.
"""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.contractions import Dense
from core.gaussian_laws import UnitGaussian
from core.geometry import Box
from core.interface import Tape
from core.ops import Identity, StraightThrough
from core.readings import Draw
from solvers.geometric import GeometricSGD

MEANS = torch.tensor([[-0.95, -0.4, 0.0], [0.1, 0.6, 0.99]], dtype=torch.float64)
ENDS = torch.tensor([-1.0, 1.0], dtype=torch.float64)
CROSSING = 0.7648  # the mean of the rounded weight is m itself at 0, +-1 and near here only
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
SPREADS = pytest.mark.parametrize("spread", ["held", "moving"])


def rounded_mean(m: float) -> mpmath.mpf:
    """erf(m / sqrt(2 (1 - m^2))) to 40 digits."""
    with mpmath.workdps(40):
        exact = mpmath.mpf(m)
        return mpmath.sign(exact) if abs(exact) == 1 else mpmath.erf(exact / mpmath.sqrt(2 * (1 - exact**2)))


def draw(law, rng) -> torch.Tensor:
    return law.values(law.latent(law.noise(rng)))


def parameter_of(law) -> torch.nn.Parameter:
    (coordinate,) = law.coordinates()
    return coordinate.parameter


def hermite(nodes: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes (nodes^n, n) and weights of the standard normal in n dimensions, exact to degree 2 nodes - 1 in each."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / math.sqrt(2 * math.pi)
    grid = torch.tensor(list(itertools.product(points, repeat=n)), dtype=torch.float64)
    mass = torch.tensor([math.prod(w) for w in itertools.product(weights, repeat=n)], dtype=torch.float64)
    return grid, mass


def every_sign(n: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)


def expected_gradient(means, spread, surrogate, f, noise, mass, feed, rng) -> torch.Tensor:
    """E over the given noise of the pulled-back gradient of f; f maps (nodes, n) to (nodes,)."""
    law = feed(UnitGaussian(means.expand(len(noise), -1).clone(), spread=spread), noise)
    tape = Tape()
    weights = Draw(surrogate)(law, Dense(), torch.eye(len(means), dtype=torch.float64), rng, tape).T
    (mass * f(weights)).sum().backward()
    tape.pull_back()
    return parameter_of(law).grad.sum(0)


def quadratic(n: int, rng):
    """w'Aw / 2 + b'w with a symmetric A and its parts; the diagonal is not zero."""
    a = torch.randn(n, n, generator=rng, dtype=torch.float64)
    a, b = a + a.T, torch.randn(n, generator=rng, dtype=torch.float64)
    return a, b, lambda w: 0.5 * torch.einsum("...i,ij,...j->...", w, a, w) + w @ b


# --- the law ------------------------------------------------------------------------------------------------------


def test_the_latent_has_mean_m_and_second_moment_one(feed):
    """m^2 + s^2 = 1: the second moment of a sign."""
    noise, mass = hermite(3, 1)  # exact to degree 5
    law = UnitGaussian(MEANS.flatten().expand(3, -1).clone())
    latent = law.latent(noise.expand(-1, 6)).detach()
    torch.testing.assert_close(mass @ latent, MEANS.flatten(), rtol=0, atol=1e-15)
    torch.testing.assert_close(mass @ latent**2, torch.ones(6, dtype=torch.float64), rtol=0, atol=4e-15)


def test_noise_is_one_standard_normal_a_weight(rng):
    law = UnitGaussian(torch.zeros(100, 400, dtype=torch.float64))
    noise = torch.sort(law.noise(rng).flatten()).values
    n = noise.numel()
    assert n == 40_000
    share = torch.special.ndtr(noise)
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    assert (share - uniform).abs().max() < 1.95 / n**0.5  # Kolmogorov: one seed in a thousand is farther


def test_mean_of_draws_is_mean(rng):
    n = 40_000
    law = UnitGaussian(torch.cat([MEANS.flatten(), ENDS]).repeat(n, 1))
    error = (draw(law, rng).mean(0) - law.mean()[0]).abs()
    assert (error <= 5 / n**0.5).all()  # the variance of a sign is at most 1


@pytest.mark.parametrize("m", [-0.999999, -0.9, -CROSSING, -0.3, 1e-8, 0.2, 0.5, 0.8, 0.97, 1 - 1e-9, 1 - 2**-53, 1.0])
def test_mean_is_erf_of_the_standardised_mean(m):
    mean = UnitGaussian(torch.tensor([m, -m], dtype=torch.float64)).mean()
    # a few ulps of a = m / s enter erf with |a phi(a)| < 1/4: absolute error of a few 1e-16
    assert mean[0].item() == pytest.approx(float(rounded_mean(m)), rel=4e-15)
    assert mean[1].item() == -mean[0].item()


@DTYPES
def test_at_the_ends_of_the_box_the_weights_are_certain_and_everything_is_finite(dtype, rng):
    law = UnitGaussian(ENDS.to(dtype))
    assert law.mean().tolist() == law.mode().tolist() == [-1.0, 1.0]
    assert law.prob_plus().tolist() == [0.0, 1.0]
    assert law.variance().tolist() == [0.0, 0.0]
    assert law.entropy().item() == 0.0
    assert all(draw(law, rng).tolist() == [-1.0, 1.0] for _ in range(20))
    law.mean().sum().backward()  # a training-time report of the mean must not poison the parameters
    assert torch.isfinite(parameter_of(law).grad).all()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.floats(1e-3, 0.9995))
def test_the_mean_is_not_m_smaller_below_the_crossing_and_larger_above(m):
    """A bias that is a fact: rounding shrinks undecided means and sharpens decided ones."""
    mean = UnitGaussian(torch.tensor([m], dtype=torch.float64)).mean().item()
    if abs(m - CROSSING) > 1e-4:
        assert (mean < m) == (m < CROSSING)
        assert mean != m


def test_the_mean_crosses_m_where_stated():
    means = UnitGaussian(torch.tensor([CROSSING - 5e-5, CROSSING + 5e-5], dtype=torch.float64)).mean()
    assert means[0].item() < CROSSING - 5e-5
    assert means[1].item() > CROSSING + 5e-5


@pytest.mark.parametrize("m", [-0.99, -0.9, -0.5, 0.0, 0.3, 0.9, 0.99])
def test_probability_and_variance_keep_their_digits_in_the_tails(m):
    law = UnitGaussian(torch.tensor([m], dtype=torch.float64))
    with mpmath.workdps(40):
        a = mpmath.mpf(m) / mpmath.sqrt(1 - mpmath.mpf(m) ** 2)
        below, above = mpmath.ncdf(-a), mpmath.ncdf(a)
    # Phi(a) changes by a^2 per relative change of a in its tail: 50 * a few ulps at m = -0.99, where it is 1e-12
    assert law.prob_plus().item() == pytest.approx(float(above), rel=1e-12)
    assert law.variance().item() == pytest.approx(float(4 * below * above), rel=1e-12, abs=4e-16)


def test_entropy_is_that_of_the_enumerated_signs():
    law = UnitGaussian(MEANS)
    p = law.prob_plus().detach().flatten()
    signs = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64)
    probability = (signs * p + (1 - signs) * (1 - p)).prod(1)
    # 64 terms; at m = 0.99 the rarer sign has probability 1e-12 with 1e-16 absolute error
    assert law.entropy().item() == pytest.approx(-(probability * probability.log()).sum().item(), abs=1e-12)
    fair = UnitGaussian(torch.zeros(5, dtype=torch.float64))
    assert fair.entropy().item() == pytest.approx(5 * math.log(2), rel=1e-15)


def test_weights_are_independent_so_pair_moments_are_products_of_means(rng):
    law = UnitGaussian(MEANS)
    mean = law.mean().detach().flatten()
    assert law.independent
    for i, j in itertools.product(range(6), repeat=2):
        expected = 1.0 if i == j else (mean[i] * mean[j]).item()  # a sign squared is 1
        assert law.pair_moment(i, j).item() == pytest.approx(expected, abs=1e-15)
    n = 40_000
    drawn = draw(UnitGaussian(MEANS.flatten().repeat(n, 1)), rng)
    measured = drawn.T @ drawn / n
    expected = mean[:, None] * mean + torch.diag(1 - mean**2)
    assert ((measured - expected).abs() <= 5 / n**0.5).all()


def test_mode_is_the_sign_of_m_with_plus_one_at_zero_and_ties_are_no_reason_to_refuse():
    law = UnitGaussian(torch.tensor([0.0, -0.0, -1e-300, 0.4, -1.0], dtype=torch.float64))
    assert law.mode().tolist() == [1.0, 1.0, -1.0, 1.0, -1.0]


def test_a_mean_outside_the_box_is_refused_with_its_value():
    with pytest.raises(ValueError, match=r"1\.5"):
        UnitGaussian(torch.tensor([0.3, -1.5]))


# --- pull-backs ---------------------------------------------------------------------------------------------------


def test_the_moving_pull_back_is_the_derivative_of_the_path(rng):
    means = torch.tensor([-0.9, -0.2, 0.0, 0.5, 0.95], dtype=torch.float64)
    noise, upstream = torch.randn(2, 5, generator=rng, dtype=torch.float64)
    (pulled,) = UnitGaussian(means.clone(), spread="moving").pull_back(noise, upstream)
    h = 1e-6
    above, below = (UnitGaussian(means + d).latent(noise).detach() for d in (h, -h))
    # Truncation h^2 / 6 times eps * d^3 sqrt(1 - m^2) <= 1e-12 / 6 * 1e3 * 3; rounding 1e-16 / h: 2e-10.
    torch.testing.assert_close(pulled.detach(), upstream * (above - below) / (2 * h), rtol=0, atol=2e-9)


def test_the_held_pull_back_is_the_gradient_itself(rng):
    noise, upstream = torch.randn(2, *MEANS.shape, generator=rng, dtype=torch.float64)
    (pulled,) = UnitGaussian(MEANS).pull_back(noise, upstream)
    assert torch.equal(pulled, upstream)


@SPREADS
def test_at_the_ends_of_the_box_the_spread_contributes_nothing_and_the_gradient_is_finite(spread, rng):
    noise, upstream = torch.randn(2, 2, generator=rng, dtype=torch.float64)
    (pulled,) = UnitGaussian(ENDS.clone(), spread=spread).pull_back(noise, upstream)
    assert torch.equal(pulled, upstream)


def multilinear(table: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The multilinear extension of a table over {-1, +1}^3 at real w (..., 3)."""
    return ((1 + every_sign(3) * w[..., None, :]).prod(-1) / 8) @ table


@SPREADS
def test_smooth_gradient_of_a_multilinear_loss_is_exact_in_expectation_under_either_spread(spread, feed, rng):
    """Theorem 1: E grad f(z) = grad of the multilinear extension at m; the spread's part has expectation 0."""
    table = torch.randn(8, generator=rng, dtype=torch.float64)
    m = torch.tensor([-0.8, 0.1, 0.6], dtype=torch.float64)
    noise, mass = hermite(3, 3)
    measured = expected_gradient(m, spread, Identity(), lambda w: multilinear(table, w), noise, mass, feed, rng)
    signs = every_sign(3)
    for i in range(3):
        others = [j for j in range(3) if j != i]
        enumerated = (signs[:, i] / 2 * (1 + signs[:, others] * m[others]).prod(1) / 4) @ table
        assert measured[i].item() == pytest.approx(enumerated.item(), abs=1e-13)


def test_moving_spread_is_exact_for_a_quadratic_and_held_is_biased_by_m_times_the_curvature(feed, rng):
    """Price: d E f / d m_i = E d_i f - m_i E d_ii f. Held drops the second part, so it is off by m_i A_ii."""
    a, b, f = quadratic(3, rng)
    m = torch.tensor([-0.8, 0.1, 0.6], dtype=torch.float64)
    noise, mass = hermite(3, 3)
    moving = expected_gradient(m, "moving", Identity(), f, noise, mass, feed, rng)
    held = expected_gradient(m, "held", Identity(), f, noise, mass, feed, rng)
    bias = a.diagonal() * m
    # E z_i^2 = 1 whatever m: only the off-diagonal part of A moves the expectation
    torch.testing.assert_close(moving, a @ m + b - bias, rtol=0, atol=1e-13)
    torch.testing.assert_close(held, a @ m + b, rtol=0, atol=1e-13)
    assert bias.abs().min() > 1e-2


def rounding_atoms(m: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise on both sides of every weight's threshold, with its probability: exact for functions of the signs."""
    threshold = -m / (1 - m**2).sqrt()
    sides = every_sign(len(m))
    plus = torch.special.ndtr(-threshold)
    return threshold + sides, torch.where(sides > 0, plus, 1 - plus).prod(1)


def test_rounded_gradient_of_a_quadratic_is_taken_at_the_rounded_mean_not_at_m(feed, rng):
    """STE's bias, exactly: E (A sign(z) + b) = A erf(a / sqrt 2) + b, where the relaxed gradient is A m + b."""
    a, b, f = quadratic(3, rng)
    m = torch.tensor([-0.9, 0.25, 0.6], dtype=torch.float64)
    noise, mass = rounding_atoms(m)
    measured = expected_gradient(m, "held", StraightThrough(), f, noise, mass, feed, rng)
    rounded = torch.tensor([float(rounded_mean(x)) for x in m.tolist()], dtype=torch.float64)
    torch.testing.assert_close(measured, a @ rounded + b, rtol=0, atol=1e-13)
    assert (measured - (a @ m + b)).norm() > 1e-2 * a.norm()


def test_rounded_gradient_of_any_loss_is_the_expected_discrete_derivative(feed, rng):
    """For a multilinear loss STE drops the weight 2 phi(a) / s^3 of dE/dm and nothing else: weights are independent."""
    table = torch.randn(8, generator=rng, dtype=torch.float64)
    m = torch.tensor([-0.7, 0.05, 0.3], dtype=torch.float64)  # weights 1.36, 0.80, 0.87
    noise, mass = rounding_atoms(m)
    measured = expected_gradient(m, "held", StraightThrough(), lambda w: multilinear(table, w), noise, mass, feed, rng)

    def exact(at: torch.Tensor) -> torch.Tensor:
        return multilinear(table, UnitGaussian(at.clone()).mean().detach())

    h = 1e-5
    for i in range(3):
        step = h * torch.eye(3, dtype=torch.float64)[i]
        derivative = ((exact(m + step) - exact(m - step)) / (2 * h)).item()
        s = math.sqrt(1 - m[i].item() ** 2)
        density = math.exp(-0.5 * (m[i].item() / s) ** 2) / math.sqrt(2 * math.pi)
        # d erf(a / sqrt 2) / dm = 2 phi(a) da/dm, da/dm = 1 / s^3; h^2 / 6 times a third derivative below 100
        assert measured[i].item() * 2 * density / s**3 == pytest.approx(derivative, abs=3e-9)
        assert measured[i].item() != pytest.approx(derivative, rel=0.05)  # the documented bias is there


# --- the box ------------------------------------------------------------------------------------------------------


def test_the_stored_mean_moves_and_stays_in_the_unit_box(rng):
    law = UnitGaussian(MEANS.clone())
    (coordinate,) = law.coordinates()
    assert coordinate.geometry == Box(1.0)
    solver = GeometricSGD(law.coordinates(), lr=0.7)
    for _ in range(5):
        before = parameter_of(law).detach().clone()
        parameter_of(law).grad = torch.randn(MEANS.shape, generator=rng, dtype=torch.float64)
        expected = (before - 0.7 * parameter_of(law).grad).clamp(-1, 1)
        solver.step()
        assert torch.equal(parameter_of(law).detach(), expected)
        assert not torch.equal(parameter_of(law).detach(), before)
    assert (parameter_of(law).abs() == 1).any()  # it met the walls
