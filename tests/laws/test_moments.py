"""Moment propagation against enumeration of all weights and inputs: P1, P2, P3, P7, P8. Peters & Welling 2018.

Every wrong formula that is known (misprints of the paper, traps of reproductions) is injected and seen to be wrong.
"""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from core.contractions import Convolution, Dense
from core.gaussian_laws import UnitGaussian
from core.interface import Reading, UnsupportedReading, WeightLaw
from core.laws import Bernoulli, Point, Real
from core.moments import Moments, PropagatedSign, StochasticSign, log_positive, sign_natural
from core.ops import sign
from core.readings import Fixed
from core.signals import Gaussian
from core.spatial import BinaryConv2d

F64 = torch.float64
# enumerated sums of at most 2^18 terms of size below 100, weighted by probabilities: 1e-16 * 100 * sqrt(2^18) < 1e-11
EXACT = {"rtol": 0, "atol": 1e-11}
VISIBLE = 1e-3  # a wrong formula is off by more than this: eight orders above the tolerance


def seeded(seed: int = 20) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int, seed: int = 1, within: float = 0.95) -> torch.Tensor:
    return within * (2 * torch.rand(shape, generator=seeded(seed), dtype=F64) - 1)


def configurations(n: int) -> torch.Tensor:
    """All of {-1, +1}^n, (2^n, n)."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=F64)


def probabilities(mean: torch.Tensor) -> torch.Tensor:
    """prod (1 + w mean) / 2 over all configurations of independent signs of these means, (2^n,)."""
    return ((1 + configurations(mean.numel()) * mean.flatten()) / 2).prod(1)


def law_of(mean: torch.Tensor) -> Bernoulli:
    return Bernoulli(torch.atanh(mean))


def signal(phi: torch.Tensor) -> Gaussian:
    """Independent signs of means phi, as a signal."""
    return Gaussian(phi, 1 - phi.square())


def moments(contract, theta: torch.Tensor, x) -> Gaussian:
    """What the code says: the pre-activations of a law of means theta."""
    return detached(Moments()(law_of(theta), contract, x, seeded(), None))


def detached(h) -> Gaussian:
    assert isinstance(h, Gaussian)
    return Gaussian(h.mean.detach(), h.variance.detach())


def weighted(values: torch.Tensor, p: torch.Tensor) -> Gaussian:
    """Mean and variance over dimension 0 under probabilities p."""
    mean = torch.tensordot(p, values, dims=1)
    return Gaussian(mean, torch.tensordot(p, (values - mean).square(), dims=1))


def assert_same(got: Gaussian, expected: Gaussian) -> None:
    torch.testing.assert_close(got.mean, expected.mean, **EXACT)
    torch.testing.assert_close(got.variance.expand_as(expected.variance), expected.variance, **EXACT)


# ------------------------------------------------------------------------------------ exact moments by enumeration


def dense_exact(theta: torch.Tensor, inputs: torch.Tensor, p_inputs: torch.Tensor | None = None) -> Gaussian:
    """theta (O, I); inputs (N, I), one example each, or, given probabilities, the N values of one random input."""
    columns = []
    for row in theta:
        sums = configurations(len(row)) @ inputs.T  # (2^I, N)
        p = probabilities(row)
        if p_inputs is None:
            columns.append(weighted(sums, p))
        else:
            columns.append(weighted(sums.reshape(-1, 1), torch.outer(p, p_inputs).flatten()))
    return Gaussian(torch.stack([c.mean for c in columns], 1), torch.stack([c.variance for c in columns], 1))


def filters(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All binary filters of one output's shape, (2^D, c, h, w), and their probabilities."""
    return configurations(theta.numel()).view(-1, *theta.shape), probabilities(theta)


