"""Gradients of low-rank laws in expectation: Bussgang, the rounded, smooth and conditional estimators, exact gradients.

Expectations of functions of the signs (times the noise, linearly) are exact sums over atoms: the noise space is cut
where a sign changes, and each piece is fed as its conditional mean with its probability: on a line for K = 1, along
rays for K = 2. Polynomials use Gauss-Hermite.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from core.conditional import ConditionalMean
from core.contractions import Dense
from core.geometry import EUCLIDEAN, UnitRows
from core.interface import Tape, UnsupportedReading
from core.laws import Bernoulli
from core.low_rank import LowRank, LowRankPlusDiagonal, SymmetricLowRank
from core.ops import ErfSign, Identity, StraightThrough
from core.readings import Draw
from methods import make

RANKS = pytest.mark.parametrize("rank", [1, 2])
ROOT_2_PI = math.sqrt(2 * math.pi)
Atoms = list[tuple[float, torch.Tensor]]  # probability and noise
# Gauss-Legendre angles a panel, and what they leave of a planar expectation of signs (exp(-mu^2 / 2 cos^2) is flat to
# all orders, not analytic, at a panel's end): 20 nodes leave 5e-7, 36 leave 1e-9 at means of 1/4 and more
NODES = 36
LEFT = 1e-8


def normals(*shape: int, rng) -> torch.Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def unit_rows(columns: int, *shape: int, rng) -> torch.Tensor:
    rows = normals(columns, *shape, rng=rng)
    return rows / rows.norm(dim=0)


def rows_with_means(mu: list[float], rank: int, rng) -> torch.Tensor:
    """Unit rows (rank + 1, 1, n) with the given first column: the weights of one output."""
    mean = torch.tensor(mu, dtype=torch.float64)
    return torch.cat([mean[None], (1 - mean**2).sqrt() * unit_rows(rank, len(mu), rng=rng)])[:, None]


def pdf(x: float) -> float:
    return math.exp(-x * x / 2) / ROOT_2_PI


def cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def line_pieces(thresholds: list[float]) -> list[tuple[float, float]]:
    """Probability and conditional mean of a standard normal between neighbouring thresholds."""
    edges = [-math.inf, *sorted(thresholds), math.inf]
    pieces = [(cdf(high) - cdf(low), pdf(low) - pdf(high)) for low, high in itertools.pairwise(edges)]
    return [(mass, moment / mass) for mass, moment in pieces if mass > 1e-15]


def ray_pieces(thresholds: list[float]) -> list[tuple[float, float]]:
    """The same for the signed radius t of a planar normal along a fixed direction: density |t| exp(-t^2 / 2) / 2."""

    def below(t: float) -> float:  # probability, up to a constant
        return math.copysign(-math.expm1(-t * t / 2) / 2, t)

    def moment(t: float) -> float:
        t = abs(t)
        ends = 0.0 if math.isinf(t) else t * math.exp(-t * t / 2)
        return (math.sqrt(math.pi / 2) * math.erf(t / math.sqrt(2)) - ends) / 2

    edges = [-math.inf, *sorted(thresholds), math.inf]
    pieces = [(below(high) - below(low), moment(high) - moment(low)) for low, high in itertools.pairwise(edges)]
    return [(mass, first / mass) for mass, first in pieces if mass > 1e-15]


def panels(mu: torch.Tensor, z: torch.Tensor) -> list[float]:
    """Angles in [0, pi] where a factor vanishes or two thresholds cross; between them everything is smooth."""
    n = len(mu)
    turning = [z[:, i] for i in range(n)]
    crossing = [mu[i] * z[:, j] - mu[j] * z[:, i] for i, j in itertools.combinations(range(n), 2)]
    normal = torch.stack([v for v in [*turning, *crossing] if v.norm() > 0])
    angles = sorted((torch.atan2(normal[:, 1], normal[:, 0]) + math.pi / 2).remainder(math.pi).tolist())
    return [*angles, angles[0] + math.pi]


def atoms(rows: torch.Tensor) -> Atoms:
    """Atoms of K <= 2 normals, exact for functions of sign(rows[0] + eps . rows[1:]) that are linear in eps."""
    mu, z = rows[0].flatten(), rows[1:].flatten(1)
    if len(z) == 1:
        pieces = line_pieces((-mu / z[0]).tolist())
        return [(mass, torch.tensor([t], dtype=torch.float64)) for mass, t in pieces]
    found: Atoms = []
    points, weights = np.polynomial.legendre.leggauss(NODES)
    for low, high in itertools.pairwise(panels(mu, z)):
        for x, weight in zip(points, weights, strict=True):
            angle = (low + high) / 2 + (high - low) / 2 * x
            direction = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
            share = weight * (high - low) / 2 / math.pi
            found += [(share * p, t * direction) for p, t in ray_pieces((-mu / (direction @ z)).tolist())]
    return found


def hermite(nodes: int, rank: int) -> Atoms:
    """Gauss-Hermite atoms of K normals, exact for polynomials of degree 2 nodes - 1 in each."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    pairs = list(zip(weights / ROOT_2_PI, points, strict=True))
    return [
        (math.prod(w for w, _ in chosen), torch.tensor([x for _, x in chosen], dtype=torch.float64))
        for chosen in itertools.product(pairs, repeat=rank)
    ]


