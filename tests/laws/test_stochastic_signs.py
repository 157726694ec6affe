"""Signs, activations and maxima of Gaussians: sampled (P6, P11), propagated, differentiated (P8).

Peters & Welling 2018. Frequencies against closed forms and quadrature; the wrong poolings and slopes are injected and
seen to be wrong.
"""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, special, stats

from core.interface import Reading, UnsupportedReading
from core.moments import (
    Moments,
    PropagatedSign,
    StochasticSign,
    bce_of_signs,
    ce_of_means,
    hard_tanh,
    log_positive,
    means,
    rectified,
    sampled_maximum,
    sign_natural,
)
from core.ops import sign
from core.signals import Gaussian
from core.spatial import MaxPool

F64 = torch.float64
MEANS = torch.tensor([-4.0, -1.0, -0.2, 0.0, 0.5, 1.5, 3.0], dtype=F64)
VARIANCES = torch.tensor([4.0, 0.3, 2.0, 1.0, 0.04, 9.0, 2.0], dtype=F64)
Q = torch.special.ndtr(MEANS / VARIANCES.sqrt())
TEMPERATURES = [0.05, 0.5, 1.0, 7.0]


def seeded(seed: int = 20) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def copies(n: int) -> Gaussian:
    return Gaussian(MEANS.expand(n, -1), VARIANCES.expand(n, -1))


def tensor(*numbers: float, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.tensor(numbers, dtype=dtype)


# ------------------------------------------------------------------------------------------------------------------ P11


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_sampled_sign_is_plus_one_with_probability_q_at_every_temperature(temperature):
    n = 100_000
    signs = StochasticSign(temperature=temperature)(copies(n), seeded())
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    share = (signs > 0).to(F64).mean(0)
    assert ((share - Q).abs() <= 5 * (Q * (1 - Q) / n).sqrt()).all()
    # the traps: a variance taken for a deviation, and q itself for the mean of the sign
    assert ((share - torch.special.ndtr(MEANS / VARIANCES)).abs() > 0.01).any()
    assert ((signs.mean(0) - Q).abs() > 0.3).any()


def test_the_temperature_changes_the_slope_and_no_sign():
    signs = [StochasticSign(temperature=t)(copies(1000), seeded()) for t in TEMPERATURES]
    assert all(torch.equal(signs[0], other) for other in signs[1:])


def test_signs_of_units_and_examples_are_independent():
    n = 100_000
    signs = StochasticSign()(copies(n), seeded())
    z = (signs - (2 * Q - 1)) / (4 * Q * (1 - Q)).sqrt()
    z = z[:, 1:]  # P(+1) = 0.02 at mean -4: too skewed for a normal interval at this n
    between_units = torch.cov(z.T) - torch.diag(torch.diag(torch.cov(z.T)))
    assert between_units.abs().max() < 5 / math.sqrt(n)  # products of independent standardised signs have variance 1
    assert (z[1:] * z[:-1]).mean(0).abs().max() < 5 / math.sqrt(n)


def test_an_impossible_temperature_is_refused():
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match=f"temperature.*{temperature}"):
            StochasticSign(temperature=temperature)


def test_a_sign_of_no_variance_is_certain_but_at_mean_zero_it_is_a_coin():
    # The mass of an even layer at a = 0: deterministic networks read sign(0) = +1, while q = Phi(0 / s) is 1/2 down
    # to s = 0, so a certain layer's sampled sign of an exact zero is tossed.
    n = 10_000
    h = Gaussian(tensor(-2.0, 0.0, 2.0).expand(n, 3), torch.zeros(n, 3, dtype=F64))
    share = (StochasticSign()(h, seeded()) > 0).to(F64).mean(0)
    assert share[0] == 0 and share[2] == 1
    assert abs(share[1] - 0.5) < 5 * 0.5 / math.sqrt(n)
    propagated = PropagatedSign()(h, seeded())
    assert propagated.mean[0].tolist() == [-1.0, 0.0, 1.0]
    assert propagated.variance[0].tolist() == [0.0, 1.0, 0.0]
    assert sign(tensor(0.0)).item() == 1.0