def convolved(contract: Convolution, o: int, outputs: int, x: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """Every filter of the bank at output o's group: (N, 2^D, H', W')."""
    first = o // (outputs // contract.groups) * bank.shape[1]
    own = x[:, first : first + bank.shape[1]]
    return F.conv2d(own, bank, stride=contract.stride, padding=contract.padding)


def convolution_exact(contract: Convolution, theta: torch.Tensor, x: torch.Tensor) -> Gaussian:
    """theta (O, c, h, w), fixed images x (N, C, H, W)."""
    outputs = []
    for o, mean in enumerate(theta):
        bank, p = filters(mean)
        outputs.append(weighted(convolved(contract, o, len(theta), x, bank).movedim(1, 0), p))
    return Gaussian(torch.stack([c.mean for c in outputs], 1), torch.stack([c.variance for c in outputs], 1))


def convolution_exact_of_random_images(contract: Convolution, theta: torch.Tensor, phi: torch.Tensor) -> Gaussian:
    """theta (O, c, h, w) and independent signs of means phi (C, H, W): all filters times all images of the group."""
    outputs = []
    for o, mean in enumerate(theta):
        bank, p = filters(mean)
        first = o // (len(theta) // contract.groups) * mean.shape[0]
        own = phi[first : first + mean.shape[0]]
        images = configurations(own.numel()).view(-1, *own.shape)
        sums = F.conv2d(images, bank, stride=contract.stride, padding=contract.padding)
        outputs.append(weighted(sums.flatten(0, 1), torch.outer(probabilities(own), p).flatten()))
    return Gaussian(torch.stack([c.mean for c in outputs])[None], torch.stack([c.variance for c in outputs])[None])


CONVOLUTIONS = [  # contract, outputs, channels, kernel, image: at most 2^9 images and 2^9 filters a group
    (Convolution(), 2, 1, (2, 2), (3, 3)),
    (Convolution(padding=1), 2, 1, (2, 2), (3, 3)),
    (Convolution(padding=1), 2, 1, (3, 3), (3, 3)),
    (Convolution(stride=2, padding=1), 3, 2, (2, 2), (2, 2)),
    (Convolution(padding=1, groups=2), 4, 2, (2, 3), (3, 2)),
    (Convolution(stride=2, padding=2, groups=2), 2, 4, (2, 1), (2, 2)),
]
EVERY_CONVOLUTION = pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: repr(c[0]) + str(c[3]))


def means_of(case) -> tuple[Convolution, torch.Tensor, torch.Tensor]:
    """(contract, theta, phi) of a case."""
    contract, outputs, channels, kernel, image = case
    return contract, uniform(outputs, channels // contract.groups, *kernel), uniform(channels, *image, seed=2)


# ------------------------------------------------------------------------------------------------------------------- P1


@pytest.mark.parametrize("d", [1, 2, 5, 10])
def test_moments_of_fixed_inputs_are_those_of_all_binary_weights(d):
    theta, x = uniform(3, d), torch.randn(4, d, generator=seeded(), dtype=F64)
    assert_same(moments(Dense(), theta, x), dense_exact(theta, x))


@pytest.mark.parametrize("d", [1, 2, 5, 9])
def test_moments_of_random_signs_are_those_of_all_weights_times_all_inputs(d):
    theta, phi = uniform(3, d), uniform(d, seed=2)
    exact = dense_exact(theta, configurations(d), probabilities(phi))
    assert_same(moments(Dense(), theta, signal(phi[None])), exact)


@pytest.mark.parametrize("d", [1, 4, 10])
def test_declaring_that_inputs_are_signs_changes_no_moment(d):
    theta, x = uniform(3, d), sign(uniform(4, d, seed=2))
    assert_same(moments(Dense(signs=True), theta, x), dense_exact(theta, x))
    phi = uniform(d, seed=3)
    random = dense_exact(theta, configurations(d), probabilities(phi))
    assert_same(moments(Dense(signs=True), theta, signal(phi[None])), random)


def test_moments_of_gaussian_inputs_are_those_of_quadrature():
    # inputs of any variance: 3-point Gauss-Hermite nodes are exact for the second moment of each of 3 inputs
    theta, mean, variance = uniform(2, 3), torch.tensor([0.5, -2.0, 3.0], dtype=F64), torch.tensor([0.1, 4.0, 0.0])
    variance = variance.to(F64)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(3))
    grid = torch.cartesian_prod(nodes, nodes, nodes)
    p = torch.cartesian_prod(*[weights / weights.sum()] * 3).prod(1)
    exact = dense_exact(theta, mean + variance.sqrt() * grid, p)
    assert_same(moments(Dense(), theta, Gaussian(mean[None], variance[None])), exact)


