"""Relations between methods: the same law or step reached by two names, bit for bit where it should be; and where an
estimator that looks alike is not the same, its bias, against enumeration. What leaves N or the prior out fails here.
"""

import itertools
import math
from collections.abc import Callable

import pytest
import torch

from core.claims import laws
from core.contractions import Dense
from core.geometry import EUCLIDEAN, BernoulliFisher, DampedBernoulliFisher
from core.interface import Budget, Coordinate, Tape
from core.laws import Bernoulli, Point
from core.layers import BinaryLinear, Chain
from core.low_rank import LowRank, LowRankPlusDiagonal
from core.ops import FlooredRelaxedSign, RelaxedSign, StraightThrough, half_logit, sign
from core.readings import Draw
from methods import make
from solvers.bop import Bop
from solvers.geometric import GeometricSGD


def normals(*shape: int, rng) -> torch.Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def parameter_of(law) -> torch.nn.Parameter:
    (coordinate,) = law.coordinates()
    return coordinate.parameter


def pull(law, surrogate, x, target, rng) -> torch.Tensor:
    """Leaves d mean (x w' - target)^2 / 2 on the law's parameter, through one draw; returns the drawn weights."""
    tape = Tape()
    y = Draw(surrogate)(law, Dense(), x, rng, tape)
    ((y - target) ** 2).mean().backward()
    parameter_of(law).grad = None
    tape.pull_back()
    return tape.drawn[0].weights.detach()


# --- (a) and (b): average of gradients, Bop, dual averaging, STE --------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 2.0**20])
def test_a_decaying_natural_parameter_read_by_sign_is_bop_with_zero_threshold(scale, rng):
    """(a): lambda = -scale m, so that m w > 0 flips w exactly where lambda has left it. lambda_0 = 0 reads +1."""
    law = Bernoulli(torch.zeros(4, 6, dtype=torch.float64), geometry=EUCLIDEAN)
    law.noise = lambda rng: torch.zeros(4, 6, dtype=torch.float64)  # forward at the mode
    w = torch.nn.Parameter(torch.ones(4, 6, dtype=torch.float64))
    bop_law = Point(w.detach().clone())
    learning = GeometricSGD(law.coordinates(), lr=0.125, scale=scale, decay=1.0)
    bop = Bop([parameter_of(bop_law)], lr=0.125, threshold=0.0)
    x, target = normals(8, 6, rng=rng), normals(8, 4, rng=rng)
    flips, last = 0, sign(parameter_of(law).detach())
    for _ in range(40):
        drawn = [pull(one, StraightThrough(), x, target, rng) for one in (law, bop_law)]
        assert torch.equal(*drawn)
        flips, last = flips + int((drawn[0] != last).sum()), drawn[0]
        learning.step(), bop.step()
        average = bop.state[parameter_of(bop_law)]["average"]
        # the same two products and a sum each step, in another order: a few ulps of the largest average so far
        torch.testing.assert_close(parameter_of(law).detach(), -scale * average, rtol=1e-12, atol=1e-14 * scale)
    assert flips > 20


def test_the_published_bayesbinn_read_at_the_mode_is_bop_with_zero_threshold_from_the_same_average(rng):
    """(a) with the released code's constants: saturated in float32, its scale is N * 1e10 on every weight."""
    n, lr, eps = 1000.0, 1e-2, 1e-10
    start = 10 * sign(normals(4, 6, rng=rng)).float()
    law = Bernoulli(start.clone(), geometry=DampedBernoulliFisher(eps))
    law.noise = lambda rng: torch.zeros(4, 6)
    bop_law = Point(sign(start))
    learning = GeometricSGD(law.coordinates(), lr=lr, scale=n, decay=1.0)
    bop = Bop([parameter_of(bop_law)], lr=lr, threshold=0.0)
    bop.state[parameter_of(bop_law)]["average"] = -start / (n / eps)
    x, target = normals(8, 6, rng=rng).float(), normals(8, 4, rng=rng).float()
    flips, last = 0, sign(start)
    for _ in range(30):
        drawn = (
            pull(law, FlooredRelaxedSign(eps, eps), x, target, rng),
            pull(bop_law, StraightThrough(), x, target, rng),
        )
        # averages of gradients of order 0.1 decide; rounding of 1e-6 of them is far from any sign's change here
        assert torch.equal(*drawn)
        flips, last = flips + int((drawn[0] != last).sum()), drawn[0]
        learning.step(), bop.step()
        assert parameter_of(law).abs().min() > 9.1  # saturated throughout
    assert flips > 5