def expected_gradient(law, reading, f: Callable, among: Atoms, rng) -> torch.Tensor:
    """E over atoms of the gradient that a pass pulls back to the rows, (K + 1, n); f maps weights (n,) to a loss."""
    tape, total = Tape(), torch.zeros((), dtype=torch.float64)
    eye = torch.eye(law.shape[-1], dtype=torch.float64)
    for mass, noise in among:
        law.noise = law.factor_noise = lambda rng, noise=noise: noise
        total = total + mass * f(reading(law, Dense(), eye, rng, tape)[:, 0])
    total.backward()
    tape.pull_back()
    (coordinate,) = law.coordinates()
    return coordinate.parameter.grad[:, 0]


def expectation(rows: torch.Tensor, f: Callable, among: Atoms) -> float:
    """E f(w) of the law's own draws at the atoms' noise."""
    law = LowRank(rows, geometry=EUCLIDEAN)
    with torch.no_grad():
        return sum(mass * f(law.values(law.latent(noise))[0]).item() for mass, noise in among)


def quadratic(n: int, rng):
    a = normals(n, n, rng=rng)
    a, b = a + a.T, normals(n, rng=rng)
    return a, b, lambda w: 0.5 * w @ a @ w + b @ w


def every_sign(n: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)


def extension(table: torch.Tensor) -> Callable:
    """The multilinear function that equals the table at the 2^n sign vectors."""
    signs = every_sign(len(table).bit_length() - 1)
    return lambda w: ((1 + signs * w).prod(-1) / 2 ** len(w)) @ table


def discrete_derivative(f: Callable, i: int) -> Callable:
    def derivative(w: torch.Tensor) -> torch.Tensor:
        up, down = w.clone(), w.clone()
        up[i], down[i] = 1.0, -1.0
        return (f(up) - f(down)) / 2

    return derivative


# --- the atoms themselves and Bussgang (V2) -----------------------------------------------------------------------

MEANS = [0.3, -0.6, 0.25, 0.8]


@RANKS
def test_law_moments_are_exact_sums_over_its_own_draws(rank, rng):
    """V1 without Monte Carlo: the atoms' signs are those of the law, and the declared moments are their sums."""
    rows = rows_with_means(MEANS, rank, rng)
    law, among = LowRank(rows), atoms(rows)
    masses = torch.tensor([mass for mass, _ in among], dtype=torch.float64)
    with torch.no_grad():
        weights = torch.stack([law.values(law.latent(noise)).flatten() for _, noise in among])
    assert masses.sum().item() == pytest.approx(1, abs=1e-12)
    tolerance = 1e-10 if rank == 1 else LEFT
    torch.testing.assert_close(masses @ weights, law.mean().detach()[0], rtol=0, atol=tolerance)
    second = (masses[:, None] * weights).T @ weights
    torch.testing.assert_close(second, law.second_moment().detach(), rtol=0, atol=tolerance)