@EVERY_CONVOLUTION
@pytest.mark.parametrize("kind", ["real", "signs", "declared signs"])
def test_moments_of_a_convolution_of_fixed_images_are_exact_up_to_the_border(case, kind):
    contract, theta, phi = means_of(case)
    x = torch.randn(2, *phi.shape, generator=seeded(), dtype=F64)
    x = x if kind == "real" else sign(x)
    exact = convolution_exact(contract, theta, x)
    declared = Convolution(contract.stride, contract.padding, contract.groups, signs=kind == "declared signs")
    assert_same(moments(declared, theta, x), exact)


@EVERY_CONVOLUTION
@pytest.mark.parametrize("declared", [False, True])
def test_moments_of_a_convolution_of_random_images_are_exact_up_to_the_border(case, declared):
    contract, theta, phi = means_of(case)
    exact = convolution_exact_of_random_images(contract, theta, phi)
    contract = Convolution(contract.stride, contract.padding, contract.groups, signs=declared)
    assert_same(moments(contract, theta, signal(phi[None])), exact)


@EVERY_CONVOLUTION
def test_the_convolution_layer_is_its_contraction_under_moments(case):
    contract, theta, phi = means_of(case)
    law = law_of(theta)
    layer = BinaryConv2d(law, stride=contract.stride, padding=contract.padding, groups=contract.groups)
    reading = Reading(Moments(), PropagatedSign())
    images = sign(torch.randn(2, *phi.shape, generator=seeded(), dtype=F64))
    fixed, random = (layer(x, reading, seeded()) for x in (images, signal(phi[None])))
    assert_same(detached(fixed), convolution_exact(contract, theta, images))
    assert_same(detached(random), convolution_exact_of_random_images(contract, theta, phi))


@pytest.mark.parametrize("law_of_weights", [Point, Bernoulli, UnitGaussian], ids=lambda kind: kind.__name__)
def test_moments_of_every_independent_law_are_those_of_signs_of_its_means(law_of_weights):
    law = law_of_weights(uniform(3, 6))
    x, theta = torch.randn(4, 6, generator=seeded(), dtype=F64), law.mean().detach()
    assert_same(detached(Moments()(law, Dense(), x, seeded(), None)), dense_exact(theta, x))
    phi = uniform(6, seed=2)
    random = Moments()(law, Dense(), signal(phi[None]), seeded(), None)
    assert_same(detached(random), dense_exact(theta, configurations(6), probabilities(phi)))


def test_real_weights_carry_no_variance_of_their_own():
    law, x, phi = Real(3 * uniform(3, 6)), torch.randn(4, 6, generator=seeded(), dtype=F64), uniform(6, seed=2)
    weights = law.mean().detach()
    fixed = Moments()(law, Dense(), x, seeded(), None)
    assert isinstance(fixed, torch.Tensor) and torch.equal(fixed, x @ weights.T)
    random = Moments()(law, Dense(), signal(phi[None]), seeded(), None)
    exact = weighted(configurations(6) @ weights.T, probabilities(phi))
    assert_same(detached(random), Gaussian(exact.mean[None], exact.variance[None]))


def test_moments_are_those_of_sampled_weights_in_a_layer_too_large_to_enumerate():
    # n = 4000 draws of 3 x 8 x 3 x 3 weights: standard errors sqrt(v / n) of a mean, v sqrt(2 / n) of a variance
    # (kurtosis of a sum of signs is below the normal's); 5.5 of them for the maximum over 2 x 3 x 3 x 3 outputs
    contract, theta, n = Convolution(stride=2, padding=1, groups=2), uniform(4, 4, 3, 3), 4000
    x = torch.randn(2, 8, 5, 5, generator=seeded(), dtype=F64)
    law, rng = law_of(theta), seeded(4)
    outputs = torch.stack([contract(x, law.values(law.latent(law.noise(rng)))) for _ in range(n)]).detach()
    h = moments(contract, theta, x)
    assert ((outputs.mean(0) - h.mean).abs() < 5.5 * (h.variance / n).sqrt()).all()
    assert ((outputs.var(0) - h.variance).abs() < 5.5 * h.variance * math.sqrt(2 / n)).all()


