"""Stochastic batch norm against enumeration of what is normalised, and what one drawn network sees instead: P4, P5.

Peters & Welling 2018. The wrong scales that reproductions have used are injected and seen to be wrong.
"""

import itertools
import math

import pytest
import torch

from core.contractions import Dense
from core.interface import Reading
from core.laws import Bernoulli
from core.layers import BatchNorm
from core.moments import Moments, PropagatedSign
from core.signals import Gaussian
from core.statistics import Estimation, Evaluation, Statistics, Training, moments2, stochastic_batch_norm

F64 = torch.float64
# sums of at most 2^12 weighted terms of size below 100: 1e-16 * 100 * 64 < 1e-12, with room for divisions
EXACT = {"rtol": 1e-11, "atol": 1e-11}
VISIBLE = 1e-3
READING = Reading(Moments(), PropagatedSign())
SHAPES = pytest.mark.parametrize("shape", [(2, 3), (6, 3), (2, 3, 2, 2), (3, 3, 1, 2)])


def seeded(seed: int = 20) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 1) -> Gaussian:
    """Pre-activations whose means spread about an offset, with variances from near 0 to about 9."""
    mean = 2 * torch.randn(shape, generator=seeded(seed), dtype=F64) + 1.5
    return Gaussian(mean, (3 * torch.rand(shape, generator=seeded(seed + 1), dtype=F64)).square())


def norm_of(channels: int, *, affine: bool = True, eps: float = 1e-4, momentum: float = 0.15) -> BatchNorm:
    norm = BatchNorm(channels, affine=affine, eps=eps, momentum=momentum, role="stochastic").to(F64)
    norm.name = "norm"
    if affine:
        with torch.no_grad():
            norm.weight.copy_(torch.randn(channels, generator=seeded(7), dtype=F64))
            norm.bias.copy_(torch.randn(channels, generator=seeded(8), dtype=F64))
    return norm


def by_channel(values: torch.Tensor) -> torch.Tensor:
    """(C, M)."""
    return values.movedim(1, 0).flatten(1)


def through(norm: BatchNorm, h, phase):
    return norm(h, READING.during(phase), seeded())


def configurations(n: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=F64)


# ------------------------------------------------------------------------------------------------- the variance it uses


@pytest.mark.parametrize("shape", [(2, 1), (6, 1), (12, 1), (2, 1, 2, 2), (3, 1, 1, 2)])
def test_the_variance_is_the_expected_unbiased_sample_variance_by_enumeration(shape):
    # Entries mean +- deviation with equal probability have the two moments; all 2^M batches of them are enumerated.
    h = gaussian(*shape)
    mean, deviation = by_channel(h.mean)[0], by_channel(h.deviation())[0]
    batches = mean + deviation * configurations(len(mean))
    expected_mean, expected_variance = batches.mean(1).mean(), batches.var(1).mean()
    _, m, v = stochastic_batch_norm(h, norm_of(1))
    torch.testing.assert_close(m[0], expected_mean, **EXACT)
    torch.testing.assert_close(v[0], expected_variance, **EXACT)


WRONG_VARIANCES = {  # of (mean, variance) per channel, (C, M) each
    "the paper's, which divides both sums by M - 1": lambda mu, s2: (
        (s2.sum(1) + (mu - mu.mean(1, keepdim=True)).square().sum(1)) / (mu.shape[1] - 1)
    ),
    "ordinary batch norm of the means": lambda mu, s2: mu.var(1),
    "the mean of the variances alone": lambda mu, s2: s2.mean(1),
    "the variance of the variances": lambda mu, s2: s2.var(1),
    "the biased variance of the means": lambda mu, s2: s2.mean(1) + mu.var(1, unbiased=False),
    "deviations in place of variances": lambda mu, s2: s2.sqrt().mean(1) + mu.var(1),
}