@RANKS
def test_bussgang_the_signs_covariance_with_the_noise_is_the_factor_scaled(rank, rng):
    """V2: E sign(z_i) r = (2 phi(a_i) / sigma_i) Z_i."""
    rows = rows_with_means(MEANS, rank, rng)
    law, among = LowRank(rows), atoms(rows)
    with torch.no_grad():
        measured = sum(mass * noise[:, None] * law.values(law.latent(noise)) for mass, noise in among)
    mu, sigma = rows[0, 0], (1 - rows[0, 0] ** 2).sqrt()
    scale = 2 * torch.exp(-0.5 * (mu / sigma) ** 2) / ROOT_2_PI / sigma
    torch.testing.assert_close(measured, scale * rows[1:, 0], rtol=0, atol=1e-10 if rank == 1 else LEFT)


# --- rounded and smooth gradients of a quadratic (V3) -------------------------------------------------------------


@RANKS
def test_rounded_gradient_at_zero_mean_is_root_two_over_pi_times_the_burer_monteiro_gradient(rank, rng):
    """E grad f(sign z) r' = sqrt(2 / pi) A Z, a fact of unit rows; it is not A Z."""
    a, _, f = quadratic(4, rng)
    rows = unit_rows(rank, 1, 4, rng=rng)
    measured = expected_gradient(SymmetricLowRank(rows), Draw(StraightThrough()), f, zero_mean_atoms(rows), rng)
    exact = rows[:, 0] @ a
    # panels are arcs on which the integrand is cos and sin: Gauss-Legendre is exact to rounding
    torch.testing.assert_close(measured, math.sqrt(2 / math.pi) * exact, rtol=0, atol=1e-12)
    assert (measured - exact).norm() / exact.norm() > 0.2  # 1 - sqrt(2 / pi) = 0.2021


def zero_mean_atoms(rows: torch.Tensor) -> Atoms:
    return atoms(torch.cat([torch.zeros_like(rows[:1]), rows]))


@RANKS
def test_rounded_gradients_off_zero_mean_are_those_of_the_rounded_moments(rank, rng):
    """In mu: A erf(a / sqrt 2) + b, not A mu + b; in Z: row j weighs 2 phi(a_j) / sigma_j."""
    a, b, f = quadratic(4, rng)
    rows = rows_with_means(MEANS, rank, rng)
    measured = expected_gradient(LowRank(rows), Draw(StraightThrough()), f, atoms(rows), rng)
    mu, sigma = rows[0, 0], (1 - rows[0, 0] ** 2).sqrt()
    means = torch.tensor([math.erf(x / math.sqrt(2)) for x in (mu / sigma).tolist()], dtype=torch.float64)
    scale = 2 * torch.exp(-0.5 * (mu / sigma) ** 2) / ROOT_2_PI / sigma
    tolerance = 1e-10 if rank == 1 else LEFT * a.abs().sum().item()
    torch.testing.assert_close(measured[0], a @ means + b, rtol=0, atol=tolerance)
    torch.testing.assert_close(measured[1:], (scale * rows[1:, 0]) @ a, rtol=0, atol=tolerance)
    assert (measured[0] - (a @ mu + b)).norm() > 1e-2 * a.norm()  # the biases are facts
    assert (measured[1:] - math.sqrt(2 / math.pi) * rows[1:, 0] @ a).norm() > 1e-2 * a.norm()


@RANKS
def test_smooth_gradient_is_that_of_the_semidefinite_program_exactly(rank, rng):
    """E (A z + b) = A mu + b and E (A z + b) r' = A Z: unbiased for the relaxed objective, diagonal of A included."""
    a, b, f = quadratic(4, rng)
    rows = rows_with_means(MEANS, rank, rng)
    measured = expected_gradient(LowRank(rows), Draw(Identity()), f, hermite(3, rank), rng)
    torch.testing.assert_close(measured[0], a @ rows[0, 0] + b, rtol=0, atol=1e-13)
    torch.testing.assert_close(measured[1:], rows[1:, 0] @ a, rtol=0, atol=1e-13)


def test_independent_noise_for_every_weight_would_lose_the_factor_gradient(rng):
    """The toy version: with its own r each, only the diagonal of A reaches Z. The law's shared r sees all of A."""
    a, _, f = quadratic(4, rng)
    a0 = a - torch.diag(a.diagonal())
    rows = rows_with_means([0.0] * 4, 2, rng)
    measured = expected_gradient(LowRank(rows), Draw(Identity()), lambda w: 0.5 * w @ a0 @ w, hermite(3, 2), rng)
    assert measured[1:].norm() > 0.5 * a0.norm() * rows[1:].norm() / 4  # the toy gives 0 here


