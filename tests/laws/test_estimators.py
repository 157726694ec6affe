"""The Gumbel estimator through Draw -> Tape -> BernoulliFisher: expectation, spread, stability (B5, B10, B11).

A draw's noise is fed: many copies of one weight, each at its own point of a grid of uniforms, turn expectations into
midpoint quadrature. s denotes the factor the estimator puts on a gradient g of the loss: s g estimates dE[loss]/dmu.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from core.contractions import Dense
from core.geometry import BernoulliFisher
from core.interface import Tape
from core.laws import Bernoulli
from core.ops import RelaxedSign, half_logit
from core.readings import Draw

POINTS = 400_000
MIDPOINTS = half_logit((torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS)


def estimates(law: Bernoulli, slope: float, temperature: float, rng, draws: int = 1) -> torch.Tensor:
    """Per-copy estimates of d(slope * E w)/d(mu), averaged over `draws` passes on one tape."""
    tape = Tape()
    x = torch.full((1, law.shape[-1]), slope, dtype=torch.float64)
    draw = Draw(RelaxedSign(temperature))
    losses = [draw(law, Dense(), x, rng, tape).sum() for _ in range(draws)]  # slope * sum of w
    (sum(losses) / draws).backward()
    tape.pull_back()
    (coordinate,) = law.coordinates()
    return coordinate.geometry.to_tangent(coordinate.parameter.detach(), coordinate.parameter.grad).flatten()


def copies(natural: float, count: int = POINTS) -> Bernoulli:
    """`count` weights with one natural parameter, as a layer with one output."""
    return Bernoulli(torch.full((1, count), natural, dtype=torch.float64), geometry=BernoulliFisher())


# --- B5 -----------------------------------------------------------------------------------------------------------

# (temperature, natural) -> E s by quadrature, and the number of decimals given.
TABLE = {
    (1.0, 0.0): (0.667, 3),
    (1.0, 1.0): (1.079, 3),
    (1.0, 2.0): (2.31, 2),
    (0.5, 0.0): (0.858, 3),
    (0.2, 0.0): (0.970, 3),
    (0.1, 0.0): (0.992, 3),
    (0.1, 2.0): (1.015, 3),
}


@pytest.mark.parametrize("temperature, natural", TABLE, ids=str)
def test_expected_estimate_for_a_linear_loss_is_the_tabled_multiple_of_its_slope(temperature, natural, feed, rng):
    """B5: biased at finite temperature, by exactly these factors."""
    expected, digits = TABLE[temperature, natural]
    slope = -1.7
    law = feed(copies(natural), MIDPOINTS.reshape(1, -1))
    assert estimates(law, slope, temperature, rng).mean().item() / slope == pytest.approx(
        expected, abs=0.51 * 10**-digits
    )


def expected_factor(natural: float, temperature: float) -> float:
    """d E[tanh((lambda + delta) / T)] / d mu = int sech^2(z) p(T z - lambda) dz / sech^2(lambda), adaptively."""

    def integrand(z: float) -> float:  # z = (lambda + delta) / T: unit width
        return (1 / math.cosh(z)) ** 2 / math.cosh(temperature * z - natural) ** 2 / 2  # p(delta) = sech^2(delta) / 2

    value, _ = integrate.quad(integrand, -40, 40, epsabs=1e-13, epsrel=1e-12, limit=400)
    return value * math.cosh(natural) ** 2


@pytest.mark.parametrize("natural", [-2.0, -0.5, 0.0, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.4, 0.1])
def test_expected_estimate_is_the_derivative_of_the_relaxed_mean(temperature, natural, feed, rng):
    law = feed(copies(natural), MIDPOINTS.reshape(1, -1))
    factor = estimates(law, 1.0, temperature, rng).mean().item()
    # Midpoint rule in u: h^2 / 24 times the integrand's slope at the ends, at most e^(2 * 2) / T^2 = 5e3 here: 2e-9.
    assert factor == pytest.approx(expected_factor(natural, temperature), rel=1e-7)


@pytest.mark.parametrize("natural", [-1.0, 0.0, 2.0])
def test_expected_estimate_tends_to_the_slope_as_the_temperature_vanishes(natural, feed, rng):
    biases = []
    for temperature in (0.2, 0.1, 0.02):
        law = feed(copies(natural), MIDPOINTS.reshape(1, -1))
        biases.append(abs(estimates(law, 1.0, temperature, rng).mean().item() - 1))
    # The bias is (pi^2 / 24) T^2 p''/p at lambda, then T^4: T / 2 leaves about a quarter of it, T / 10 a hundredth.
    assert biases[1] < 0.35 * biases[0]
    assert biases[2] < 0.02 * biases[0]


@pytest.mark.parametrize(
    "temperature, natural, spread, digits",
    [(1.0, 0.0, 0.30, 2), (1.0, 2.0, 3.2, 1), (0.1, 0.0, 2.4, 1), (0.1, 2.0, 9.7, 1)],
)
def test_spread_of_the_estimate_is_as_tabled(temperature, natural, spread, digits, feed, rng):
    law = feed(copies(natural), MIDPOINTS.reshape(1, -1))
    measured = estimates(law, 1.0, temperature, rng).std(correction=0).item()
    assert measured == pytest.approx(spread, abs=0.51 * 10**-digits)


@pytest.mark.parametrize("natural", [4.0, 5.0, -5.0])
def test_second_moment_at_temperature_one_explodes_as_e_to_twice_the_natural_parameter(natural, feed, rng):
    law = feed(copies(natural), MIDPOINTS.reshape(1, -1))
    second = estimates(law, 1.0, 1.0, rng).square().mean().item()
    assert second == pytest.approx(math.exp(2 * abs(natural)) / 3, rel=0.02)  # 983 against 994 at |lambda| = 4


def test_at_temperature_one_and_a_fair_coin_the_estimate_is_two_thirds_exactly(feed, rng):
    # tanh(delta) = 2u - 1 there: int_0^1 1 - (2u - 1)^2 du = 2/3, and the midpoint rule errs by h^2 / 3.
    law = feed(copies(0.0), MIDPOINTS.reshape(1, -1))
    assert estimates(law, 1.0, 1.0, rng).mean().item() == pytest.approx(2 / 3, abs=1e-11)


# --- B10 ----------------------------------------------------------------------------------------------------------


def test_averaging_draws_keeps_the_mean_and_divides_the_variance_by_their_number(rng):
    """B10, with drawn noise: 100 000 copies estimate mean and variance of the S-draw estimator."""
    n, natural, temperature = 100_000, 0.5, 0.5
    single = estimates(copies(natural, n), 1.0, temperature, rng)
    fourth = ((single - single.mean()) ** 4).mean() / single.var() ** 2
    for draws in (4, 16):
        averaged = estimates(copies(natural, n), 1.0, temperature, rng, draws)
        error = 5 * math.sqrt((single.var() + averaged.var()).item() / n)
        assert abs((averaged.mean() - single.mean()).item()) <= error
        # A variance over n copies has relative standard error sqrt((kurtosis - 1) / n); averaging only lowers kurtosis.
        ratio = (single.var() / averaged.var()).item() / draws
        assert abs(ratio - 1) <= 5 * math.sqrt(2 * max(fourth.item(), 3.0) / n)


# --- B11 ----------------------------------------------------------------------------------------------------------


def log_factor(latent: np.ndarray, natural: float, temperature: float) -> np.ndarray:
    """log s = log sech^2(latent / T) - log sech^2(lambda) - log T, by numpy's logaddexp."""

    def log_sech2(x):
        return 2 * (math.log(2) - np.logaddexp(x, -x))

    return log_sech2(latent / temperature) - log_sech2(natural) - math.log(temperature)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.one_of(st.floats(-50, 50), st.integers(-50, 50).map(float)),
    st.one_of(st.floats(-10, 0).map(lambda power: 10.0**power), st.sampled_from([1e-10, 1.0])),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_the_estimate_is_finite_over_the_whole_range_of_naturals_temperatures_and_uniforms(natural, temperature, dtype):
    """B11, the ends of the uniform grid included, with N = 1e6 in front of the gradient; right where representable."""
    temperature = min(max(temperature, 1e-10), 1.0)
    u = torch.tensor([0.0, 2.0**-24, 0.3, 0.5, 1 - 2.0**-24], dtype=dtype)
    law = Bernoulli(torch.full((5,), natural, dtype=dtype))
    latent = law.latent(half_logit(u)).detach()
    slope = RelaxedSign(temperature).slope(latent)
    (pulled,) = law.pull_back(half_logit(u), slope)
    point = law.coordinates()[0].parameter.detach()
    estimate = BernoulliFisher().to_tangent(point, pulled)
    for result in (latent, slope, estimate, BernoulliFisher().to_tangent(point, 1e6 * pulled)):
        assert torch.isfinite(result).all()
    if dtype == torch.float64:
        expected = log_factor(latent.numpy(), natural, temperature)
        formed = slope.numpy() > 1e-300  # below, the slope underflows towards 0, and so may the estimate
        # Exponents up to 2 |latent| / T <= 690 where formed, plus 100: 4 eps (2 + 790) relative.
        np.testing.assert_allclose(np.log(estimate.numpy()[formed]), expected[formed], rtol=0, atol=1e-11)


def test_the_extremes_of_the_stated_range_are_finite_together():
    """B11 at its corners, every combination."""
    for dtype in (torch.float32, torch.float64):
        natural = torch.tensor([-50.0, -9.1, 0.0, 9.1, 50.0], dtype=dtype)[:, None]
        noise = half_logit(torch.tensor([0.0, 2.0**-24, 1 - 2.0**-24], dtype=dtype))[None, :]
        point = natural.expand(5, 3)
        for temperature in (1e-10, 1e-5, 1e-2, 1.0):
            slope = RelaxedSign(temperature).slope(natural + noise)
            assert torch.isfinite(BernoulliFisher().to_tangent(point, slope)).all()