@pytest.mark.parametrize("wrong", WRONG_VARIANCES)
@SHAPES
def test_each_known_wrong_variance_is_told_from_the_one_in_use(wrong, shape):
    h = gaussian(*shape)
    mu, s2 = by_channel(h.mean), by_channel(h.variance)
    _, m, v = stochastic_batch_norm(h, norm_of(3))
    torch.testing.assert_close(m, mu.mean(1), **EXACT)
    torch.testing.assert_close(v, s2.mean(1) + mu.var(1), **EXACT)
    assert (WRONG_VARIANCES[wrong](mu, s2) - v).abs().max() > VISIBLE


def test_the_papers_variance_differs_by_the_mean_variance_over_m_minus_one():
    for size in (4, 40, 400):
        h = gaussian(size, 3)
        mu, s2 = by_channel(h.mean), by_channel(h.variance)
        papers = WRONG_VARIANCES["the paper's, which divides both sums by M - 1"](mu, s2)
        _, _, v = stochastic_batch_norm(h, norm_of(3))
        torch.testing.assert_close(papers - v, s2.mean(1) / (size - 1), **EXACT)


def test_gaussians_without_variance_are_normalised_by_the_unbiased_variance():
    h = gaussian(6, 3).mean
    norm = norm_of(3)
    out, m, v = stochastic_batch_norm(Gaussian(h, torch.zeros_like(h)), norm)
    expected = norm.weight * (h - h.mean(0)) / (h.var(0) + norm.eps).sqrt() + norm.bias
    torch.testing.assert_close(out.mean, expected, **EXACT)
    assert torch.count_nonzero(out.variance) == 0


# ------------------------------------------------------------------------------------------------------------------- P4


@SHAPES
@pytest.mark.parametrize("eps", [1e-4, 0.5])
def test_the_output_has_mean_bias_and_expected_variance_gain_squared(shape, eps):
    norm, h = norm_of(3, eps=eps), gaussian(*shape)
    out, _, v = stochastic_batch_norm(h, norm)
    mu, s2 = by_channel(out.mean), by_channel(out.variance)
    torch.testing.assert_close(mu.mean(1), norm.bias, **EXACT)
    torch.testing.assert_close(s2.mean(1) + mu.var(1), norm.weight.square() * v / (v + eps), **EXACT)


def test_samples_of_the_output_have_mean_bias_and_variance_gain_squared_over_the_batch():
    norm, h, n = norm_of(3, eps=1e-9), gaussian(16, 3), 20_000
    out, *_ = stochastic_batch_norm(h, norm)
    samples = Gaussian(out.mean.expand(n, 16, 3), out.variance.expand(n, 16, 3)).sample(seeded()).detach()
    means, variances = samples.mean(1), samples.var(1)  # (n, 3), of each batch
    for got, expected in ((means, norm.bias), (variances, norm.weight.square())):
        assert ((got.mean(0) - expected).abs() < 5 * got.std(0) / math.sqrt(n)).all()
        assert (5 * got.std(0) / math.sqrt(n) < 0.05).all()  # tight enough: the means' variance is about half of it


@SHAPES
def test_mean_and_variance_are_scaled_by_the_same_gain(shape):
    norm, h = norm_of(3), gaussian(*shape)
    out, m, v = stochastic_batch_norm(h, norm)
    per_channel = (1, 3) + (1,) * (len(shape) - 2)
    scale = (norm.weight / (v + norm.eps).sqrt()).view(per_channel)
    torch.testing.assert_close(out.mean, (h.mean - m.view(per_channel)) * scale + norm.bias.view(per_channel), **EXACT)
    torch.testing.assert_close(out.variance, h.variance * scale.square(), **EXACT)
    # a variance scaled as a mean is scaled (or divided by the variance of the variances) is another
    assert (out.variance - h.variance * scale.abs()).abs().max() > VISIBLE
    assert (out.variance - h.variance / by_channel(h.variance).var(1).view(per_channel)).abs().max() > VISIBLE