# A wrong variance each: what the paper's text misprints and what reproductions have run. (contract, theta, x or phi)
FIXED_SLIPS = {
    "sum of theta^2 h^2": lambda c, theta, h: c(h.square(), theta.square()),
    "sum of (1 - theta) h^2": lambda c, theta, h: c(h.square(), 1 - theta),
    "a scalar number of taps": lambda c, theta, h: theta[0].numel() - c(h.square(), theta.square()),
    "padded taps counted as -1": lambda c, theta, h: Convolution(c.stride, 0, c.groups)(
        F.pad(h, [c.padding] * 4, value=-1.0).square(), 1 - theta.square()
    ),
}
RANDOM_SLIPS = {
    "inputs treated as fixed at their means": lambda c, theta, phi: c(phi.square(), 1 - theta.square()),
    "a scalar number of taps": lambda c, theta, phi: theta[0].numel() - c(phi.square(), theta.square()),
    "1 - f(2 phi^2 - 1, 2 theta^2 - 1)": lambda c, theta, phi: 1 - c(2 * phi.square() - 1, 2 * theta.square() - 1),
    "q in [0, 1] in place of its mean 2 q - 1": lambda c, theta, phi: (
        c(torch.ones_like(phi), torch.ones_like(theta)) - c(((1 + phi) / 2).square(), theta.square())
    ),
}
BORDERED = means_of(CONVOLUTIONS[2])


@pytest.mark.parametrize("slip", FIXED_SLIPS)
def test_each_known_wrong_variance_of_fixed_signs_is_told_from_the_right_one(slip):
    contract, theta, phi = BORDERED
    h = sign(phi[None])
    wrong, exact = FIXED_SLIPS[slip](contract, theta, h), convolution_exact(contract, theta, h).variance
    assert (wrong - exact).abs().max() > VISIBLE
    torch.testing.assert_close(moments(contract, theta, h).variance, exact, **EXACT)


@pytest.mark.parametrize("slip", RANDOM_SLIPS)
def test_each_known_wrong_variance_of_random_signs_is_told_from_the_right_one(slip):
    contract, theta, phi = BORDERED
    exact = convolution_exact_of_random_images(contract, theta, phi).variance
    wrong = RANDOM_SLIPS[slip](contract, theta, phi[None])
    assert (wrong - exact).abs().max() > VISIBLE
    torch.testing.assert_close(moments(contract, theta, signal(phi[None])).variance, exact, **EXACT)


def test_signs_of_a_product_are_plus_one_with_probability_one_plus_theta_phi_over_two():
    # The Poisson-binomial parameter: (1 + theta phi) / 2 of each tap; the printed 2 theta phi - 1 is no probability.
    theta, phi = uniform(6), uniform(6, seed=2)
    products = (configurations(6)[:, None] * configurations(6)[None]).reshape(-1, 6)
    p = torch.outer(probabilities(theta), probabilities(phi)).flatten()
    plus = p @ (products > 0).to(F64)
    torch.testing.assert_close(plus, (1 + theta * phi) / 2, **EXACT)
    assert (2 * theta * phi - 1).min() < 0
    assert (plus - (2 * theta * phi - 1)).abs().max() > VISIBLE


def test_every_border_position_has_the_variance_of_its_own_taps():
    # theta = 0, random fair signs: the variance is the number of valid taps, nine inside and four at a corner
    h = moments(Convolution(padding=1), torch.zeros(1, 1, 3, 3, dtype=F64), signal(torch.zeros(1, 1, 4, 4, dtype=F64)))
    assert h.variance[0, 0].tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]


def test_units_of_one_example_are_uncorrelated_but_positions_of_a_convolution_are_not():
    # What the independent entries of a Gaussian leave out: Cov(a_p, a_q) = sum over shared filter taps of
    # (1 - theta^2) h_p h_q, which is 0 between the units of a dense layer and the channels of a convolution.
    theta, h = uniform(1, 1, 2, 2), sign(uniform(1, 1, 3, 3, seed=2))
    bank, p = filters(theta[0])
    a = convolved(Convolution(), 0, 1, h, bank)[0].flatten(1)  # (16, 4 positions)
    a = a - p @ a
    covariance = a.T @ (p[:, None] * a)
    patches = F.unfold(h, 2)[0]  # (4 taps, 4 positions)
    torch.testing.assert_close(covariance, patches.T @ ((1 - theta.square()).flatten()[:, None] * patches), **EXACT)
    assert (covariance - torch.diag(torch.diag(covariance))).abs().max() > 0.1
    torch.testing.assert_close(torch.diag(covariance), moments(Convolution(), theta, h).variance.flatten(), **EXACT)


