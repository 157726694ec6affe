"""Parts of the low-rank laws: orthant moments, charts, conditional means, unit rows, slopes, refusals."""

import math

import mpmath
import numpy as np
import pytest
import torch

from core.conditional import ConditionalMean
from core.contractions import Dense
from core.geometry import UnitRows
from core.interface import Gaussian, NoMode, Tape, UnsupportedReading
from core.laws import Bernoulli, Real, initial_uniform
from core.low_rank import LowRank, LowRankPlusDiagonal, SymmetricLowRank, initial_columns
from core.ops import ApproxSign, ErfSign, sign
from core.orthant import angle_between, sign_product

F64 = torch.float64


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def unit_rows(rng, *shape: int) -> torch.Tensor:
    return UnitRows().project(torch.randn(shape, generator=rng, dtype=F64))


def column(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=F64)


# --- pair moments -------------------------------------------------------------------------------------------------


def orthant_moment(a: float, b: float, angle: float) -> float:
    """E[sign x sign y] by conditioning on x = a + s: an integral over the line, another way than Plackett's."""
    with mpmath.workdps(25):
        rho, rest = mpmath.cos(angle), mpmath.sin(angle)

        def given(s):
            return mpmath.sign(a + s) * mpmath.erf((b + rho * s) / rest / mpmath.sqrt(2)) * mpmath.npdf(s)

        turn = [-b / rho + k * rest for k in (-8, -2, 0, 2, 8)] if abs(rho) > 0.01 else []
        breaks = sorted(mpmath.mpf(p) for p in (-12, -a, 12, *turn) if -12 <= p <= 12)
        return float(mpmath.quad(given, breaks))


@pytest.mark.parametrize("angle", [1e-3, 0.1, 1.0, math.pi / 2, 2.0, 3.0, math.pi - 1e-3])
@pytest.mark.parametrize("a, b", [(0.0, 0.0), (0.5, 0.5), (0.5, 0.501), (-1.0, 2.0), (3.0, -3.001), (0.0, 1.5)])
def test_the_moment_of_two_signs_is_the_orthant_integral(a, b, angle):
    moment = sign_product(column(a), column(b), column(angle)).item()
    # both are quadratures of smooth integrands to near the last digit of a number of size 1
    assert abs(moment - orthant_moment(a, b, angle)) < 1e-12


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.3, math.pi / 2, 3.0, math.pi])
def test_without_means_it_is_sheppards_formula_at_every_angle(angle):
    moment = sign_product(column(0.0), column(0.0), column(angle)).item()
    assert abs(moment - (1 - 2 * angle / math.pi)) < 1e-14


def test_angles_keep_their_digits_where_the_inner_product_has_lost_them():
    x = torch.tensor([[1.0, 1.0, 2.0], [0.0, 0.0, 1.0]], dtype=F64)
    y = torch.tensor([[1.0, -1.0, 4.0], [1e-9, 1e-9, 2.0]], dtype=F64)
    expected = torch.tensor([1e-9, math.pi - 1e-9, 0.0], dtype=F64)
    torch.testing.assert_close(angle_between(x, y), expected, rtol=1e-15, atol=0)


def test_equal_rows_are_equal_signs_and_opposite_rows_opposite_ones(rng):
    rows = unit_rows(rng, 4, 1)
    law = LowRank(torch.cat([rows, 7 * rows, -rows], dim=1))
    # the angle of v and 7 v is a rounding of 0, some eps, and so is what the moment lacks
    assert abs(law.pair_moment(0, 1) - 1) < 1e-14
    assert abs(law.pair_moment(0, 2) + 1) < 1e-14
    assert law.pair_moment(2, 2) == 1


def test_a_weight_without_noise_is_certain_and_its_pairs_are_products(rng):
    rows = unit_rows(rng, 3, 3)
    rows[:, 1] = torch.tensor([-1.0, 0.0, 0.0], dtype=F64)
    law = LowRank(rows)
    assert law.mean()[1] == -1 and law.variance()[1] == 0
    torch.testing.assert_close(law.pair_moment(0, 1), -law.mean()[0].detach(), rtol=0, atol=0)
    torch.testing.assert_close(law.second_moment().diagonal(), torch.ones(3, dtype=F64), rtol=0, atol=0)