def test_a_tensor_gets_the_plain_sign_with_a_clipped_slope():
    for window, inside in ((1.0, [0.0, 1.0, 1.0, 0.0]), (3.0, [1.0, 1.0, 1.0, 1.0])):
        h = tensor(-2.0, -0.5, 0.0, 2.5).requires_grad_()
        signs = StochasticSign(slope_window=window)(h, seeded())
        assert signs.tolist() == [-1.0, -1.0, 1.0, 1.0]
        signs.sum().backward()
        assert h.grad.tolist() == inside


# ------------------------------------------------------------------------------------------ straight through, the slope


def expected_slope(natural: float, temperature: float) -> tuple[float, float]:
    """Mean and second moment of sech^2((l + delta) / t) / t, delta of density sech^2(delta) / 2, by quadrature."""

    def sech2(x: float) -> float:
        return 4 * special.expit(2 * x) * special.expit(-2 * x)

    moments = []
    for power in (1, 2):

        def integrand(u: float, power: int = power) -> float:  # u = (l + delta) / t, so that the peak is at 0
            return (sech2(u) / temperature) ** power * sech2(u * temperature - natural) / 2 * temperature

        edge = 40 / min(1.0, temperature)
        moments.append(integrate.quad(integrand, -edge, edge, limit=400, points=[0.0, natural / temperature])[0])
    return moments[0], moments[1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 7.0])
@pytest.mark.parametrize("mean, variance", [(0.0, 1.0), (0.8, 1.0), (-1.5, 0.5)])
def test_the_slope_is_that_of_the_tempered_tanh_at_the_sampled_logit(mean, variance, temperature):
    n = 50_000
    m = torch.full((n,), mean, dtype=F64, requires_grad=True)
    v = torch.full((n,), variance, dtype=F64, requires_grad=True)
    StochasticSign(temperature=temperature)(Gaussian(m, v), seeded()).sum().backward()
    z = mean / math.sqrt(variance)
    natural = (stats.norm.logcdf(z) - stats.norm.logcdf(-z)) / 2
    # d natural / d z = phi(z) / (2 Phi(z) Phi(-z)); z = m / s
    rise = stats.norm.pdf(z) / (2 * stats.norm.cdf(z) * stats.norm.cdf(-z))
    slopes = m.grad / (rise / math.sqrt(variance))
    first, second = expected_slope(natural, temperature)
    assert abs(slopes.mean().item() - first) < 5 * math.sqrt((second - first**2) / n)
    # the variance gets the same slope times d natural / d v = -rise z / (2 v)
    torch.testing.assert_close(v.grad, slopes * (-rise * z / (2 * variance)), rtol=1e-10, atol=1e-12)
    assert abs(first - 1) > 10 * math.sqrt((second - first**2) / n)  # an identity slope is seen


@pytest.mark.parametrize("natural, bias", [(0.0, 2 / 3), (1.0, 1.079), (2.0, 2.31)])
def test_the_sampled_sign_is_biased_as_the_binary_concrete_is(natural, bias):
    # E slope over the honest d(2 q - 1) / d natural = sech^2(natural): 2/3 at 0 (the integral of sech^4 / 2), more
    # than 1 further out. The bias is the estimator's own and must be there: an honest slope would give 1.
    n = 100_000
    start = torch.full((n,), natural, dtype=F64, requires_grad=True)
    q = torch.sigmoid(2 * start)
    h = Gaussian(torch.special.ndtri(q), torch.ones(n, dtype=F64))  # so that sign_natural(h) = natural
    StochasticSign(temperature=1.0)(h, seeded()).sum().backward()
    honest = 1 / math.cosh(natural) ** 2
    first, second = expected_slope(natural, 1.0)
    error = math.sqrt((second - first**2) / n) / honest
    assert first / honest == pytest.approx(bias, abs=5e-3)  # the reference values have three digits
    assert abs(start.grad.mean().item() / honest - first / honest) < 5 * error
    assert abs(start.grad.mean().item() / honest - 1) > 5 * error


