"""Gaussians between layers: two moments, their samples, and slopes that stay finite where the variance is 0."""

import math

import pytest
import torch

from core.signals import Gaussian, rearranged

F64 = torch.float64


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=F64)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


MEANS, VARIANCES = values(-2.0, 0.0, 0.3, 50.0), values(0.25, 1.0, 1e-6, 9.0)


@pytest.mark.parametrize("shapes", [((3,), (4,)), ((2, 3), (3,)), ((2, 3), (1, 3))])
def test_moments_of_unequal_shape_are_refused(shapes, shapes_unchecked):
    with pytest.raises(ValueError, match="shape"):
        Gaussian(torch.zeros(shapes[0]), torch.ones(shapes[1]))


def test_samples_have_the_mean_and_the_variance_and_are_normal():
    n = 200_000
    h = Gaussian(MEANS.expand(n, 4), VARIANCES.expand(n, 4))
    z = (h.sample(seeded()) - MEANS) / VARIANCES.sqrt()
    # standard normals: the j-th raw moment of n of them errs by sqrt(Var z^j / n), Var z = 1, z^2: 2, z^3: 15, z^4: 96
    for power, expected, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert (z.pow(power).mean(0) - expected).abs().max() < 5 * math.sqrt(variance / n)


def test_a_variance_is_no_standard_deviation():
    # Normal(mu, sigma) fed a variance would spread the last entry by 9 instead of 3
    n = 20_000
    spread = Gaussian(MEANS.expand(n, 4), VARIANCES.expand(n, 4)).sample(seeded()).std(0)
    # the standard error of a sample deviation is sigma / sqrt(2 n) = 0.5 %; five of them exclude a factor of 3
    torch.testing.assert_close(spread, VARIANCES.sqrt(), rtol=5 / math.sqrt(2 * n), atol=0)


def test_entries_are_drawn_independently():
    n = 100_000
    z = Gaussian(torch.zeros(n, 3, 2, dtype=F64), torch.ones(n, 3, 2, dtype=F64)).sample(seeded()).flatten(1)
    off_diagonal = torch.cov(z.T) - torch.diag(torch.diag(torch.cov(z.T)))
    assert off_diagonal.abs().max() < 5 / math.sqrt(n)  # a product of two independent standard normals has variance 1
    successive = (z[1:] * z[:-1]).mean(0)
    assert successive.abs().max() < 5 / math.sqrt(n)


def test_a_sample_of_variance_zero_is_the_mean_bit_for_bit():
    assert torch.equal(Gaussian(MEANS, torch.zeros_like(MEANS)).sample(seeded()), MEANS)


def test_a_sample_is_differentiated_by_the_normal_it_used():
    mean, variance = MEANS.clone().requires_grad_(), VARIANCES.clone().requires_grad_()
    sample = Gaussian(mean, variance).sample(seeded())
    sample.sum().backward()
    normal = (sample.detach() - MEANS) / VARIANCES.sqrt()
    assert torch.equal(mean.grad, torch.ones(4, dtype=F64))
    # d sqrt(v) / dv = 1 / (2 sqrt(v)); mean + sd * normal loses |mean| / sd * 2^-52 of the normal: 50 / 3, 0.3 / 1e-3
    torch.testing.assert_close(variance.grad, normal / (2 * VARIANCES.sqrt()), rtol=1e-11, atol=0)


def test_the_slope_at_variance_zero_is_zero_and_not_infinite():
    variance = values(0.0, 4.0, 0.0).requires_grad_()
    deviation = Gaussian(torch.zeros(3, dtype=F64), variance).deviation()
    assert deviation.tolist() == [0.0, 2.0, 0.0]
    deviation.sum().backward()
    assert variance.grad.tolist() == [0.0, 0.25, 0.0]


@pytest.mark.parametrize("log_variance", [-18.0, -4.0, 0.0, 5.0])
def test_deviation_and_sample_pass_gradcheck_down_to_small_variances(log_variance):
    # in the log of the variance the finite differences stay in the domain however small the variance is
    logs = torch.full((4,), log_variance, dtype=F64, requires_grad=True)
    mean = MEANS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: Gaussian(MEANS, s.exp()).deviation(), (logs,))
    assert torch.autograd.gradcheck(lambda m, s: Gaussian(m, s.exp()).sample(seeded()), (mean, logs))


def test_a_seed_fixes_the_sample_and_each_call_draws_anew():
    h, rng = Gaussian(MEANS, VARIANCES), seeded()
    first, second = h.sample(rng), h.sample(rng)
    assert torch.equal(first, h.sample(seeded()))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_has_the_dtype_of_its_moments(dtype):
    assert Gaussian(MEANS.to(dtype), VARIANCES.to(dtype)).sample(seeded()).dtype == dtype


def test_both_moments_are_rearranged_alike():
    h = Gaussian(torch.arange(12.0).view(2, 3, 2), torch.arange(12.0, 24.0).view(2, 3, 2))
    flat, turned = h.map(lambda t: t.flatten(1)), rearranged(h, lambda t: t.transpose(1, 2))
    assert isinstance(turned, Gaussian)
    assert flat.shape == (2, 6) and turned.shape == (2, 2, 3)
    for moments in (flat, turned):
        assert torch.equal(moments.variance, moments.mean + 12)
    assert torch.equal(turned.mean, h.mean.transpose(1, 2))
    assert torch.equal(rearranged(h.mean, lambda t: t[0]), h.mean[0])