# --- charts and rows ----------------------------------------------------------------------------------------------


def test_the_sphere_chart_is_the_same_law_for_every_length_of_its_rows(rng):
    rows = unit_rows(rng, 4, 2, 3)
    lengths = torch.rand(2, 3, generator=rng, dtype=F64) * 9 + 0.1
    unit, free = LowRank(rows.clone()), LowRank(rows * lengths, chart="sphere")
    noise = unit.noise(rng)
    torch.testing.assert_close(free.latent(noise), unit.latent(noise))
    torch.testing.assert_close(free.mean(), unit.mean())
    torch.testing.assert_close(free.second_moment(), unit.second_moment())


@pytest.mark.parametrize("chart", ["identity", "sphere"])
@pytest.mark.parametrize("kind", [LowRank, SymmetricLowRank, lambda r, **k: LowRankPlusDiagonal(r, diagonal=0.4, **k)])
def test_the_pull_back_is_the_derivative_of_the_latent(kind, chart, rng):
    law = kind(2 * torch.randn(4, 2, 3, generator=rng, dtype=F64), chart=chart)
    noise, gradient = law.noise(rng), torch.randn(2, 3, generator=rng, dtype=F64)
    (expected,) = torch.autograd.grad(law.latent(noise), law.rows, gradient)
    (pulled,) = law.pull_back(noise, gradient)
    torch.testing.assert_close(pulled, expected)
    if chart == "sphere":
        assert ((pulled * law.rows).sum(0).abs() < 1e-14 * pulled.norm() * law.rows.norm()).all()


def test_a_zero_row_projects_to_the_first_unit_vector_whose_sign_is_that_of_zero(rng):
    rows = unit_rows(rng, 3, 4)
    rows[:, 2] = 0
    projected = UnitRows().project(rows)
    assert projected[:, 2].tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(projected.norm(dim=0), torch.ones(4, dtype=F64))
    assert torch.equal(rows[:, 2], torch.zeros(3, dtype=F64))  # of a new tensor
    assert torch.equal(LowRank(projected).mode()[2], sign(torch.zeros((), dtype=F64)))


def test_initial_columns_leave_the_generator_where_it_was_and_differ_from_layer_to_layer(rng):
    shape, before = torch.Size([40, 50]), rng.get_state()
    first = initial_columns(shape, 3, rng)
    assert torch.equal(rng.get_state(), before)
    assert torch.equal(initial_columns(shape, 3, rng), first)
    uniform = initial_uniform(shape, rng)
    second = initial_columns(shape, 3, rng)
    # 6000 independent pairs: their correlation has sd 1 / sqrt(6000)
    for other in (second, uniform.expand(3, -1, -1)):
        assert abs(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]) < 5 / math.sqrt(6000)


# --- conditional means --------------------------------------------------------------------------------------------


def law_with_diagonal(rng, rank: int = 2) -> LowRankPlusDiagonal:
    return LowRankPlusDiagonal(unit_rows(rng, rank + 1, 2, 3), diagonal=0.4)


def test_the_mean_over_shared_noise_of_conditional_means_is_the_mean(rng):
    law = law_with_diagonal(rng, rank=1)
    points, weights = np.polynomial.hermite_e.hermegauss(200)
    means = torch.stack([law.conditional_mean(column(p)) for p in points])
    total = torch.tensordot(torch.from_numpy(weights / math.sqrt(2 * math.pi)), means, 1)
    # 200 nodes for an erf of slope |Z| / d <= 2.5 a unit: converged below 1e-8
    torch.testing.assert_close(total, law.mean(), rtol=0, atol=1e-8)


def test_a_conditional_pass_draws_k_normals_and_nothing_else(rng):
    law, x = law_with_diagonal(rng), torch.ones(5, 3, dtype=F64)
    twin = rng.clone_state()
    ConditionalMean()(law, Dense(), x, rng, None)
    torch.randn(2, generator=twin, dtype=F64)
    assert torch.equal(rng.get_state(), twin.get_state())