def test_dependent_weights_are_refused_by_name_with_a_way_out():
    class Shared(Point):
        independent = False

    law = Shared(uniform(2, 3))
    with pytest.raises(UnsupportedReading, match="Shared") as refusal:
        Moments()(law, Dense(), uniform(1, 3), seeded(), None)
    assert "Moments" in str(refusal.value) and "independent" in str(refusal.value)


def test_moments_draw_nothing():
    rng = seeded()
    before = rng.get_state()
    Moments()(law_of(uniform(2, 3)), Dense(), uniform(1, 3), rng, None)
    Moments()(law_of(uniform(2, 3)), Dense(), signal(uniform(1, 3)), rng, None)
    PropagatedSign()(signal(uniform(1, 3)), rng)
    assert torch.equal(rng.get_state(), before)


# ------------------------------------------------------------------------------------------------------------------- P2


def poisson_binomial(mean: np.ndarray) -> dict[int, float]:
    """P(sum of independent signs of these means = value), exact by convolution."""
    p = np.ones(1)
    for m in mean:
        p = np.convolve(p, [(1 - m) / 2, (1 + m) / 2])
    return {2 * k - len(mean): float(p[k]) for k in range(len(p))}


def probability_plus(products: torch.Tensor) -> float:
    """The code's q for a sum of signs with these means: the layer of weights `products` on inputs +1."""
    h = moments(Dense(), products[None], torch.ones(1, len(products), dtype=F64))
    propagated = PropagatedSign()(h, seeded())
    assert isinstance(propagated, Gaussian)
    return (1 + propagated.mean.item()) / 2


def tossed(distribution: dict[int, float]) -> float:
    """P(a > 0) + P(a = 0) / 2: what a continuous approximation can aim at."""
    return sum(p for a, p in distribution.items() if a > 0) + distribution.get(0, 0.0) / 2


def worst_error(d: int, trials: int = 40) -> float:
    drawn = uniform(trials, d, seed=d)
    return max(abs(probability_plus(m) - tossed(poisson_binomial(m.numpy()))) for m in drawn)


def test_the_probability_of_a_plus_is_within_the_berry_esseen_bound_of_enumeration():
    # |P(a <= t) - Phi| <= 0.56 sum E|w - theta|^3 / (sum 1 - theta^2)^(3/2) (Shevtsova 2010), at odd D, where a != 0;
    # for a sign E|w - theta|^3 = (1 - theta^2)(1 + theta^2)
    for d in (3, 7, 15, 51):
        for mean in uniform(20, d, seed=d):
            variance = 1 - mean.square()
            bound = 0.56 * (variance * (1 + mean.square())).sum() / variance.sum() ** 1.5
            assert abs(probability_plus(mean) - tossed(poisson_binomial(mean.numpy()))) <= bound.item()


def test_the_error_of_the_normal_approximation_falls_as_the_layer_widens():
    # the bound above falls as 1 / sqrt(D); sums of signs are lattice variables, at odd D in the middle of a gap
    errors = [worst_error(d) for d in (3, 11, 41, 161)]
    assert all(later < earlier / 1.5 for earlier, later in itertools.pairwise(errors)), errors


def test_the_normal_approximation_is_visibly_off_for_three_weights():
    # theta = 0.8 each: P(a > 0) = 0.9^3 + 3 * 0.9^2 * 0.1 = 0.972, Phi(2.4 / sqrt(1.08)) = 0.9895
    mean = torch.full((3,), 0.8, dtype=F64)
    assert tossed(poisson_binomial(mean.numpy())) == pytest.approx(0.972, abs=1e-12)
    # the floor under the variance moves the argument by less than 1e-6
    assert probability_plus(mean) == pytest.approx(stats.norm.cdf(2.4 / math.sqrt(1.08)), abs=1e-6)
    assert probability_plus(mean) - 0.972 > 0.015