def test_without_decay_the_natural_parameter_is_stes_latent_and_a_sum_of_gradients(rng):
    """(b): plain dual averaging = STE by SGD without a clip = torch's SGD, bit for bit."""
    start = normals(4, 6, rng=rng)
    law = Bernoulli(start.clone(), geometry=EUCLIDEAN)
    law.noise = lambda rng: torch.zeros(4, 6, dtype=torch.float64)
    ste = Point(start.clone(), geometry=EUCLIDEAN)
    plain = Point(start.clone())
    solvers = [
        GeometricSGD(law.coordinates(), lr=0.25),
        GeometricSGD(ste.coordinates(), lr=0.25),
        torch.optim.SGD([parameter_of(plain)], lr=0.25),
    ]
    x, target = normals(8, 6, rng=rng), normals(8, 4, rng=rng)
    total, changed = torch.zeros(4, 6, dtype=torch.float64), 0
    for _ in range(25):
        before = sign(parameter_of(ste).detach())
        for one in (law, ste, plain):
            pull(one, StraightThrough(), x, target, rng)
        total += parameter_of(ste).grad
        for solver in solvers:
            solver.step()
        assert torch.equal(parameter_of(law), parameter_of(ste))
        assert torch.equal(parameter_of(plain), parameter_of(ste))
        changed += int((sign(parameter_of(ste).detach()) != before).sum())
    torch.testing.assert_close(parameter_of(ste).detach(), start - 0.25 * total, rtol=0, atol=1e-13)
    assert changed > 5


# --- (c), (d), (e): one posterior under several names -------------------------------------------------------------


@pytest.mark.parametrize(
    "names", list(itertools.permutations(["bayesbinn", "bayesbinn-published", "blrnet"], 2)), ids="-".join
)
def test_bayesbinn_and_blrnet_hold_the_same_posterior_and_load_each_others(names, rng):
    """(c)."""
    source, other = (make(name).law(torch.Size([3, 5]), rng) for name in names)
    with torch.no_grad():
        parameter_of(source).copy_(4 * torch.randn(3, 5, generator=rng))
    other.load_state_dict(source.state_dict())
    assert torch.equal(other.prob_plus(), source.prob_plus())
    noise = source.noise(rng)
    assert torch.equal(other.values(other.latent(noise)), source.values(source.latent(noise)))


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_weights_with_zero_factors_are_stes_whatever_the_noise(rank, rng):
    """(d): the draw, and the gradient of the mean column; steps are in the low-rank special cases."""
    mu = normals(4, 6, rng=rng)
    law = LowRank(torch.cat([mu[None], torch.zeros(rank, 4, 6, dtype=torch.float64)]), geometry=EUCLIDEAN)
    ste = Point(mu.clone())
    x, target = normals(8, 6, rng=rng), normals(8, 4, rng=rng)
    for _ in range(5):
        drawn = [pull(one, StraightThrough(), x, target, rng) for one in (law, ste)]
        assert torch.equal(*drawn)
        assert torch.equal(parameter_of(law).grad[0], parameter_of(ste).grad)