def test_the_gradient_of_a_conditional_pass_is_that_of_the_erf_of_its_latent(rng):
    law, x = law_with_diagonal(rng), torch.randn(5, 3, generator=rng, dtype=F64)
    noise = law.factor_noise(rng.clone_state())
    loss = (x @ torch.erf(law.latent(noise) / (0.4 * math.sqrt(2))).T).square().mean()
    (expected,) = torch.autograd.grad(loss, law.rows)
    tape = Tape()
    ConditionalMean()(law, Dense(), x, rng, tape).square().mean().backward()
    tape.pull_back()
    torch.testing.assert_close(law.rows.grad, expected)


def test_conditional_means_read_real_layers_as_they_are(rng):
    law, x = Real(torch.randn(2, 3, generator=rng, dtype=F64)), torch.randn(5, 3, generator=rng, dtype=F64)
    torch.testing.assert_close(ConditionalMean()(law, Dense(), x, rng, None), x @ law.latents.T)


def test_conditional_means_refuse_other_laws_and_gaussians_by_name(rng):
    x = torch.ones(1, 3, dtype=F64)
    for law in (Bernoulli(torch.zeros(2, 3, dtype=F64)), LowRank(unit_rows(rng, 2, 2, 3))):
        name = rf"ConditionalMean.*{type(law).__name__}.*Draw\(StraightThrough\(\)\)"
        with pytest.raises(UnsupportedReading, match=name):
            ConditionalMean()(law, Dense(), x, rng, None)
    with pytest.raises(UnsupportedReading, match="ConditionalMean.*Gaussian"):
        ConditionalMean()(law_with_diagonal(rng), Dense(), Gaussian(x, x), rng, None)


# --- surrogates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diagonal", [0.3, 2.0])
def test_the_slope_of_erf_sign_is_its_derivative_and_its_value_the_mean_of_a_noisy_sign(diagonal, rng):
    z = torch.linspace(-3, 3, 25, dtype=F64, requires_grad=True)
    surrogate = ErfSign(diagonal)
    (slope,) = torch.autograd.grad(surrogate(z).sum(), z)
    torch.testing.assert_close(surrogate.slope(z), slope)
    noisy = sign(z.detach() + diagonal * torch.randn(20_000, 1, generator=rng, dtype=F64))
    assert (noisy.mean(0) - surrogate(z)).abs().max() < 5 / math.sqrt(20_000)


def test_approx_sign_is_a_sign_with_the_slope_of_a_piecewise_quadratic():
    z = torch.tensor([-2.0, -1.0, -0.25, 0.0, 0.5, 1.5], dtype=F64)
    assert ApproxSign()(z).tolist() == [-1, -1, -1, 1, 1, 1]
    assert ApproxSign().slope(z).tolist() == [0, 0, 1.5, 2, 1, 0]


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_law_without_columns_is_refused_and_named_gaussian_vi():
    with pytest.raises(ValueError, match=r"rank=0.*gaussian-vi"):
        LowRank(torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match=r"SymmetricLowRank: rank=0"):
        SymmetricLowRank(torch.ones(0, 2, 3))


@pytest.mark.parametrize("diagonal", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_diagonal_is_refused_by_value(diagonal):
    with pytest.raises(ValueError, match=f"diagonal.*{diagonal}"):
        LowRankPlusDiagonal(torch.ones(2, 3), diagonal=diagonal)


def test_symmetric_laws_have_no_mode_and_say_what_to_use(rng):
    rows = unit_rows(rng, 3, 2)
    with pytest.raises(NoMode, match=r"ensemble\(k\).*law=homogenised"):
        SymmetricLowRank(rows).mode()
    centred = rows.clone()
    centred[0] = 0
    with pytest.raises(NoMode, match=r"LowRank.*ensemble\(k\)"):
        LowRank(centred).mode()


@pytest.mark.parametrize("chart", ["identity", "sphere"])
def test_the_latent_entropy_is_that_of_the_gaussian(chart):
    rows = torch.randn(4, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = rows if chart == "sphere" else UnitRows().project(rows)
    law = LowRankPlusDiagonal(rows, diagonal=0.3, chart=chart)
    unit = UnitRows().project(rows)
    gaussian = torch.distributions.LowRankMultivariateNormal(
        unit[0], unit[1:].T, torch.full((7,), 0.09, dtype=torch.float64)
    )
    torch.testing.assert_close(law.latent_entropy(), gaussian.entropy(), rtol=1e-12, atol=1e-12)