@pytest.mark.parametrize("log_variance", [-30.0, -8.0, 0.0])
@pytest.mark.parametrize("shape", [(4, 2), (2, 2, 1, 2)])
def test_stochastic_batch_norm_passes_gradcheck_down_to_variance_near_zero(shape, log_variance):
    norm = norm_of(2)
    mean = gaussian(*shape).mean.requires_grad_()
    logs = (log_variance + torch.rand(shape, generator=seeded(), dtype=F64)).requires_grad_()
    gain, bias = norm.weight, norm.bias

    def outputs(m, s, *_):
        out, mu, v = stochastic_batch_norm(Gaussian(m, s.exp()), norm)
        return out.mean, out.variance, mu, v

    assert torch.autograd.gradcheck(outputs, (mean, logs, gain, bias))


# ------------------------------------------------------------------------------------------------ phases and statistics


@SHAPES
@pytest.mark.parametrize("phase", ["training", "estimation"])
def test_training_and_estimation_normalise_by_the_batch(shape, phase):
    norm, h = norm_of(3), gaussian(*shape)
    out = through(norm, h, Training() if phase == "training" else Estimation(Statistics()))
    expected, *_ = stochastic_batch_norm(h, norm)
    assert torch.equal(out.mean, expected.mean) and torch.equal(out.variance, expected.variance)


@pytest.mark.parametrize("momentum", [0.15, 0.6])
def test_running_averages_hold_the_mean_and_the_variance_in_use(momentum):
    norm, mean, variance = norm_of(3, momentum=momentum), torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)
    for seed in (1, 5, 9):
        h = gaussian(8, 3, seed=seed)
        through(norm, h, Training())
        _, m, v = stochastic_batch_norm(h, norm)
        mean, variance = mean + momentum * (m.detach() - mean), variance + momentum * (v.detach() - variance)
    torch.testing.assert_close(norm.running_mean, mean, **EXACT)
    torch.testing.assert_close(norm.running_var, variance, **EXACT)


@pytest.mark.parametrize("spatial", [(), (2, 2)])
def test_statistics_of_batches_are_those_of_all_entries_at_once(spatial):
    sizes, statistics = (5, 1, 9), Statistics()
    batches = [gaussian(n, 3, *spatial, seed=3 * n) for n in sizes]
    for batch in batches:
        statistics.record("norm", batch)
    whole = Gaussian(torch.cat([b.mean for b in batches]), torch.cat([b.variance for b in batches]))
    _, m, v = stochastic_batch_norm(whole, norm_of(3))
    torch.testing.assert_close(statistics.mean("norm"), m, **EXACT)
    torch.testing.assert_close(statistics.variance("norm"), v, **EXACT)
    # averaging the batches' own variances loses the spread between their means
    own = torch.stack([stochastic_batch_norm(b, norm_of(3))[2] for b in batches if b.mean[:, 0].numel() > 1]).mean(0)
    assert (own - v).abs().max() > VISIBLE


def test_moments_of_gaussians_survive_a_state_file():
    statistics = Statistics()
    statistics.record("norm", gaussian(6, 3))
    back = Statistics.from_state(statistics.state())
    assert torch.equal(back.variance("norm"), statistics.variance("norm"))
    assert not torch.equal(back.variance("norm"), moments2(gaussian(6, 3).mean).variance())


@pytest.mark.parametrize("spatial", [(), (2, 2)])
def test_evaluation_is_one_affine_map_of_the_mean_and_its_square_of_the_variance(spatial):
    norm, h, statistics = norm_of(3), gaussian(5, 3, *spatial), Statistics()
    statistics.record("norm", gaussian(40, 3, *spatial, seed=30))
    out = through(norm, h, Evaluation(statistics))
    scale, bias = (v.view(1, 3, *[1] * len(spatial)) for v in statistics.affine("norm", norm))
    torch.testing.assert_close(out.mean, h.mean * scale + bias, **EXACT)
    torch.testing.assert_close(out.variance, h.variance * scale.square(), **EXACT)
    plain = through(norm, h.mean, Evaluation(statistics))
    assert torch.equal(out.mean, plain)  # means go through as a tensor does


# ------------------------------------------------------------------------------------------------------------------- P5