def test_unit_diagonal_without_factors_is_a_probit_bernoulli(rng):
    """(e): P(w = +1) = Phi(mu), independent weights: the Bernoulli of mean 2 Phi(mu) - 1."""
    mu = normals(6, rng=rng)
    law = LowRankPlusDiagonal(torch.stack([mu, torch.zeros_like(mu)]), diagonal=1.0)
    twin = Bernoulli.of_means(2 * torch.special.ndtr(mu) - 1)
    torch.testing.assert_close(law.mean().detach(), twin.mean().detach(), rtol=0, atol=1e-15)
    torch.testing.assert_close(law.variance().detach(), twin.variance().detach(), rtol=0, atol=1e-15)
    mean = twin.mean().detach()
    expected = mean[:, None] * mean + torch.diag(1 - mean**2)
    torch.testing.assert_close(law.second_moment().detach(), expected, rtol=0, atol=1e-14)
    # quantiles of the latent noise: w = +1 where mu + eta >= 0, a share Phi(mu) of a midpoint grid to 1 / points
    points = 10_001
    grid = torch.special.ndtri((torch.arange(points, dtype=torch.float64) + 0.5) / points)
    wide = LowRankPlusDiagonal(torch.stack([mu, torch.zeros_like(mu)])[:, None].repeat(1, points, 1), diagonal=1.0)
    noise = torch.cat([torch.zeros(1, dtype=torch.float64), grid[:, None].expand(-1, 6).flatten()])
    share = (wide.values(wide.latent(noise)) > 0).double().mean(0)
    assert (share - twin.prob_plus()).abs().max() <= 1 / points


# --- (f): estimators against enumeration --------------------------------------------------------------------------


def every_sign(n: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)


def extension(table: torch.Tensor) -> Callable:
    """The multilinear function of (..., n) weights that equals the table at the 2^n sign vectors."""
    signs = every_sign(len(table).bit_length() - 1)
    return lambda w: ((1 + signs * w[..., None, :]).prod(-1) / len(signs)) @ table


def exact_mean_gradient(f: Callable, natural: torch.Tensor) -> torch.Tensor:
    """E D_i f under independent signs with natural parameters `natural`, by enumeration."""
    signs = every_sign(len(natural))
    probability = torch.sigmoid(2 * signs * natural).prod(1)
    gradient = []
    for i in range(len(natural)):
        up, down = signs.clone(), signs.clone()
        up[:, i], down[:, i] = 1.0, -1.0
        gradient.append(probability @ (f(up) - f(down)) / 2)
    return torch.stack(gradient)


def expected_gradient(natural, surrogate, f, noise, mass, feed, rng) -> torch.Tensor:
    """E of the gradient pulled back to natural parameters, over noise rows (nodes, n) of the given mass."""
    law = feed(Bernoulli(natural.expand(len(noise), -1).clone()), noise)
    tape = Tape()
    eye = torch.eye(len(natural), dtype=torch.float64)
    (mass * f(Draw(surrogate)(law, Dense(), eye, rng, tape).T)).sum().backward()
    tape.pull_back()
    return parameter_of(law).grad.sum(0)


NATURAL = torch.tensor([-0.8, 0.3, 1.1], dtype=torch.float64)


def test_straight_through_a_bernoulli_draw_is_unbiased_in_the_mean_and_biased_in_the_natural_parameter(feed, rng):
    """(f): E grad f(w) = E D_i f = dE/dmu for a multilinear f. Taken for dE/dlambda it lacks the factor 1 - mu^2."""
    f = extension(normals(8, rng=rng))
    sides = every_sign(3)  # noise on both sides of each threshold
    mass = torch.sigmoid(2 * sides * NATURAL).prod(1)
    measured = expected_gradient(NATURAL, StraightThrough(), f, sides - NATURAL, mass, feed, rng)
    exact = exact_mean_gradient(f, NATURAL)
    torch.testing.assert_close(measured, exact, rtol=0, atol=1e-14)
    in_natural = exact / torch.cosh(NATURAL) ** 2
    assert (measured - in_natural).abs().min() > 1e-3