# --- exact gradients (V4) -----------------------------------------------------------------------------------------


def given_zero(rows: torch.Tensor, i: int) -> Atoms:
    """Atoms of two normals conditioned on z_i = 0: a line at distance |mu_i| / sigma_i from the origin."""
    mu, z = rows[0, 0], rows[1:, 0]
    along = torch.stack([-z[1, i], z[0, i]]) / z[:, i].norm()
    foot = -mu[i] * z[:, i] / z[:, i].square().sum()
    offsets, slopes = mu + foot @ z, along @ z
    kept = [j for j in range(len(mu)) if j != i]
    pieces = line_pieces((-offsets[kept] / slopes[kept]).tolist())
    return [(mass, foot + t * along) for mass, t in pieces]


@pytest.mark.parametrize("n", [2, 4])
def test_rounded_gradient_in_the_mean_is_the_exact_one_without_its_weight_and_conditioning(n, rng):
    """dE f / dmu_i = (2 phi(a_i) / sigma_i) E[D_i f | z_i = 0]; straight through gives E[D_i f]. An arbitrary table."""
    f = extension(normals(2**n, rng=rng))
    rows = rows_with_means(MEANS[:n], 2, rng)
    among = atoms(rows)
    rounded = expected_gradient(LowRank(rows.clone()), Draw(StraightThrough()), f, among, rng)[0]
    exact = []
    for i in range(n):
        derivative = discrete_derivative(f, i)
        mu, sigma = rows[0, 0, i].item(), rows[1:, 0, i].norm().item()
        conditioned = expectation(rows, derivative, given_zero(rows, i))
        exact.append(2 * pdf(mu / sigma) / sigma * conditioned)
        shift, h = torch.zeros_like(rows), 1e-3
        shift[0, 0, i] = h
        above, below = (expectation(rows + s * shift, f, atoms(rows + s * shift)) for s in (1, -1))
        # h^2 / 6 times third derivatives below 10 / sigma^3, sigma >= 0.6; atoms to LEFT / h
        assert exact[-1] == pytest.approx((above - below) / (2 * h), abs=5e-5)
        assert rounded[i].item() == pytest.approx(expectation(rows, derivative, among), abs=1e-12)
    assert (rounded - torch.tensor(exact)).norm() > 0.05 * rounded.norm()  # the stated bias


@pytest.mark.parametrize("rho", [-0.95, -0.3, 0.0, 0.6, 0.99])
def test_pair_moment_has_placketts_derivative_in_the_correlation(rho):
    """(2 / pi) / sqrt(1 - rho^2) at zero mean: it blows up where factors align."""

    def at(correlation: float) -> float:
        rows = [[1.0, correlation], [0.0, math.sqrt(1 - correlation**2)]]
        return SymmetricLowRank(torch.tensor(rows, dtype=torch.float64)).pair_moment(0, 1).item()

    h = 1e-5
    exact = 2 / math.pi / math.sqrt(1 - rho**2)
    # h^2 / 6 times the third derivative, 3 / (1 - rho^2)^(5/2) at most: 2e4 at 0.99; rounding 1e-15 / h
    assert (at(rho + h) - at(rho - h)) / (2 * h) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("rho", [-0.9, 0.2, 0.8])
def test_pair_moment_has_the_conditional_mean_as_its_derivative_in_one_mean(rho):
    """d E w_i w_j / d mu_i = 2 phi(a_i) / sigma_i E[w_j | z_i = 0], with the factors held."""
    a, b = 0.4, -0.7

    def at(mu: float) -> float:
        rows = [[mu, b], [1.0, rho], [0.0, math.sqrt(1 - rho**2)]]
        return LowRank(torch.tensor(rows, dtype=torch.float64)).pair_moment(0, 1).item()

    h = 1e-4
    exact = 2 * pdf(a) * math.erf((b - rho * a) / math.sqrt(2 * (1 - rho**2)))
    # h^2 / 6 times a third derivative below 50; the moment itself to 1e-10 / h
    assert (at(a + h) - at(a - h)) / (2 * h) == pytest.approx(exact, abs=1.1e-6)