def test_sampled_signs_pass_a_gradient_to_mean_and_variance_where_the_plain_sign_has_none():
    mean, variance = MEANS.clone().requires_grad_(), VARIANCES.clone().requires_grad_()
    StochasticSign()(Gaussian(mean, variance), seeded()).sum().backward()
    assert (mean.grad > 0).all()
    nonzero = MEANS != 0
    assert (variance.grad[nonzero] * MEANS[nonzero] < 0).all()  # more variance pulls q towards 1/2


# ---------------------------------------------------------------------------------------------------- propagated signs


def test_a_propagated_sign_has_the_moments_of_the_sampled_one():
    out = PropagatedSign()(Gaussian(MEANS, VARIANCES), seeded())
    torch.testing.assert_close(out.mean, 2 * Q - 1, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(out.variance, 1 - (2 * Q - 1).square(), rtol=1e-12, atol=1e-15)


def test_the_natural_parameter_of_a_sign_is_half_its_log_odds_into_both_tails():
    z = np.array([-300.0, -40.0, -9.0, -0.5, 0.0, 2.0, 30.0])
    expected = (stats.norm.logcdf(z) - stats.norm.logcdf(-z)) / 2
    for variance in (1.0, 0.01, 25.0):
        v = torch.full((7,), variance, dtype=F64)
        got = sign_natural(Gaussian(torch.from_numpy(z) * math.sqrt(variance), v))
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-11, atol=1e-15)
    single = sign_natural(Gaussian(torch.from_numpy(z).float(), torch.ones(7)))
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-5, atol=1e-6)


# -------------------------------------------------------------------------------------------- moments of real functions

FUNCTIONS = {"relu": (rectified, lambda x: np.maximum(x, 0.0)), "hardtanh": (hard_tanh, lambda x: np.clip(x, -1, 1))}
EVERY_FUNCTION = pytest.mark.parametrize("name", FUNCTIONS)


def by_quadrature(function, mean: float, deviation: float) -> tuple[float, float]:
    """Mean and variance of function(h), with breaks at its kinks; central, so that nothing cancels."""
    kinks = [(k - mean) / deviation for k in (-1.0, 0.0, 1.0) if abs((k - mean) / deviation) < 12]
    edges = [-12.0, *sorted(kinks), 12.0]

    def expectation(g) -> float:
        pieces = zip(edges, edges[1:], strict=False)
        return sum(integrate.quad(g, a, b, epsabs=1e-16, epsrel=1e-12)[0] for a, b in pieces)

    first = expectation(lambda z: function(mean + deviation * z) * stats_pdf(z))
    return first, expectation(lambda z: (function(mean + deviation * z) - first) ** 2 * stats_pdf(z))