def test_the_relaxed_gradient_is_that_of_the_relaxed_means_and_unbiased_only_as_the_temperature_vanishes(feed, rng):
    """(f): a multilinear f of independent tanh((lambda + delta) / T) depends on their means alone."""
    f = extension(normals(8, rng=rng))
    points = 48
    u = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    grid = half_logit(torch.cartesian_prod(u, u, u))
    mass = torch.full((len(grid),), points**-3.0, dtype=torch.float64)
    biases = []
    for temperature in (1.0, 0.5, 0.25):
        measured = expected_gradient(NATURAL, RelaxedSign(temperature), f, grid, mass, feed, rng)
        natural = NATURAL.clone().requires_grad_()
        relaxed = torch.tanh((natural + half_logit(u)[:, None]) / temperature).mean(0)
        (same,) = torch.autograd.grad(f(relaxed), natural)
        torch.testing.assert_close(measured, same, rtol=0, atol=1e-12)  # the same grid on both sides
        tangent = BernoulliFisher().to_tangent(NATURAL, measured)
        biases.append((tangent - exact_mean_gradient(f, NATURAL)).norm().item())
    # the bias falls as T^2, the grid's own error at T = 1/4 is a few percent of it
    assert biases[0] > 2 * biases[1] > 5 * biases[2]
    assert biases[0] > 0.05


# --- what a toy version leaves out --------------------------------------------------------------------------------


def trained_step(name: str, n_train: int, gradient: float, **hyperparameters) -> tuple[torch.Tensor, torch.Tensor]:
    """The natural parameters before and after the method's own first step with a constant gradient."""
    method = make(name, **hyperparameters)
    model = Chain(BinaryLinear(method.law(torch.Size([3, 4]), torch.Generator().manual_seed(5)))).double()
    ((_, law),) = laws(model)
    before = parameter_of(law).detach().clone()
    parameter_of(law).grad = torch.full_like(before, gradient)
    for solver in method.solvers(model, Budget(n_train=n_train, batch=10, steps=100)):
        solver.step()
    return before, parameter_of(law).detach().clone()


@pytest.mark.parametrize("n_train", [100, 5000])
def test_bayesbinn_steps_by_n_times_the_gradient_over_the_fisher_information_and_decays_to_its_prior(n_train):
    """Sections 2-3 of Meng et al. 2020: without N, the 1 - mu^2 or the prior it is SGD on a latent, renamed."""
    lr, gradient = 1e-3, 2e-7
    before, after = trained_step("bayesbinn", n_train, gradient, lr=lr, natural0=2.0, momentum=0.0)
    expected = (1 - lr) * before - lr * n_train * gradient * math.cosh(2.0) ** 2
    torch.testing.assert_close(after, expected, rtol=1e-13, atol=0)
    assert (after - (1 - lr) * before).abs().min() > 1e-12  # the data's part is visible


def test_bayesbinn_without_data_returns_to_the_fair_coin_and_sgd_would_not():
    before, after = trained_step("bayesbinn", 5000, 0.0, lr=0.01, natural0=2.0, momentum=0.0)
    torch.testing.assert_close(after, 0.99 * before, rtol=1e-15, atol=0)


def test_the_anchor_of_decay_is_the_prior_and_not_the_origin(rng):
    """Continual learning: the last posterior is the next prior."""
    prior, start = normals(2, 7, rng=rng)
    law = Bernoulli(start.clone(), prior=prior)
    coordinates = [Coordinate(c.parameter, c.geometry, c.anchor) for c in law.coordinates()]
    parameter_of(law).grad = torch.zeros(7, dtype=torch.float64)
    GeometricSGD(coordinates, lr=0.2, decay=1.0).step()
    torch.testing.assert_close(parameter_of(law).detach(), 0.8 * start + 0.2 * prior, rtol=0, atol=1e-15)