# --- conditional means --------------------------------------------------------------------------------------------


def conditional_expectation(rows: torch.Tensor, d: float, f: Callable, among: Atoms) -> float:
    """E f(w) of the law with a diagonal, by enumeration of the signs given the factors."""
    n = rows.shape[-1]
    signs = every_sign(n)
    table = torch.stack([f(w) for w in signs])
    total = 0.0
    for mass, noise in among:
        latent = rows[0, 0] + noise @ rows[1:, 0]
        plus = torch.special.ndtr(latent / d)
        total += mass * (torch.where(signs > 0, plus, 1 - plus).prod(1) @ table).item()
    return total


@RANKS
def test_conditional_gradient_of_a_multilinear_loss_is_unbiased_in_every_row(rank, rng):
    """Against finite differences of the enumerated expectation over the factors, mean column and factors alike."""
    n, d = 3, 0.9
    f = extension(normals(2**n, rng=rng))
    rows, among = rows_with_means([0.3, -0.6, 0.1], rank, rng), hermite(30, rank)
    law = LowRankPlusDiagonal(rows.clone(), diagonal=d)
    measured = expected_gradient(law, ConditionalMean(), f, among, rng)
    h = 1e-4
    for k, i in itertools.product(range(rank + 1), range(n)):
        shift = torch.zeros_like(rows)
        shift[k, 0, i] = h
        above, below = (conditional_expectation(rows + s * shift, d, f, among) for s in (1, -1))
        # both sides use the same 30 nodes; h^2 / 6 times third derivatives below 20 / d^3 times the nodes' r^3
        assert measured[k, i].item() == pytest.approx((above - below) / (2 * h), abs=1e-6)


def test_conditional_means_are_what_the_pass_contracts_and_only_factors_are_drawn(rng):
    law = LowRankPlusDiagonal(unit_rows(4, 2, 3, rng=rng), diagonal=0.3)
    counter = torch.Generator().manual_seed(1)
    counter.set_state(rng.get_state())
    x = normals(5, 3, rng=torch.Generator().manual_seed(2))
    output = ConditionalMean()(law, Dense(), x, rng, None)
    factors = torch.randn(3, generator=counter, dtype=torch.float64)
    assert torch.equal(rng.get_state(), counter.get_state())
    torch.testing.assert_close(output, x @ law.conditional_mean(factors).T)


def test_conditional_means_of_other_laws_are_refused_naming_both_and_the_alternative(rng):
    for law in (LowRank(unit_rows(2, 2, 3, rng=rng)), Bernoulli(torch.zeros(2, 3, dtype=torch.float64))):
        with pytest.raises(UnsupportedReading, match="ConditionalMean") as caught:
            ConditionalMean()(law, Dense(), normals(5, 3, rng=rng), rng, Tape())
        assert type(law).__name__ in str(caught.value)
        assert "Draw" in str(caught.value)


@pytest.mark.parametrize("diagonal", [0.2, 1.0, 3.0])
def test_the_erf_sign_is_the_mean_over_the_diagonal_noise_with_its_own_slope(diagonal):
    surrogate, z = ErfSign(diagonal), torch.linspace(-4, 4, 41, dtype=torch.float64)
    expected = torch.tensor([2 * cdf(x / diagonal) - 1 for x in z.tolist()], dtype=torch.float64)
    torch.testing.assert_close(surrogate(z), expected, rtol=0, atol=1e-15)
    point = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(surrogate(point).sum(), point)
    torch.testing.assert_close(surrogate.slope(z), slope, rtol=1e-13, atol=1e-300)


# --- pull-backs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "law_of", [LowRank, lambda rows: LowRankPlusDiagonal(rows, diagonal=0.4)], ids=["pure", "diagonal"]
)
def test_the_factor_gradient_is_the_gradient_times_the_noise_and_the_mean_gradient_is_the_gradient(law_of, rng):
    law = law_of(unit_rows(4, 2, 3, rng=rng))
    noise, upstream = law.noise(rng), normals(2, 3, rng=rng)
    (pulled,) = law.pull_back(noise, upstream)
    factors = torch.cat([torch.ones(1, dtype=torch.float64), noise[:3]])
    assert torch.equal(pulled, factors[:, None, None] * upstream)