def stats_pdf(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


@EVERY_FUNCTION
@pytest.mark.parametrize("deviation", [0.002, 0.1, 1.0, 6.0])
@pytest.mark.parametrize("mean", [-3.0, -0.9, 0.0, 0.4, 1.0, 5.0])
def test_moments_of_a_real_activation_are_those_of_quadrature(name, mean, deviation):
    moments, function = FUNCTIONS[name]
    out = moments(Gaussian(tensor(mean), tensor(deviation**2)))
    first, second = by_quadrature(function, mean, deviation)
    # sums of a few terms below 50, each to 2^-53, and the quadrature to 1e-12 of values below 50
    assert out.mean.item() == pytest.approx(first, rel=1e-11, abs=1e-13)
    assert out.variance.item() == pytest.approx(second, rel=1e-9, abs=1e-13)


@EVERY_FUNCTION
def test_moments_of_a_real_activation_at_variance_zero_are_the_function_itself(name):
    # the exact zero, and deviations of 1e-5, smaller than any floor that keeps a division finite
    moments, function = FUNCTIONS[name]
    mean = tensor(-2.0, -0.3, 0.0, 0.6, 4.0)
    for variance in (0.0, 1e-10):
        out = moments(Gaussian(mean, torch.full_like(mean, variance)))
        expected = function(mean.numpy())
        np.testing.assert_allclose(out.mean.numpy(), expected, rtol=0, atol=math.sqrt(variance) / 2)
        # both functions are 1-Lipschitz, so a variance cannot grow but by its last digits
        assert (out.variance <= variance * (1 + 1e-12)).all() and (out.variance >= 0).all()


@EVERY_FUNCTION
@pytest.mark.parametrize("deviation", [0.01, 0.1, 1.0])
def test_variances_of_real_activations_keep_their_digits_in_float32(name, deviation):
    # E[y^2] - E[y]^2 loses them where the mean is many deviations: at mean 30, deviation 0.01 all of them
    moments, _ = FUNCTIONS[name]
    mean = tensor(-0.8, -0.3, 0.0, 0.4, 0.95, *([3.0, 30.0] if name == "relu" else []))
    variance = torch.full_like(mean, deviation**2)
    exact, single = moments(Gaussian(mean, variance)), moments(Gaussian(mean.float(), variance.float()))
    shown = exact.variance > 1e-3 * deviation**2
    # a dozen roundings of 2^-24 in terms no larger than deviation^2 times the argument's square (3^2)
    torch.testing.assert_close(single.variance[shown].double(), exact.variance[shown], rtol=1e-4, atol=0)
    torch.testing.assert_close(single.mean.double(), exact.mean, rtol=1e-5, atol=1e-5 * deviation)


@EVERY_FUNCTION
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variances_of_real_activations_are_never_negative(name, dtype):
    mean = torch.linspace(-40, 40, 801, dtype=dtype)
    for variance in (0.0, 1e-12, 1e-6, 1e-3, 1.0, 100.0):
        out = FUNCTIONS[name][0](Gaussian(mean, torch.full_like(mean, variance)))
        assert (out.variance >= 0).all() and out.mean.isfinite().all()


@EVERY_FUNCTION
@pytest.mark.parametrize("log_variance", [-16.0, -10.0, -4.0, 0.0, 3.0])
def test_moments_of_real_activations_pass_gradcheck_down_to_variance_near_zero(name, log_variance):
    # away from the kinks at small variance, where the second derivative is 1 / s = 3000
    mean = tensor(-1.7, -0.4, 0.3, 0.8, 2.0).requires_grad_()
    logs = torch.full((5,), log_variance, dtype=F64, requires_grad=True)

    def both(m, s):
        out = FUNCTIONS[name][0](Gaussian(m, s.exp()))
        return out.mean, out.variance

    assert torch.autograd.gradcheck(both, (mean, logs))


@EVERY_FUNCTION
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variance", [0.0, 1e-30, 1e-12])
def test_gradients_of_real_activations_are_finite_where_the_variance_vanishes(name, dtype, variance):
    mean = tensor(-50.0, -0.3, 0.0, 0.5, 1.0, 1e4, dtype=dtype).requires_grad_()
    v = torch.full((6,), variance, dtype=dtype, requires_grad=True)
    out = FUNCTIONS[name][0](Gaussian(mean, v))
    (out.mean.sum() + out.variance.sum()).backward()
    assert mean.grad.isfinite().all() and v.grad.isfinite().all()
    slopes = [0.0, 0.0, 1.0, 1.0] if name == "relu" else [0.0, 1.0, 1.0, 0.0]
    # far from the kinks the mean's slope is the function's own, and the variance's does not depend on the mean
    assert mean.grad[[0, 1, 3, 5]].tolist() == pytest.approx(slopes, abs=1e-6)


@EVERY_FUNCTION
def test_a_sampled_real_activation_is_the_function_of_a_sample_and_a_propagated_one_its_moments(name):
    h = Gaussian(MEANS, VARIANCES)
    _, function = FUNCTIONS[name]
    sampled = StochasticSign().real(h, name, seeded())
    np.testing.assert_array_equal(sampled.numpy(), function(h.sample(seeded()).numpy()))
    propagated, expected = PropagatedSign().real(h, name, seeded()), FUNCTIONS[name][0](h)
    assert torch.equal(propagated.mean, expected.mean) and torch.equal(propagated.variance, expected.variance)


def test_a_fork_is_one_sample_or_moments_whose_dependence_is_knowingly_ignored():
    h = Gaussian(MEANS, VARIANCES)
    assert torch.equal(StochasticSign().fork(h, seeded(), assume_independent=False), h.sample(seeded()))
    assert PropagatedSign().fork(h, seeded(), assume_independent=True) is h
    with pytest.raises(UnsupportedReading, match="network.assume_independent=true"):
        PropagatedSign().fork(h, seeded(), assume_independent=False)


# ------------------------------------------------------------------------------------------------------------------- P6

WINDOWS = {  # means and variances of one window; in the last two the largest mean has the least variance
    "two": (tensor(0.3, -0.2), tensor(1.0, 4.0)),
    "three": (tensor(0.5, 0.0, -1.0), tensor(0.1, 1.0, 9.0)),
    "four": (tensor(1.0, 0.9, 0.0, -0.5), tensor(0.01, 0.25, 1.0, 4.0)),
}
EVERY_WINDOW = pytest.mark.parametrize("window", WINDOWS)


def largest(windows: Gaussian, rng: torch.Generator) -> Gaussian:
    """Stochastic max pooling over the last dimension, as pooling of a one-row image of windows."""
    size = windows.shape[-1]
    pooled = sampled_maximum(windows.map(lambda moment: moment.reshape(1, 1, 1, -1)), (1, size), rng)
    return pooled.map(lambda moment: moment.reshape(windows.shape[:-1]))


def copied(window: str, n: int) -> Gaussian:
    mean, variance = WINDOWS[window]
    return Gaussian(mean.expand(n, -1), variance.expand(n, -1))


def p_largest(window: str) -> torch.Tensor:
    """P(entry i is the largest) = integral of its density times the others' distribution functions."""
    mean, variance = (v.numpy() for v in WINDOWS[window])
    s = np.sqrt(variance)

    def one(i: int) -> float:
        others = [j for j in range(len(mean)) if j != i]

        def integrand(z: float) -> float:
            x = mean[i] + s[i] * z
            return stats_pdf(z) * float(np.prod([special.ndtr((x - mean[j]) / s[j]) for j in others]))

        return integrate.quad(integrand, -12, 12, epsabs=1e-12, limit=400)[0]

    return tensor(*[one(i) for i in range(len(mean))])


def chosen(window: str, out: Gaussian) -> torch.Tensor:
    """Which entry was passed on, read off its mean; the means of a window differ."""
    matches = out.mean[:, None] == WINDOWS[window][0]
    assert (matches.sum(1) == 1).all()
    return matches.long().argmax(1)


def test_quadrature_of_two_gaussians_is_the_closed_form():
    mean, variance = WINDOWS["two"]
    closed = stats.norm.cdf((mean[0] - mean[1]).item() / math.sqrt(variance.sum().item()))
    assert p_largest("two")[0].item() == pytest.approx(closed, abs=1e-10)


@EVERY_WINDOW
def test_an_entry_is_passed_on_as_often_as_it_is_the_largest(window):
    n, p = 100_000, p_largest(window)
    assert p.sum().item() == pytest.approx(1, abs=1e-10)
    share = torch.bincount(chosen(window, largest(copied(window, n), seeded())), minlength=len(p)) / n
    assert ((share - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()
    # the largest mean is not always the largest, nor is it the softmax or the deviation that decides
    assert p.max() < 0.95


@EVERY_WINDOW
def test_both_moments_are_of_the_chosen_entry(window):
    out = largest(copied(window, 5000), seeded())
    mean, variance = WINDOWS[window]
    index = chosen(window, out)
    assert torch.equal(out.mean, mean[index]) and torch.equal(out.variance, variance[index])
    assert len(index.unique()) == len(mean)


WRONG_POOLS = {
    "max of means": lambda h: Gaussian(
        h.mean.amax(-1), h.variance.gather(-1, h.mean.argmax(-1, keepdim=True)).squeeze(-1)
    ),
    "means and variances pooled separately": lambda h: Gaussian(h.mean.amax(-1), h.variance.amax(-1)),
    "the moments of one sample each": lambda h: Gaussian(
        h.sample(seeded(1)).amax(-1), torch.zeros_like(h.variance[..., 0])
    ),
    "deviations fed as variances": lambda h: pooled_by(h, h.mean + h.variance * standard_normal(h)),
}


def standard_normal(h: Gaussian) -> torch.Tensor:
    return torch.randn(h.mean.shape, generator=seeded(1), dtype=F64)


def pooled_by(h: Gaussian, sample: torch.Tensor) -> Gaussian:
    index = sample.argmax(-1, keepdim=True)
    return h.map(lambda moment: moment.gather(-1, index).squeeze(-1))


@pytest.mark.parametrize("wrong", WRONG_POOLS)
def test_each_known_wrong_pooling_is_told_from_the_right_one(wrong):
    # The pair passed on has means E = sum p_i mu_i, sum p_i sigma_i^2; n pairs err by their deviation over sqrt(n).
    n, p = 50_000, p_largest("three")
    mean, variance = WINDOWS["three"]
    bad = WRONG_POOLS[wrong](copied("three", n))
    right = largest(copied("three", n), seeded())
    misses = []
    for got, wrongly, values in ((right.mean, bad.mean, mean), (right.variance, bad.variance, variance)):
        expected = p @ values
        error = 5 * (p @ (values - expected).square() / n).sqrt()
        assert abs(got.mean() - expected) < error
        misses.append(bool(abs(wrongly.mean() - expected) > error))
    assert any(misses)


def test_windows_are_pooled_independently_over_the_last_dimension():
    mean, variance = WINDOWS["two"]
    n = 20_000
    h = Gaussian(mean.expand(n, 3, 2, 2), variance.expand(n, 3, 2, 2))
    out = largest(h, seeded())
    assert out.shape == (n, 3, 2)
    first = (out.mean == mean[0]).to(F64).flatten(1)
    correlation = torch.corrcoef(first.T) - torch.eye(6, dtype=F64)
    assert correlation.abs().max() < 5 / math.sqrt(n)


def test_windows_without_variance_are_pooled_as_ordinary_max_pooling_does():
    mean = torch.randn(50, 4, generator=seeded(), dtype=F64)
    out = largest(Gaussian(mean, torch.zeros_like(mean)), seeded())
    assert torch.equal(out.mean, mean.amax(-1))


@pytest.mark.parametrize("image", [(4, 4), (5, 4), (2, 7)])
def test_the_pooling_layer_chooses_within_each_window_of_the_image(image):
    # Every entry has its own mean, and variance mean^2: what comes out says where it came from.
    height, width = image
    mean = torch.arange(1.0, 1 + 2 * height * width, dtype=F64).view(1, 2, height, width)
    n = 4000
    h = Gaussian(mean.expand(n, -1, -1, -1), mean.square().expand(n, -1, -1, -1))
    out = MaxPool(2)(h, Reading(Moments(), StochasticSign()), seeded())
    assert out.shape == (n, 2, height // 2, width // 2)
    assert torch.equal(out.variance, out.mean.square())  # one index for both
    for c, i, j in itertools.product(range(2), range(height // 2), range(width // 2)):
        window = mean[0, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()
        values, counts = out.mean[:, c, i, j].unique(return_counts=True)
        assert set(values.tolist()) <= set(window.tolist())
        assert len(values) == 4 and counts.max() < n  # not the largest mean alone
    ordinary = MaxPool(2)(mean, Reading(Moments(), StochasticSign()), seeded())
    assert torch.equal(ordinary, F.max_pool2d(mean, 2))


def test_the_pooling_layer_passes_each_entry_as_often_as_it_is_the_largest():
    mean, variance = (v.view(1, 1, 2, 2) for v in WINDOWS["four"])
    n, p = 50_000, p_largest("four")
    h = Gaussian(mean.expand(n, -1, -1, -1), variance.expand(n, -1, -1, -1))
    out = MaxPool(2)(h, Reading(Moments(), StochasticSign()), seeded()).map(lambda moment: moment.flatten())
    share = torch.bincount(chosen("four", out), minlength=4) / n
    assert ((share - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all()


def test_the_gradient_flows_to_the_chosen_pair_and_to_nothing_else():
    mean, variance = (v.expand(100, -1).clone().requires_grad_() for v in WINDOWS["four"])
    out = largest(Gaussian(mean, variance), seeded())
    index = chosen("four", Gaussian(out.mean.detach(), out.variance.detach()))
    (3 * out.mean.sum() + 5 * out.variance.sum()).backward()
    picked = F.one_hot(index, 4).to(F64)
    assert torch.equal(mean.grad, 3 * picked) and torch.equal(variance.grad, 5 * picked)


# ---------------------------------------------------------------------------------------------------- losses of outputs


LABELS = torch.tensor([2, 0, 1, 1])


def outputs() -> tuple[torch.Tensor, torch.Tensor]:
    mean = 2 * torch.randn(4, 3, generator=seeded(), dtype=F64)
    return mean, 0.1 + 3 * torch.rand(4, 3, generator=seeded(1), dtype=F64)


def test_the_bce_variant_sums_the_binary_cross_entropies_of_p_positive_over_classes():
    mean, variance = outputs()
    p = stats.norm.cdf((mean / variance.sqrt()).numpy())
    target = np.eye(3)[LABELS.numpy()]
    by_hand = -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum(1).mean()
    # 1 - p loses at most 2^-53 / (1 - p), and no p is within 1e-4 of 1 here
    assert p.max() < 1 - 1e-4
    assert bce_of_signs(Gaussian(mean, variance), LABELS).item() == pytest.approx(by_hand, rel=1e-11)
    wrong = stats.norm.cdf((mean / variance).numpy())  # a variance for a deviation
    assert abs(-(target * np.log(wrong) + (1 - target) * np.log(1 - wrong)).sum(1).mean() - by_hand) > 0.01


def test_the_ce_variant_is_the_cross_entropy_of_the_means_and_ignores_variances():
    mean, variance = outputs()
    expected = -torch.log_softmax(mean, 1)[range(4), LABELS].mean()
    for v in (variance, 7 * variance):
        torch.testing.assert_close(ce_of_means(Gaussian(mean, v), LABELS), expected, rtol=1e-12, atol=0)
    assert torch.equal(means(Gaussian(mean, variance)), mean)


def test_tensors_are_logits_of_independent_classes_in_the_bce_variant():
    mean, _ = outputs()
    by_hand = F.binary_cross_entropy_with_logits(mean, F.one_hot(LABELS, 3).to(F64), reduction="sum") / 4
    torch.testing.assert_close(bce_of_signs(mean, LABELS), by_hand, rtol=1e-12, atol=0)
    torch.testing.assert_close(log_positive(mean), torch.log(torch.sigmoid(mean)), rtol=1e-12, atol=0)


def test_log_probabilities_of_a_positive_output_are_finite_far_in_the_tail():
    z = tensor(-200.0, -50.0, -5.0, 0.0, 6.0)
    np.testing.assert_allclose(
        log_positive(Gaussian(3 * z, torch.full_like(z, 9.0))).numpy(), stats.norm.logcdf(z.numpy()), rtol=1e-12
    )
    far = Gaussian(tensor(-300.0, 300.0, -300.0)[None], torch.full((1, 3), 1.0, dtype=F64))
    loss = bce_of_signs(far, torch.tensor([0]))
    # log Phi(-300) twice and log Phi(300) ... = 2 * 45006.6 (by -x^2 / 2 - log(x sqrt(2 pi)))
    assert loss.item() == pytest.approx(-2 * stats.norm.logcdf(-300.0), rel=1e-10)


@pytest.mark.parametrize("log_variance", [-6.0, 0.0, 3.0])
def test_losses_of_gaussian_outputs_pass_gradcheck(log_variance):
    mean, variance = outputs()
    mean, logs = mean.requires_grad_(), (log_variance + variance.log()).requires_grad_()
    for loss in (bce_of_signs, ce_of_means):
        # log Phi bends by up to 1 / s^2 = 4000: a step of 1e-6 errs by 1e-9, cancellation by 1e4 * 1e-16 / 1e-6
        assert torch.autograd.gradcheck(lambda m, s, loss=loss: loss(Gaussian(m, s.exp()), LABELS), (mean, logs))