def one_layer(d: int = 8, examples: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """theta (1, d), inputs (examples, d) whose mean is not 0: then the excess is large."""
    theta = 0.9 * (2 * torch.rand(1, d, generator=seeded(2), dtype=F64) - 1)
    return theta, torch.randn(examples, d, generator=seeded(3), dtype=F64) + torch.linspace(-2, 2, d, dtype=F64)


def test_one_drawn_network_sees_less_variance_than_stochastic_batch_norm_by_the_predicted_excess():
    # Over all 2^8 weights, with C the unbiased covariance of the inputs over the batch and h their mean:
    #   drawn: theta C theta + sum (1 - theta^2) C_dd;   stochastic: theta C theta + sum (1 - theta^2) mean(h_d^2),
    # and mean(h_d^2) = h_d^2 + C_dd (M - 1) / M: the excess is sum (1 - theta^2)(h_d^2 - C_dd / M).
    theta, x = one_layer()
    weights = configurations(8)
    p = ((1 + weights * theta) / 2).prod(1)
    outputs = x @ weights.T  # (M, 256 networks)
    drawn = p @ outputs.var(0)
    h = Moments()(Bernoulli(torch.atanh(theta)), Dense(), x, seeded(), None)
    _, _, v = stochastic_batch_norm(h, norm_of(1))
    covariance, uncertain = torch.cov(x.T), (1 - theta.square())[0]
    excess = (uncertain * (x.mean(0).square() - torch.diag(covariance) / len(x))).sum()
    torch.testing.assert_close(
        drawn, (theta @ covariance @ theta.T)[0, 0] + uncertain @ torch.diag(covariance), **EXACT
    )
    torch.testing.assert_close(v[0] - drawn, excess, **EXACT)
    assert excess > 0.2 * drawn  # what re-estimation has to mend is no detail
    # The excess is no lost variance: it is how far the mean of the drawn network is shifted, draw by draw.
    means = outputs.mean(0)
    shift = p @ (means - p @ means).square()
    torch.testing.assert_close(shift, uncertain @ x.mean(0).square(), **EXACT)
    torch.testing.assert_close(v[0] - drawn, shift - uncertain @ torch.diag(covariance) / len(x), **EXACT)


def test_sampled_networks_see_the_predicted_variance_and_not_the_stochastic_one():
    theta, x = one_layer()
    law, rng, n = Bernoulli(torch.atanh(theta).expand(20_000, 8).clone()), seeded(4), 20_000
    variances = Dense()(x, law.values(law.latent(law.noise(rng)))).var(0).detach()  # one network a column
    covariance, uncertain = torch.cov(x.T), (1 - theta.square())[0]
    predicted = (theta @ covariance @ theta.T)[0, 0] + uncertain @ torch.diag(covariance)
    h = Moments()(Bernoulli(torch.atanh(theta)), Dense(), x, seeded(), None)
    _, _, v = stochastic_batch_norm(h, norm_of(1))
    error = variances.std() / math.sqrt(n)
    assert abs(variances.mean() - predicted) < 5 * error
    assert v[0] - variances.mean() > 20 * error


def test_there_is_no_excess_where_the_inputs_have_mean_zero_but_its_order_one_over_m():
    theta, x = one_layer()
    x = x - x.mean(0)
    h = Moments()(Bernoulli(torch.atanh(theta)), Dense(), x, seeded(), None)
    _, _, v = stochastic_batch_norm(h, norm_of(1))
    covariance, uncertain = torch.cov(x.T), (1 - theta.square())[0]
    drawn = (theta @ covariance @ theta.T)[0, 0] + uncertain @ torch.diag(covariance)
    torch.testing.assert_close(drawn - v[0], uncertain @ torch.diag(covariance) / len(x), **EXACT)


def test_drawn_networks_under_stochastic_statistics_are_shifted_and_their_own_statistics_remove_the_shift():
    theta, x = one_layer()
    weights, norm = configurations(8), norm_of(1, affine=False)
    p = ((1 + weights * theta) / 2).prod(1)
    h = Moments()(Bernoulli(torch.atanh(theta)), Dense(), x, seeded(), None)
    stochastic = Statistics()
    stochastic.record("norm", h)
    networks = (x @ weights.T)[:, None]  # (M, 1, 256): every network as a position of the one channel
    shifts = through(norm, networks, Evaluation(stochastic))[:, 0].mean(0)
    # E shift = 0, Var shift = sum (1 - theta^2) h_d^2 / (v + eps): the excess over the variance, as it comes back
    v = stochastic.variance("norm")[0]
    torch.testing.assert_close(p @ shifts, torch.zeros((), dtype=F64), **EXACT)
    shifted = (1 - theta.square())[0] @ x.mean(0).square() / (v + norm.eps)
    torch.testing.assert_close(p @ shifts.square(), shifted, **EXACT)
    assert shifted > 0.2  # nearly half a deviation
    for drawn in networks[..., ::25].unbind(2):
        own = Statistics()
        own.record("norm", drawn)
        out = through(norm, drawn, Evaluation(own))
        assert abs(out.mean()) < 1e-12
        torch.testing.assert_close(out.var(), drawn.var() / (drawn.var() + norm.eps), **EXACT)


# ------------------------------------------------------------------------------------------------ its closed-form slope


def plainly(mean, variance, gain, bias, eps):
    """The formulas as autograd differentiates them."""
    axes = [d for d in range(mean.ndim) if d != 1]
    count = mean.numel() // mean.shape[1]
    wide = [1, -1] + [1] * (mean.ndim - 2)
    offset = mean - mean.mean(axes, keepdim=True)
    v = variance.mean(axes) + offset.square().sum(axes) / max(1, count - 1)
    scale = gain / torch.sqrt(v + eps)
    return offset * scale.view(wide) + bias.view(wide), variance * scale.square().view(wide)


def slopes(outputs, leaves):
    chosen = [torch.randn(o.shape, generator=seeded(30 + i), dtype=F64) for i, o in enumerate(outputs)]
    return torch.autograd.grad(outputs, leaves, chosen)


@pytest.mark.parametrize("shape", [(2, 3), (6, 3), (1, 3), (2, 3, 2, 2)])
def test_the_slopes_of_all_four_inputs_are_those_of_the_formulas(shape):
    h, norm = gaussian(*shape), norm_of(3)
    leaves = [h.mean.requires_grad_(), h.variance.requires_grad_(), norm.weight, norm.bias]
    ours = stochastic_batch_norm(h, norm)[0]
    theirs = plainly(*leaves, norm.eps)
    for a, b in zip((ours.mean, ours.variance), theirs, strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    for a, b in zip(slopes((ours.mean, ours.variance), leaves), slopes(theirs, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("affine", [False, True])
def test_its_slopes_are_those_of_finite_differences(affine):
    h, norm = gaussian(4, 2), norm_of(2, affine=affine)

    def moments(mean, variance):
        normalised = stochastic_batch_norm(Gaussian(mean, variance), norm)[0]
        return normalised.mean, normalised.variance

    assert torch.autograd.gradcheck(moments, (h.mean.requires_grad_(), h.variance.requires_grad_()))


def test_a_sample_of_a_gaussian_has_the_slopes_of_mean_plus_deviation_times_normal():
    h = gaussian(5, 3)
    h.variance[0] = 0.0
    leaves = [h.mean.requires_grad_(), h.variance.requires_grad_()]
    sample = h.sample(seeded())
    normals = torch.randn(h.shape, generator=seeded(), dtype=F64)
    torch.testing.assert_close(sample, h.mean + h.deviation() * normals, **EXACT)
    by_mean, by_variance = slopes((sample,), leaves)
    expected = slopes((h.mean + h.deviation() * normals,), leaves)
    torch.testing.assert_close((by_mean, by_variance), expected, **EXACT)
    assert (by_variance[0] == 0).all()  # not infinite, where the entry is certain