def test_a_law_without_a_mean_column_pulls_back_to_its_factors_only(rng):
    law = SymmetricLowRank(unit_rows(3, 2, 3, rng=rng))
    noise, upstream = law.noise(rng), normals(2, 3, rng=rng)
    (pulled,) = law.pull_back(noise, upstream)
    assert torch.equal(pulled, noise[:, None, None] * upstream)


def difference(law, noise, direction, h: float = 1e-6) -> torch.Tensor:
    """d latent along `direction` of the rows, by central differences."""
    (coordinate,) = law.coordinates()
    start = coordinate.parameter.detach().clone()
    values = []
    with torch.no_grad():
        for s in (h, -h):
            coordinate.parameter.copy_(start + s * direction)
            values.append(law.latent(noise).clone())
        coordinate.parameter.copy_(start)
    return (values[0] - values[1]) / (2 * h)


def reparametrised(rng):
    """The law of `lowrank-sdp` with free rows, of lengths far from 1."""
    law = make("lowrank-sdp", rows="reparam", rank=3).law(torch.Size([2, 5]), rng).double()
    (coordinate,) = law.coordinates()
    with torch.no_grad():
        coordinate.parameter.copy_(normals(4, 2, 5, rng=rng) * 3 ** normals(2, 5, rng=rng))
    return law, coordinate


def test_reparametrised_rows_pull_back_orthogonally_to_the_row_and_as_the_true_derivative(rng):
    """V6: the length of a row does not matter, so its gradient has no part along the row."""
    law, coordinate = reparametrised(rng)
    rows, noise, upstream = coordinate.parameter.detach(), law.noise(rng), normals(2, 5, rng=rng)
    (pulled,) = law.pull_back(noise, upstream)
    along = (pulled.detach() * rows).sum(0)
    assert (along.abs() <= 1e-13 * pulled.detach().norm(dim=0) * rows.norm(dim=0)).all()
    assert pulled.detach().norm() > 0.1
    direction = normals(4, 2, 5, rng=rng)
    expected = (upstream * difference(law, noise, direction)).sum()
    # rounding 1e-16 |z| / h in ten terms, truncation h^2 |row|^-3 with rows of 0.02 and more
    torch.testing.assert_close((pulled.detach() * direction).sum(), expected, rtol=1e-5, atol=1e-7)


def test_reparametrised_latents_do_not_change_with_the_length_of_rows(rng):
    law, coordinate = reparametrised(rng)
    noise, before = law.noise(rng), None
    before = law.latent(noise).detach().clone()
    with torch.no_grad():
        coordinate.parameter.mul_(2.0 ** torch.randint(-3, 4, (2, 5), generator=rng))
    torch.testing.assert_close(law.latent(noise).detach(), before, rtol=1e-15, atol=1e-15)


def test_tangent_gradients_of_retracted_rows_are_orthogonal_to_the_row(rng):
    law = LowRank(unit_rows(4, 2, 5, rng=rng))
    (coordinate,) = law.coordinates()
    (pulled,) = law.pull_back(law.noise(rng), normals(2, 5, rng=rng))
    tangent = UnitRows().to_tangent(coordinate.parameter.detach(), pulled.detach())
    assert (tangent * coordinate.parameter.detach()).sum(0).abs().max() < 1e-14


def test_the_published_factor_gradient_is_ten_times_the_chain_rule(rng):
    """r ~ N(0, 1/100), z = M + r'Z, and the released code's gradient of Z uses the unit normal: sqrt(100) times."""
    law = make("lowrank-sdp-published", rank=2).law(torch.Size([3, 4]), rng).double()
    noise, upstream = law.noise(rng), normals(3, 4, rng=rng)
    (pulled,) = law.pull_back(noise, upstream)
    for k in range(3):
        direction = torch.zeros(3, 3, 4, dtype=torch.float64)
        direction[k] = normals(3, 4, rng=rng)
        chain = (upstream * difference(law, noise, direction)).sum().item()
        factor = 1 if k == 0 else 10
        assert (pulled.detach() * direction).sum().item() == pytest.approx(factor * chain, rel=1e-6)
