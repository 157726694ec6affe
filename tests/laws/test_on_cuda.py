"""The laws of moments, Gaussian and low-rank weights on a CUDA device: functions equal the CPU's, draws obey the laws.

Skipped by marker where torch sees no device. Functions are compared in float64, to the rounding of another summation
order; draws within 5 standard errors.
"""

import math

import pytest
import torch

from core.contractions import Convolution, Dense
from core.gaussian_laws import UnitGaussian
from core.geometry import UnitRows
from core.interface import Gaussian
from core.laws import Bernoulli
from core.layers import BatchNorm
from core.low_rank import LowRank, LowRankPlusDiagonal, goemans_williamson, sign_fixed_mean
from core.moments import (
    Moments,
    PropagatedSign,
    StochasticSign,
    bce_of_signs,
    hard_tanh,
    rectified,
    sampled_maximum,
    standardised,
)
from core.statistics import stochastic_batch_norm

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
DRAWS = 20_000
LIMIT = 5 / math.sqrt(DRAWS)  # 5 standard errors of a mean of numbers in [-1, 1]


def seeded(device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded("cpu"), dtype=torch.float64)


def gaussian(device: str, *shape: int) -> Gaussian:
    return Gaussian(numbers(*shape).to(device), (numbers(*shape).abs() + 0.1).to(device))


def images(device: str) -> Gaussian:
    return gaussian(device, 4, 6, 8, 8)


def convolved(device: str) -> Gaussian:
    law = Bernoulli(numbers(4, 3, 3, 3)).to(device)
    return Moments()(law, Convolution(stride=2, padding=1, groups=2), images(device), seeded(device), None)


def contracted(device: str) -> Gaussian:
    law = UnitGaussian(torch.tanh(numbers(5, 12))).to(device)
    return Moments()(law, Dense(), numbers(7, 12).to(device), seeded(device), None)


def normalised(device: str) -> Gaussian:
    norm = BatchNorm(6, affine=True, eps=1e-4, momentum=0.1, role="stochastic").double().to(device)
    return stochastic_batch_norm(images(device), norm)[0]


FUNCTIONS = {
    "convolution": convolved,
    "linear map": contracted,
    "batch norm": normalised,
    "relu": lambda device: rectified(images(device)),
    "hardtanh": lambda device: hard_tanh(images(device)),
    "propagated sign": lambda device: PropagatedSign()(images(device), seeded(device)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_moments_are_those_of_the_cpu(name):
    there, here = FUNCTIONS[name](DEVICE), FUNCTIONS[name]("cpu")
    torch.testing.assert_close(there.mean.cpu(), here.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(there.variance.cpu(), here.variance, rtol=1e-9, atol=1e-9)


def test_losses_and_their_gradients_are_those_of_the_cpu():
    values = []
    for device in ("cpu", DEVICE):
        mean, variance = (t.detach().requires_grad_() for t in vars(gaussian(device, 9, 4)).values())
        loss = bce_of_signs(Gaussian(mean, variance), torch.arange(9, device=device) % 4)
        loss.backward()
        values.append([loss.detach().cpu(), mean.grad.cpu(), variance.grad.cpu()])
    torch.testing.assert_close(*values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_a_sampled_sign_has_its_probability_at_every_temperature(temperature):
    h = gaussian(DEVICE, 30).map(lambda moment: moment.expand(DRAWS, -1))
    frequency = StochasticSign(temperature)(h, seeded(DEVICE)).mean(0)
    expected = torch.erf(standardised(h)[0] / math.sqrt(2))
    assert (frequency - expected).abs().max() < LIMIT


def test_pooling_passes_the_pair_of_one_entry_as_often_as_it_is_the_largest():
    mean, variance = torch.tensor([0.2, -0.1], dtype=torch.float64), torch.tensor([1.0, 0.3], dtype=torch.float64)
    windows = Gaussian(*(m.expand(1, DRAWS, 1, 2).to(DEVICE) for m in (mean, variance)))
    pooled = sampled_maximum(windows, (1, 2), seeded(DEVICE))
    first = pooled.mean == 0.2
    assert torch.equal(first, pooled.variance == 1.0)
    expected = torch.special.ndtr(torch.tensor(0.3 / math.sqrt(1.3)))
    assert abs(first.double().mean().item() - expected.item()) < LIMIT


def unit_rows(columns: int, weights: int) -> torch.Tensor:
    return UnitRows().project(numbers(columns, weights))


LAWS = {
    "UnitGaussian": lambda: UnitGaussian(torch.tanh(numbers(8))),
    "LowRank": lambda: LowRank(unit_rows(4, 8)),
    "LowRankPlusDiagonal": lambda: LowRankPlusDiagonal(unit_rows(4, 8), diagonal=0.4),
}


@pytest.mark.parametrize("name", LAWS)
def test_draws_have_the_laws_means_and_pair_moments(name):
    law, rng = LAWS[name]().to(DEVICE), seeded(DEVICE)
    draws = torch.stack([law.values(law.latent(law.noise(rng))) for _ in range(DRAWS)]).detach()
    assert draws.device.type == DEVICE and (draws.mean(0) - law.mean()).abs().max() < LIMIT
    pair = (draws[:, 0] * draws[:, 1]).mean().item()
    assert abs(pair - law.pair_moment(0, 1).item()) < LIMIT


@pytest.mark.parametrize("sampler", [sign_fixed_mean, goemans_williamson])
def test_both_roundings_have_their_means(sampler):
    rows = unit_rows(4, 8)
    draws = sampler(rows.to(DEVICE), DRAWS, seeded(DEVICE))
    a = rows[0] / rows[1:].norm(dim=0)
    expected = torch.erf(a / math.sqrt(2)) if sampler is sign_fixed_mean else 2 / math.pi * torch.asin(rows[0])
    assert draws.device.type == DEVICE and (draws.mean(0).cpu() - expected).abs().max() < LIMIT


def test_unit_rows_project_and_turn_as_on_the_cpu():
    point, step = unit_rows(3, 50), numbers(3, 50)
    for verb in (UnitRows().retract, UnitRows().to_tangent):
        torch.testing.assert_close(
            verb(point.to(DEVICE), step.to(DEVICE)).cpu(), verb(point, step), rtol=1e-12, atol=1e-12
        )
