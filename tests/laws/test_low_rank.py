"""Low-rank laws, z = mu + sum_k eps_k Z_k with K normals a draw: moments, samplers, special cases, cost of a draw.

References are made from the definition: E[w_j | z_i] is an error function, and one numerical integral over z_i gives
the pair moment; Monte Carlo bounds are 4 / sqrt(draws), above four deviations of a mean of signs.
"""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate

from core.contractions import Dense
from core.geometry import EUCLIDEAN, Euclidean, UnitRows
from core.interface import NoMode, Reading, Tape
from core.laws import Point
from core.layers import BinaryLinear, Chain
from core.low_rank import (
    LowRank,
    LowRankPlusDiagonal,
    SymmetricLowRank,
    goemans_williamson,
    sign_fixed_mean,
)
from core.ops import StraightThrough, sign
from core.predict import ensemble, predict
from core.readings import Draw, SignActivation, drawn_weights
from solvers.geometric import GeometricSGD

DRAWS = 40_000  # of the samplers, which draw at once
FEWER = 5_000  # of a law, one call each
TOLERANCE = 4 / DRAWS**0.5
RANKS = pytest.mark.parametrize("rank", [1, 2, 5])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def normals(*shape: int, rng) -> torch.Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def unit_rows(columns: int, *shape: int, rng) -> torch.Tensor:
    """Random unit vectors along dimension 0, one for every weight."""
    rows = normals(columns, *shape, rng=rng)
    return rows / rows.norm(dim=0)


def rows_of(law) -> torch.nn.Parameter:
    (coordinate,) = law.coordinates()
    return coordinate.parameter


def draws_of(law, count: int, rng) -> torch.Tensor:
    """(count, n): weights of `count` draws."""
    with torch.no_grad():
        return torch.stack([law.values(law.latent(law.noise(rng))).flatten() for _ in range(count)])