@pytest.mark.parametrize("d", [1, 2, 3, 8, 9])
def test_pre_activations_take_values_of_the_parity_of_d_only(d):
    law, rng = law_of(torch.zeros(200, d, dtype=F64)), seeded()
    h = Dense()(torch.ones(1, d, dtype=F64), law.values(law.latent(law.noise(rng))))
    assert ((h.long() - d) % 2 == 0).all()
    assert (h == 0).any() == (d % 2 == 0)


@pytest.mark.parametrize("d", [2, 4, 8])
def test_an_even_layer_has_mass_at_zero_which_the_sampled_network_gives_to_plus_and_the_moments_halve(d):
    # theta = 0: P(a = 0) = C(D, D/2) / 2^D. sign(0) = +1, so a drawn network says +1 with 1/2 + P(a = 0) / 2, while
    # P(normal > 0) = 1/2 splits that mass evenly. The difference is P(a = 0) / 2: 25 % at D = 2, 14 % at D = 8.
    mass = math.comb(d, d // 2) / 2**d
    all_weights = configurations(d)
    drawn = (sign(all_weights.sum(1)) > 0).to(F64).mean().item()
    assert drawn == 0.5 + mass / 2
    assert probability_plus(torch.zeros(d, dtype=F64)) == 0.5
    assert drawn - 0.5 == pytest.approx(tossed(poisson_binomial(np.zeros(d))) - 0.5 + mass / 2)


# ------------------------------------------------------------------------------------------------------------------- P3


def certain_laws() -> list[WeightLaw]:
    """Laws that are sure of every weight: theta = +-1 exactly."""
    latent = sign(uniform(5, 9))
    return [Point(latent.clone()), Bernoulli(400 * latent)]


@pytest.mark.parametrize("law", certain_laws(), ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_certain_layer_on_fixed_inputs_is_the_deterministic_layer_bit_for_bit(law, dtype):
    law = law.to(dtype)
    x = torch.randn(64, 9, generator=seeded(), dtype=dtype)
    h = Moments()(law, Dense(), x, seeded(), None)
    deterministic = Fixed({law: law.mode()})(law, Dense(), x, seeded(), None)
    assert torch.equal(h.mean, deterministic)
    assert torch.count_nonzero(h.variance) == 0
    assert torch.equal(h.sample(seeded()), deterministic)


@pytest.mark.parametrize("law", certain_laws(), ids=lambda law: type(law).__name__)
def test_signs_of_a_certain_layer_of_odd_width_are_the_deterministic_signs(law):
    # |a| >= 1 against a deviation of at most the floor's 1e-3: q is 1 or 0 to 1e-200000, so no noise can turn a sign
    x = sign(uniform(200, 9, seed=2))
    h = Moments()(law, Dense(signs=True), x, seeded(), None)
    expected = sign(x @ law.mode().T)
    assert torch.equal(StochasticSign()(h, seeded()), expected)
    propagated = PropagatedSign()(h, seeded())
    assert torch.equal(propagated.mean, expected)
    assert torch.count_nonzero(propagated.variance) == 0


def test_a_certain_convolution_on_random_signs_keeps_the_variance_of_its_inputs_only():
    contract, theta, phi = BORDERED
    law = Point(sign(theta))
    h = Moments()(law, contract, signal(phi[None]), seeded(), None)
    bare = contract(1 - phi.square()[None], torch.ones_like(theta))
    torch.testing.assert_close(h.variance, bare, **EXACT)
    assert h.variance.min() > 0.1


# ------------------------------------------------------------------------------------------------------------------- P7


def test_sampled_weights_and_sampled_pre_activations_have_equal_moments():
    theta, x, n = uniform(3, 8), torch.randn(4, 8, generator=seeded(), dtype=F64), 40_000
    h, exact = moments(Dense(), theta, x), dense_exact(theta, x)
    samples = Gaussian(h.mean.expand(n, 4, 3), h.variance.expand(n, 4, 3)).sample(seeded())
    # standard errors of n normals: sqrt(v / n) and v sqrt(2 / n)
    assert ((samples.mean(0) - exact.mean).abs() < 5 * (exact.variance / n).sqrt()).all()
    assert ((samples.var(0) - exact.variance).abs() < 5 * exact.variance * math.sqrt(2 / n)).all()


def quadratic(a: torch.Tensor) -> torch.Tensor:
    """A quadratic with cross terms between the units of one example; a: (..., 3)."""
    matrix = torch.tensor([[2.0, 0.7, -0.4], [0.7, 1.0, 0.9], [-0.4, 0.9, 3.0]], dtype=F64)
    return torch.einsum("...i,ij,...j->...", a, matrix, a) / 2 + a.sum(-1)


def enumerated_gradient(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """d/d theta of E[quadratic(W x)] over all 2^(3 I) binary weights; x: (I,)."""
    theta = theta.clone().requires_grad_()
    weights = configurations(theta.numel())
    p = ((1 + weights * theta.flatten()) / 2).prod(1)
    (p @ quadratic(weights.view(-1, *theta.shape) @ x)).backward()
    return theta.grad


def test_sampling_pre_activations_gives_the_enumerated_gradient_of_an_expected_quadratic():
    theta, x, n, blocks = uniform(3, 4), torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=F64), 2000, 40
    exact = enumerated_gradient(theta, x)
    law, rng, estimates = law_of(theta), seeded(), []
    for _ in range(blocks):
        h = Moments()(law, Dense(), x.expand(n, 4), rng, None)
        (natural,) = torch.autograd.grad(quadratic(h.sample(rng)).mean(), law.coordinates()[0].parameter)
        estimates.append(natural / (1 - theta.square()))  # d theta / d lambda = 1 - theta^2
    blocks_of = torch.stack(estimates)
    error = blocks_of.std(0) / math.sqrt(blocks)
    # the mean of 40 block means: five standard errors, themselves known to 1 / sqrt(2 * 39) = 11 %
    assert ((blocks_of.mean(0) - exact).abs() < 5 * error).all()
    assert (error < 0.02 * exact.abs().max()).all()  # tight enough to see a wrong gradient
    # the variance's share of the gradient, which a pass of means alone misses, is far outside
    through_means = theta.clone().requires_grad_()
    quadratic(through_means @ x).backward()
    assert ((through_means.grad - exact).abs() > 10 * error).any()


def test_the_expected_quadratic_of_the_moments_has_the_enumerated_gradient():
    # E of a quadratic needs means, variances and the covariances between units, which are 0: exact
    theta, x = uniform(3, 4), torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=F64)
    law = law_of(theta)
    h = Moments()(law, Dense(), x[None], seeded(), None)
    diagonal = torch.tensor([2.0, 1.0, 3.0], dtype=F64)
    (quadratic(h.mean).sum() + (diagonal * h.variance).sum() / 2).backward()
    got = law.coordinates()[0].parameter.grad / (1 - theta.square())
    torch.testing.assert_close(got, enumerated_gradient(theta, x), **EXACT)


# ------------------------------------------------------------------------------------------------------------------- P8


def test_the_probability_of_a_plus_has_a_gradient_where_the_sign_has_none():
    # d q / d theta_i = phi(z) (x_i / s + mean theta_i x_i^2 / s^3), z = mean / s, at every theta
    theta, x = uniform(1, 6), torch.randn(1, 6, generator=seeded(), dtype=F64)
    law = law_of(theta)
    h = Moments()(law, Dense(), x, seeded(), None)
    propagated = PropagatedSign()(h, seeded())
    ((1 + propagated.mean) / 2).sum().backward()
    got = law.coordinates()[0].parameter.grad / (1 - theta.square())
    mean, s = h.mean.item(), h.variance.sqrt().item()
    expected = stats.norm.pdf(mean / s) * (x / s + mean * theta * x.square() / s**3)
    # the variance floor of 1e-6 on a variance above 1 moves each factor by less than 2e-6
    torch.testing.assert_close(got, expected, rtol=5e-6, atol=1e-8)
    assert got.abs().min() > 1e-4
    plain = sign(torch.atanh(theta)) @ x.T
    moved = sign(torch.atanh(theta) + 1e-4) @ x.T
    assert torch.equal(plain, moved)  # the deterministic layer does not move at all


def gaussians(log_variance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and logs of variances; in the log a finite difference stays in the domain at any variance."""
    mean = torch.tensor([[-2.0, -0.01, 0.0], [0.4, 1.0, 3.0]], dtype=F64)
    return mean.requires_grad_(), torch.full((2, 3), log_variance, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("log_variance", [-25.0, -14.0, -5.0, 0.0, 3.0])
@pytest.mark.parametrize("function", [sign_natural, log_positive], ids=lambda f: f.__name__)
def test_functions_of_the_sign_pass_gradcheck_down_to_variance_near_zero(function, log_variance):
    # e^-25 = 1e-11 is far below the floor of 1e-6. There a mean of 3 is 3000 deviations and a mean of -0.01 is 10: the
    # functions grow to 1e7 with slopes of 1e7, and a central difference of step 1e-7 keeps 1e7 * 1e-16 / 1e-7 = 1e-2.
    mean, logs = gaussians(log_variance)
    assert torch.autograd.gradcheck(
        lambda m, s: function(Gaussian(m, s.exp())), (mean, logs), eps=1e-7, atol=2e-2, rtol=1e-4
    )


@pytest.mark.parametrize("log_variance", [-25.0, -14.0, -5.0, 0.0, 3.0])
def test_propagated_signs_pass_gradcheck_down_to_variance_near_zero(log_variance):
    # slopes phi(z) / s <= 0.4e3 and third derivatives <= 1e9: a step of 1e-7 errs by 1e9 * 1e-14 / 6 + 1e-16 / 1e-7
    mean, logs = gaussians(log_variance)

    def both(m, s):
        out = PropagatedSign()(Gaussian(m, s.exp()), seeded())
        return out.mean, out.variance

    assert torch.autograd.gradcheck(both, (mean, logs), eps=1e-7, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("natural", [0.0, 1.0, 5.0, 12.0])
@pytest.mark.parametrize("contract", [Dense(), Convolution(padding=1)], ids=lambda c: type(c).__name__)
def test_moments_pass_gradcheck_in_law_and_input_up_to_saturated_weights(contract, natural):
    # at |lambda| = 12 the variance is 1.5e-10 and theta rounds to 1 - 7.5e-11
    shape, inputs = ((2, 3), (2, 3)) if isinstance(contract, Dense) else ((2, 1, 2, 2), (2, 1, 3, 2))
    parameter = (natural * sign(uniform(*shape)) + uniform(*shape, seed=3)).requires_grad_()
    mean, logs = uniform(*inputs, seed=4).requires_grad_(), uniform(*inputs, seed=5).requires_grad_()

    def fixed(lam, x):
        h = Moments()(functional(lam), contract, x, seeded(), None)
        return h.mean, h.variance

    def random(lam, m, s):
        h = Moments()(functional(lam), contract, Gaussian(m, s.exp()), seeded(), None)
        return h.mean, h.variance

    assert torch.autograd.gradcheck(fixed, (parameter, mean))
    assert torch.autograd.gradcheck(random, (parameter, mean, logs))


def functional(natural: torch.Tensor) -> Bernoulli:
    """A Bernoulli law that reads its natural parameter from a graph."""
    law = Bernoulli(natural.detach().clone())
    del law.natural
    law.natural = natural
    return law


@pytest.mark.parametrize("variance", [1e-5, 1e-3, 1.0])
def test_the_floor_under_the_variance_leaves_variances_above_it_alone(variance):
    # At 1e-6, a thousandth of what batch norm makes the deviation: a wider one would blur thresholds of sure layers.
    z = torch.tensor([-3.0, -0.5, 0.0, 1.0], dtype=F64)
    h = Gaussian(z * math.sqrt(variance), torch.full_like(z, variance))
    expected = 2 * torch.special.ndtr(z) - 1
    torch.testing.assert_close(PropagatedSign()(h, seeded()).mean, expected, rtol=1e-12, atol=1e-15)


def test_everything_is_finite_where_the_variance_is_zero_and_the_mean_too():
    mean, variance = torch.zeros(1, 4, dtype=F64), torch.zeros(1, 4, dtype=F64)
    mean[0, 1:] = torch.tensor([1.0, -1.0, 1e4])
    for value in (mean, variance):
        value.requires_grad_()
    h = Gaussian(mean, variance)
    propagated = PropagatedSign()(h, seeded())
    total = sign_natural(h).sum() + log_positive(h).sum() + propagated.mean.sum() + propagated.variance.sum()
    (total + StochasticSign()(h, seeded()).sum() + h.deviation().sum()).backward()
    for value in (total, mean.grad, variance.grad):
        assert value.isfinite().all()