def standardised(rows: torch.Tensor, diagonal: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """a_i = mu_i / sigma_i and the correlations of z, for rows (K + 1, n) of any length."""
    mu, z = rows[0], rows[1:]
    sigma = (z.square().sum(0) + diagonal**2).sqrt()
    correlation = z.T @ z / sigma / sigma[:, None]
    return mu / sigma, correlation.fill_diagonal_(1.0)


def rounded_means(a: torch.Tensor) -> torch.Tensor:
    return torch.tensor([float(mpmath.erf(mpmath.mpf(x) / mpmath.sqrt(2))) for x in a.tolist()], dtype=torch.float64)


def pair_reference(a: float, b: float, rho: float) -> float:
    """E sign(a + s) sign(b + t), unit normals of correlation rho: the integral over s of what is known of t given s."""
    if 1 - abs(rho) < 1e-15:  # t = +-s
        edges = sorted([-a, -b * rho])
        below, between = mpmath.ncdf(edges[0]), mpmath.ncdf(edges[1]) - mpmath.ncdf(edges[0])
        return float(rho * (below + 1 - below - between) - rho * between)
    rest = math.sqrt(2 * (1 - rho) * (1 + rho))

    def given(s: float) -> float:
        return math.copysign(1, a + s) * math.erf((b + rho * s) / rest) * math.exp(-s * s / 2) / math.sqrt(2 * math.pi)

    # Kinks: the sign's, and where the inner mean turns (a width of rest / rho, steep at |rho| near 1)
    turn = -b / rho if abs(rho) > 0.5 else 0.0
    points = sorted({-40.0, 40.0, *(x for x in (-a, turn, turn - 8 * rest, turn + 8 * rest) if abs(x) < 40)})
    return sum(
        integrate.quad(given, low, high, epsabs=1e-13, epsrel=1e-13, limit=200)[0]
        for low, high in itertools.pairwise(points)
    )


def second_moments(rows: torch.Tensor, diagonal: float = 0.0) -> torch.Tensor:
    """E w w' from the definition, entry by entry."""
    a, correlation = standardised(rows, diagonal)
    n = len(a)
    result = torch.eye(n, dtype=torch.float64)
    for i, j in itertools.combinations(range(n), 2):
        result[i, j] = result[j, i] = pair_reference(a[i].item(), a[j].item(), correlation[i, j].item())
    return result


# --- moments after rounding (V1) ----------------------------------------------------------------------------------


@RANKS
@pytest.mark.parametrize("length", [1.0, 3.0])
def test_mean_and_pair_moments_are_those_of_rounded_correlated_normals(rank, length, rng):
    """E w_i = erf(a / sqrt 2), E w_i w_j = 4 Phi2(a_i, a_j; rho) - 2 Phi(a_i) - 2 Phi(a_j) + 1; rows of any length."""
    rows = length * unit_rows(rank + 1, 5, rng=rng)
    law = LowRank(rows)
    a, _ = standardised(rows)
    torch.testing.assert_close(law.mean().detach(), rounded_means(a), rtol=0, atol=1e-14)
    expected = second_moments(rows)
    measured = law.second_moment().detach()
    # the specification asks 1e-10 of the pair moments; the reference is a sum of integrals to 1e-13 each
    torch.testing.assert_close(measured, expected, rtol=0, atol=1e-10)
    for i, j in itertools.product(range(5), repeat=2):
        assert law.pair_moment(i, j).item() == pytest.approx(expected[i, j].item(), abs=1e-10)


def test_pair_moments_take_flat_indices_of_the_weights_shape(rng):
    rows = unit_rows(3, 2, 3, rng=rng)
    shaped, flat = LowRank(rows), LowRank(rows.flatten(1))
    assert shaped.second_moment().shape == (6, 6)
    for i, j in [(0, 5), (2, 3), (4, 1)]:
        assert shaped.pair_moment(i, j).item() == pytest.approx(flat.pair_moment(i, j).item(), abs=1e-15)


@RANKS
def test_draws_have_the_moments_the_law_states(rank, rng):
    """V1: a draw of the law itself, K normals at a time."""
    law = LowRank(unit_rows(rank + 1, 5, rng=rng))
    drawn = draws_of(law, FEWER, rng)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert (drawn.mean(0) - law.mean()).abs().max() < 4 / FEWER**0.5
    assert (drawn.T @ drawn / FEWER - law.second_moment()).abs().max() < 4 / FEWER**0.5


def test_the_fixed_mean_sampler_is_the_laws_own_and_keeps_shape(rng):
    rows = unit_rows(3, 2, 3, rng=rng)
    drawn = sign_fixed_mean(rows, DRAWS, rng)
    assert drawn.shape == (DRAWS, 2, 3)
    drawn = drawn.flatten(1)
    law = LowRank(rows)
    assert (drawn.mean(0) - law.mean().flatten()).abs().max() < TOLERANCE
    assert (drawn.T @ drawn / DRAWS - law.second_moment()).abs().max() < TOLERANCE


def test_goemans_williamson_rounding_gives_arcsines_of_the_inner_products_mean_included(rng):
    """E w_i = (2 / pi) asin mu_i, E w_i w_j = (2 / pi) asin(v_i . v_j)."""
    rows = unit_rows(3, 2, 3, rng=rng)
    drawn = goemans_williamson(rows, DRAWS, rng)
    assert drawn.shape == (DRAWS, 2, 3)
    drawn, v = drawn.flatten(1), rows.flatten(1)
    assert (drawn.mean(0) - 2 / math.pi * torch.asin(v[0])).abs().max() < TOLERANCE
    gram = (v.T @ v).clamp(-1, 1)
    assert (drawn.T @ drawn / DRAWS - 2 / math.pi * torch.asin(gram)).abs().max() < TOLERANCE


def test_the_two_samplers_are_different_laws(rng):
    """At mu = 1/2: erf(1 / sqrt 6) = 0.436 against (2 / pi) asin(1/2) = 1/3."""
    rows = torch.tensor([[0.5], [math.sqrt(0.75)]], dtype=torch.float64)
    fixed, homogenised = sign_fixed_mean(rows, DRAWS, rng).mean(), goemans_williamson(rows, DRAWS, rng).mean()
    assert abs(fixed.item() - math.erf(1 / math.sqrt(6))) < TOLERANCE
    assert abs(homogenised.item() - 1 / 3) < TOLERANCE
    assert fixed - homogenised > 2 * TOLERANCE


def test_without_a_mean_both_samplers_and_the_law_give_the_arcsine_law(rng):
    v = unit_rows(3, 5, rng=rng)
    expected = 2 / math.pi * torch.asin((v.T @ v).clamp(-1, 1))
    # asin has slope 1 / sqrt(1 - x^2): an ulp below x = 1 is 1e-8 off 1, so the diagonal is stated
    expected.fill_diagonal_(1.0)
    with_zero = torch.cat([torch.zeros(1, 5, dtype=torch.float64), v])
    for law in (SymmetricLowRank(v), LowRank(with_zero)):
        torch.testing.assert_close(law.second_moment().detach(), expected, rtol=0, atol=1e-12)
        assert torch.equal(law.mean().detach(), torch.zeros(5, dtype=torch.float64))
    for drawn in (sign_fixed_mean(with_zero, DRAWS, rng), goemans_williamson(with_zero, DRAWS, rng)):
        assert (drawn.T @ drawn / DRAWS - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("rho", [1 - 1e-6, 1 - 1e-12, 1.0, -1.0, -1 + 1e-6, 0.0])
@pytest.mark.parametrize("means", [(0.0, 0.0), (0.3, 0.3), (-0.2, 0.6), (0.5, -0.4)], ids=str)
def test_pair_moments_hold_up_where_factors_align(rho, means):
    """|rho| -> 1 is where arcsines and the orthant integrand turn singular."""
    spread = [math.sqrt(1 - m * m) for m in means]
    perpendicular = math.sqrt((1 - rho) * (1 + rho))
    rows = torch.tensor(
        [list(means), [spread[0], rho * spread[1]], [0.0, perpendicular * spread[1]]], dtype=torch.float64
    )
    a = [m / s for m, s in zip(means, spread, strict=True)]
    # rho is known from the rows to 2e-16 only; d/drho (2 / pi) asin rho = 0.6 / sqrt(1 - rho^2), 1e-10 at 1 - 1e-12
    law = LowRank(rows)
    assert law.pair_moment(0, 1).item() == pytest.approx(
        pair_reference(*a, rho), abs=5e-10 if abs(rho) > 0.9 else 1e-10
    )
    assert abs(law.pair_moment(0, 1).item()) <= 1


def test_second_moments_are_those_of_signs_positive_semidefinite_with_unit_diagonal(rng):
    """V9, and a fact any joint law of signs has."""
    law = LowRank(unit_rows(3, 8, rng=rng))
    second, mean = law.second_moment().detach(), law.mean().detach()
    assert torch.equal(second.diagonal(), torch.ones(8, dtype=torch.float64))
    assert torch.equal(second, second.T)
    covariance = second - mean[:, None] * mean
    assert torch.linalg.eigvalsh(covariance).min() > -1e-9  # entries to 1e-10, eight of them a row
    torch.testing.assert_close(covariance.diagonal(), law.variance().detach(), rtol=0, atol=1e-14)


# --- mode ---------------------------------------------------------------------------------------------------------


def test_mode_is_the_sign_of_the_mean_column(rng):
    rows = unit_rows(3, 4, 2, rng=rng)
    rows[0, 0, 0] = 0.0
    assert torch.equal(LowRank(rows).mode(), sign(rows[0]))
    assert torch.equal(LowRankPlusDiagonal(rows, diagonal=0.5).mode(), sign(rows[0]))


def test_a_law_without_a_mean_has_no_mode_and_says_what_to_use(rng):
    z = unit_rows(2, 3, rng=rng)
    with pytest.raises(NoMode, match="ensemble"):
        LowRank(torch.cat([torch.zeros(1, 3, dtype=torch.float64), z])).mode()
    with pytest.raises(NoMode, match="homogenised") as caught:
        SymmetricLowRank(z).mode()
    assert "ensemble" in str(caught.value)


def test_a_law_without_columns_is_refused_naming_the_diagonal_family():
    with pytest.raises(ValueError, match="gaussian-vi"):
        LowRank(torch.ones(1, 3, 2))
    with pytest.raises(ValueError, match="rank"):
        SymmetricLowRank(torch.ones(0, 3, 2))


@pytest.mark.parametrize("diagonal", [0.0, -0.5, math.nan, math.inf])
def test_an_impossible_diagonal_is_refused_by_name_and_value(diagonal):
    with pytest.raises(ValueError, match=rf"diagonal.*{diagonal}"):
        LowRankPlusDiagonal(torch.ones(2, 3), diagonal=diagonal)


def test_weights_of_a_draw_are_declared_dependent(rng):
    rows = unit_rows(3, 4, rng=rng)
    for law in (LowRank(rows), SymmetricLowRank(rows), LowRankPlusDiagonal(rows, diagonal=0.5)):
        assert law.independent is False
        assert law.levels == (-1.0, 1.0)


# --- special cases (V12) ------------------------------------------------------------------------------------------


def test_with_zero_factors_and_free_rows_the_steps_are_those_of_ste_bit_for_bit(rng):
    """The layer without Z: latent mu, identity backward, plain SGD."""
    start = normals(4, 6, rng=rng)
    law = LowRank(torch.stack([start, torch.zeros_like(start)]), geometry=Euclidean())
    twin = Point(start.clone(), geometry=Euclidean())
    solver = GeometricSGD(law.coordinates(), lr=0.3, momentum=0.9)
    other = GeometricSGD(twin.coordinates(), lr=0.3, momentum=0.9)
    x, target = normals(8, 6, rng=rng), normals(8, 4, rng=rng)
    flips = 0
    for _ in range(20):
        before = sign(twin.latents.detach())
        for one in (law, twin):
            tape = Tape()
            y = Draw(StraightThrough())(one, Dense(), x, rng, tape)
            (y - target).square().mean().backward()
            tape.pull_back()
        rows_of(law).grad[1:] = 0  # no Z: held at zero, so that only the claim about mu is left
        assert torch.equal(rows_of(law).grad[0], twin.latents.grad)
        solver.step(), other.step()
        solver.zero_grad(), other.zero_grad()
        assert torch.equal(rows_of(law)[0], twin.latents)
        flips += int((sign(twin.latents.detach()) != before).sum())
    assert flips > 10  # the steps did something


def test_with_zero_factors_unit_rows_destroy_the_latents_size():
    """Why rank 0 is the diagonal family's: normalised, mu is a sign, and nothing of its history is left."""
    mu = torch.tensor([0.3, -1e-3, 5.0], dtype=torch.float64)
    rows = torch.stack([mu, torch.zeros_like(mu)])
    projected = UnitRows().project(rows)
    assert torch.equal(projected, torch.stack([sign(mu), torch.zeros_like(mu)]))
    law = LowRank(projected)
    assert torch.equal(law.mean().detach(), sign(mu))
    assert torch.equal(law.variance().detach(), torch.zeros_like(mu))


@DTYPES
def test_certain_weights_have_finite_moments_and_gradients(dtype, rng):
    """||Z_i|| = 0: mu / ||Z_i|| is infinite, the mean a sign."""
    rows = torch.tensor([[1.0, -1.0, 0.6], [0.0, 0.0, 0.8]], dtype=dtype)
    law = LowRank(rows)
    assert law.mean()[:2].tolist() == [1.0, -1.0]
    assert law.pair_moment(0, 1).item() == -1.0
    assert law.pair_moment(0, 2).item() == pytest.approx(law.mean()[2].item(), abs=4 * torch.finfo(dtype).eps)
    assert torch.isfinite(law.second_moment()).all()
    assert draws_of(law, 50, rng)[:, :2].unique(dim=0).tolist() == [[1.0, -1.0]]


def test_with_one_factor_and_no_mean_there_are_two_networks_each_others_negative(rng):
    """w = sign(eps) sign(Z): E w = 0 and E w w' = sign(Z) sign(Z)' exactly."""
    z = normals(1, 12, rng=rng)
    for law in (SymmetricLowRank(z), LowRank(torch.cat([torch.zeros_like(z), z]))):
        drawn = draws_of(law, 200, rng)
        assert {tuple(w) for w in drawn.tolist()} == {tuple(s) for s in (sign(z[0]).tolist(), (-sign(z[0])).tolist())}
        # a correlation of Z_i Z_j / |Z_i Z_j| rounds twice; arcsines near 1 are stable because it is formed as an angle
        expected = sign(z[0])[:, None] * sign(z[0])
        torch.testing.assert_close(law.second_moment().detach(), expected, rtol=0, atol=1e-14)
        assert torch.equal(law.mean().detach(), torch.zeros(12, dtype=torch.float64))


@RANKS
def test_without_a_mean_opposite_noise_gives_opposite_weights(rank, rng):
    z = unit_rows(rank, 30, rng=rng)
    for law in (SymmetricLowRank(z), LowRank(torch.cat([torch.zeros(1, 30, dtype=torch.float64), z]))):
        noise = law.noise(rng)
        assert torch.equal(law.values(law.latent(-noise)), -law.values(law.latent(noise)))


def test_orthogonal_rows_without_a_mean_are_independent_fair_coins(rng):
    """Needs K >= n; all 2^n patterns are equally likely."""
    q, _ = torch.linalg.qr(normals(3, 3, rng=rng))
    law = SymmetricLowRank(q)
    torch.testing.assert_close(law.second_moment().detach(), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-14)
    drawn = draws_of(law, FEWER, rng)
    cells = ((drawn + 1) / 2) @ torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    share = torch.bincount(cells.long(), minlength=8) / len(drawn)
    # binomial deviation sqrt(p q / draws) with p = 1/8; five of them
    assert (share - 1 / 8).abs().max() < 5 * math.sqrt(1 / 8 * 7 / 8 / len(drawn))


def test_duplicate_rows_are_the_same_weight_in_every_draw(rng):
    """Bit for bit, wherever in a tensor the two lie."""
    rows = unit_rows(4, 7, 67, rng=rng)
    rows[:, 6, 50] = rows[:, 0, 3]
    law = LowRank(rows)
    for _ in range(50):
        latent = law.latent(law.noise(rng))
        assert latent[6, 50].item() == latent[0, 3].item()
    assert law.pair_moment(3, 6 * 67 + 50).item() == pytest.approx(1, abs=1e-14)


# --- low rank plus diagonal ---------------------------------------------------------------------------------------


def test_with_a_diagonal_the_moments_are_those_of_the_widened_normals(rng):
    rows, d = unit_rows(3, 5, rng=rng), 0.7
    law = LowRankPlusDiagonal(rows, diagonal=d)
    a, _ = standardised(rows, d)
    torch.testing.assert_close(law.mean().detach(), rounded_means(a), rtol=0, atol=1e-14)
    torch.testing.assert_close(law.second_moment().detach(), second_moments(rows, d), rtol=0, atol=1e-10)
    drawn = draws_of(law, FEWER, rng)
    assert (drawn.mean(0) - law.mean()).abs().max() < 4 / FEWER**0.5
    assert (drawn.T @ drawn / FEWER - law.second_moment()).abs().max() < 4 / FEWER**0.5


def test_given_the_factors_weights_are_independent_with_the_conditional_means(rng):
    """Total expectation over the factors: E c_i = E w_i and E c_i c_j = E w_i w_j for i != j, by Gauss-Hermite."""
    rows, d = unit_rows(3, 4, rng=rng), 1.2
    law = LowRankPlusDiagonal(rows, diagonal=d)
    points, weights = np.polynomial.hermite_e.hermegauss(30)
    mean, second = torch.zeros(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    for (x, p), (y, q) in itertools.product(zip(points, weights, strict=True), repeat=2):
        c = law.conditional_mean(torch.tensor([x, y], dtype=torch.float64)).detach()
        mass = p * q / (2 * math.pi)
        mean += mass * c
        second += mass * c[:, None] * c
    # erf(u / (sqrt 2 d)) is entire: at d = 1.2 and |Z_i| <= 1 the 30-node rule agrees with a 160-node one to 1e-13
    torch.testing.assert_close(mean, law.mean().detach(), rtol=0, atol=1e-12)
    off = ~torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(second[off], law.second_moment().detach()[off], rtol=0, atol=1e-10)


def test_a_conditional_draw_has_the_conditional_mean(rng):
    rows, d = unit_rows(3, 6, rng=rng), 0.4
    law = LowRankPlusDiagonal(rows, diagonal=d)
    factors = law.factor_noise(rng)
    assert factors.shape == (2,)
    total = torch.zeros(6, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(FEWER):
            total += law.values(law.latent(torch.cat([factors, normals(6, rng=rng)])))
        assert (total / FEWER - law.conditional_mean(factors)).abs().max() < 4 / FEWER**0.5


def test_the_latent_of_factors_alone_is_the_conditional_latent(rng):
    rows, d = unit_rows(3, 2, 3, rng=rng), 0.4
    law = LowRankPlusDiagonal(rows, diagonal=d)
    noise = law.noise(rng)
    assert noise.shape == (2 + 6,)
    conditional = law.latent(noise[:2]).detach()
    torch.testing.assert_close(conditional, rows[0] + torch.einsum("k,k...->...", noise[:2], rows[1:]))
    torch.testing.assert_close(law.latent(noise).detach(), conditional + d * noise[2:].reshape(2, 3))
    torch.testing.assert_close(law.conditional_mean(noise[:2]).detach(), torch.erf(conditional / (math.sqrt(2) * d)))


def test_a_diagonal_far_above_the_factors_is_mean_field(rng):
    """d >> ||Z_i||: theta = erf(mu / (sqrt 2 d)), and no correlation is left."""
    rows = normals(3, 4, rng=rng)
    d = 1e3 * rows[1:].norm(dim=0).max().item()
    rows[0] *= d
    law = LowRankPlusDiagonal(rows, diagonal=d)
    theta = rounded_means(rows[0] / d)
    # sigma / d - 1 and rho are at most (||Z|| / d)^2 = 1e-6; d erf(a / sqrt 2) <= 0.49 da / a, d E w w' <= 0.64 d rho
    torch.testing.assert_close(law.mean().detach(), theta, rtol=0, atol=5e-7)
    for i, j in itertools.combinations(range(4), 2):
        assert law.pair_moment(i, j).item() == pytest.approx((theta[i] * theta[j]).item(), abs=2e-6)


def test_a_vanishing_diagonal_is_the_low_rank_law(rng):
    rows = unit_rows(3, 4, rng=rng)
    law, limit = LowRankPlusDiagonal(rows, diagonal=1e-7), LowRank(rows)
    torch.testing.assert_close(law.mean(), limit.mean(), rtol=0, atol=1e-12)
    torch.testing.assert_close(law.second_moment(), limit.second_moment(), rtol=0, atol=1e-10)


# --- what a draw costs (V10) --------------------------------------------------------------------------------------


@DTYPES
@RANKS
def test_a_draw_consumes_k_normals_and_nothing_else(rank, dtype, rng):
    """Counted by the generator: fresh noise for every weight would leave it elsewhere."""
    unrelated = torch.get_rng_state()
    rows = unit_rows(rank + 1, 20, 30, rng=rng).to(dtype)
    for law in (LowRank(rows), SymmetricLowRank(rows[1:])):
        counter = torch.Generator().manual_seed(3)
        counter.set_state(rng.get_state())
        noise = law.noise(rng)
        assert torch.equal(noise, torch.randn(rank, generator=counter, dtype=dtype))
        assert torch.equal(rng.get_state(), counter.get_state())
    assert torch.equal(torch.get_rng_state(), unrelated)


def test_a_draw_with_a_diagonal_consumes_k_normals_and_one_a_weight(rng):
    law = LowRankPlusDiagonal(unit_rows(3, 2, 3, rng=rng), diagonal=0.5)
    counter = torch.Generator().manual_seed(3)
    counter.set_state(rng.get_state())
    law.noise(rng)
    torch.randn(8, generator=counter, dtype=torch.float64)
    assert torch.equal(rng.get_state(), counter.get_state())


def test_a_pass_draws_k_normals_a_layer(rng):
    model = Chain(
        BinaryLinear(LowRank(unit_rows(3, 5, 4, rng=rng))), BinaryLinear(LowRank(unit_rows(4, 2, 5, rng=rng)))
    )
    counter = torch.Generator().manual_seed(3)
    counter.set_state(rng.get_state())
    model(
        normals(16, 4, rng=torch.Generator().manual_seed(4)),
        Reading(Draw(StraightThrough()), SignActivation(StraightThrough())),
        rng,
    )
    for count in (2, 3):
        torch.randn(count, generator=counter, dtype=torch.float64)
    assert torch.equal(rng.get_state(), counter.get_state())


def test_all_examples_of_a_batch_see_the_same_weights_and_the_next_pass_others(rng):
    layer = BinaryLinear(LowRank(unit_rows(3, 40, 9, rng=rng)))
    x = torch.randint(-9, 10, (1, 9), generator=rng).double().expand(6, -1)  # whole: sums are exact in any order
    reading = Reading(Draw(StraightThrough()), SignActivation(StraightThrough()))
    first, second = layer(x, reading, rng), layer(x, reading, rng)
    assert torch.equal(first, first[:1].expand(6, -1))
    assert not torch.equal(first, second)


def test_the_weights_of_one_draw_lie_on_one_side_of_a_plane(rng):
    """All weights of a draw share r: with K = 2 the n signs are a half-plane's, of which there are 2 n and not 2^n."""
    law = SymmetricLowRank(unit_rows(2, 10, rng=rng))
    seen = {tuple(w) for w in draws_of(law, 1000, rng).tolist()}
    assert 2 < len(seen) <= 20


# --- prediction (V11) ---------------------------------------------------------------------------------------------


def test_an_ensemble_of_certain_rows_is_the_single_network(rng):
    mu = sign(normals(3, 5, rng=rng))
    model = Chain(BinaryLinear(LowRank(torch.stack([mu, torch.zeros_like(mu)]))))
    x = torch.randint(-4, 5, (7, 5), generator=rng).double()
    rule = ensemble(4, SignActivation(StraightThrough()))
    assert torch.equal(predict(model, rule, x, (x,), rng).scores[0], x @ mu.T)


def test_ensemble_logit_variance_falls_as_one_over_its_size_from_the_stated_second_moment(rng):
    """Var of a logit x'w is x' (E w w' - E w E w') x; members of an ensemble are independent draws."""
    law = LowRank(unit_rows(3, 1, 6, rng=rng))
    model, x = Chain(BinaryLinear(law)), normals(1, 6, rng=rng)
    mean = law.mean().detach()[0]
    exact = (x[0] @ (law.second_moment().detach() - mean[:, None] * mean) @ x[0]).item()
    repeats = 400
    for size in (1, 4):
        rule = ensemble(size, SignActivation(StraightThrough()))
        logits = torch.cat([predict(model, rule, x, (x,), rng).scores[0] for _ in range(repeats)]).flatten()
        centred = logits - (x[0] @ mean)
        variance = centred.square().mean().item()
        # relative deviation of a mean of squares: sqrt((kurtosis - 1) / repeats); five of them
        kurtosis = (centred**4).mean().item() / variance**2
        assert variance * size / exact == pytest.approx(1, abs=5 * math.sqrt((kurtosis - 1) / repeats))


def test_drawn_networks_use_one_draw_a_layer(rng):
    law = SymmetricLowRank(unit_rows(1, 4, 5, rng=rng))
    weights = drawn_weights(Chain(BinaryLinear(law)), rng).weights[law]
    signs = sign(rows_of(law).detach()[0])
    assert torch.equal(weights, signs) or torch.equal(weights, -signs)


# --- unit rows (V5, V6, V9) ---------------------------------------------------------------------------------------


@DTYPES
def test_after_a_step_the_stored_rows_have_length_one_and_have_changed(dtype, rng):
    """Normalising a temporary leaves the parameter alone: the released code does."""
    law = LowRank(unit_rows(4, 3, 5, rng=rng).to(dtype))
    stored = next(law.parameters())
    solver = GeometricSGD(law.coordinates(), lr=0.8, momentum=0.9)
    for _ in range(10):
        before = stored.detach().clone()
        rows_of(law).grad = torch.randn(4, 3, 5, generator=rng, dtype=dtype)
        solver.step()
        assert not torch.equal(stored, before)
        torch.testing.assert_close(stored.detach().norm(dim=0), torch.ones(3, 5, dtype=dtype), rtol=0, atol=1e-6)
        assert (stored.detach()[0].abs() <= 1 + 1e-6).all()
    assert isinstance(law.coordinates()[0].geometry, UnitRows)


def test_a_step_with_unit_rows_is_the_projected_gradient_step(rng):
    law = LowRank(unit_rows(3, 6, rng=rng))
    rows, gradient = rows_of(law).detach().clone(), normals(3, 6, rng=rng)
    rows_of(law).grad = gradient.clone()
    GeometricSGD(law.coordinates(), lr=0.5).step()
    moved = rows - 0.5 * (gradient - (gradient * rows).sum(0) * rows)
    torch.testing.assert_close(rows_of(law).detach(), moved / moved.norm(dim=0), rtol=0, atol=1e-15)


def test_tangents_are_orthogonal_projections_and_retraction_errs_by_the_square(rng):
    geometry, rows = UnitRows(), unit_rows(4, 3, 5, rng=rng)
    tangent = geometry.to_tangent(rows, normals(4, 3, 5, rng=rng))
    assert (tangent * rows).sum(0).abs().max() < 1e-15
    torch.testing.assert_close(geometry.to_tangent(rows, tangent), tangent, rtol=0, atol=1e-15)
    torch.testing.assert_close(geometry.retract(rows, torch.zeros_like(rows)), rows, rtol=0, atol=2.3e-16)
    for t in (1e-1, 1e-2, 1e-3):
        error = (geometry.retract(rows, t * tangent) - rows - t * tangent).norm(dim=0)
        # |p + t v| = sqrt(1 + t^2 v^2): the error is t^2 v^2 / 2 at most, and not below a third of it at t v < 1
        size = (t * tangent.norm(dim=0)) ** 2 / 2
        assert (error <= size * (1 + 1e-9) + 1e-15).all()
        assert (error >= size / 3).all()


def test_no_unit_row_is_nearer_than_the_projection(rng):
    points, rivals = normals(3, 200, rng=rng), unit_rows(3, 200, rng=rng)
    projected = UnitRows().project(points)
    assert ((projected - points).norm(dim=0) <= (rivals - points).norm(dim=0)).all()
    torch.testing.assert_close(UnitRows().project(projected), projected, rtol=0, atol=2.3e-16)


def test_a_zero_row_is_projected_to_a_finite_unit_row():
    projected = UnitRows().project(torch.zeros(3, 2, dtype=torch.float64))
    assert torch.equal(projected.norm(dim=0), torch.ones(2, dtype=torch.float64))


@RANKS
def test_draws_do_not_depend_on_the_length_of_rows(rank, rng):
    """V6: signs of scaled latents; powers of two scale without rounding, so bit for bit."""
    rows = unit_rows(rank + 1, 6, 7, rng=rng)
    lengths = 2.0 ** torch.randint(-5, 6, (6, 7), generator=rng)
    law, scaled = LowRank(rows), LowRank(rows * lengths, geometry=EUCLIDEAN)
    noise = law.noise(rng)
    assert torch.equal(scaled.values(scaled.latent(noise)), law.values(law.latent(noise)))
    # sums of squares of different sizes round alike: powers of two
    torch.testing.assert_close(scaled.mean(), law.mean(), rtol=4e-16, atol=0)


@RANKS
def test_the_gram_matrix_of_unit_rows_is_feasible_for_the_semidefinite_program(rank, rng):
    """V9: X = V V' is positive semidefinite, of unit diagonal and rank at most K + 1, after any steps."""
    law = LowRank(unit_rows(rank + 1, 9, rng=rng))
    solver = GeometricSGD(law.coordinates(), lr=0.5)
    for _ in range(5):
        rows_of(law).grad = normals(rank + 1, 9, rng=rng)
        solver.step()
    v = rows_of(law).detach()
    eigenvalues = torch.linalg.eigvalsh(v.T @ v)
    assert eigenvalues.min() > -1e-14
    assert (eigenvalues > 1e-13).sum() <= rank + 1
    torch.testing.assert_close((v.T @ v).diagonal(), torch.ones(9, dtype=torch.float64), rtol=0, atol=1e-15)
