"""Facts that hold for every weight law: draws, mean, mode, pull-back, mirror, dtype, noise. One list of laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.laws import Bernoulli, Point, Real, initial_uniform

LAWS = [Point, Real, Bernoulli]  # each built from one parameter tensor
EVERY_LAW = pytest.mark.parametrize("law_of", LAWS, ids=lambda law: law.__name__)
BINARY_LAWS = pytest.mark.parametrize("law_of", [Point, Bernoulli], ids=lambda law: law.__name__)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])

PARAMETERS = torch.tensor([[-4.0, -1.2, -0.3], [0.2, 0.9, 3.0]], dtype=torch.float64)


def parameters_of(law) -> list[torch.Tensor]:
    return [coordinate.parameter for coordinate in law.coordinates()]


def draw(law, rng) -> torch.Tensor:
    return law.values(law.latent(law.noise(rng)))


@torch.no_grad()
def latent_at(law, parameter, value, noise) -> torch.Tensor:
    """The latent with `parameter` set to `value` (and left there)."""
    parameter.copy_(value)
    return law.latent(noise).clone()


@EVERY_LAW
def test_mean_of_draws_is_mean(law_of, rng):
    n = 40_000
    law = law_of(PARAMETERS.flatten().repeat(n, 1))  # n independent copies in one law
    error = (draw(law, rng).mean(0) - law.mean()[0]).abs()
    assert (error <= 5 / n**0.5).all()  # variance of a sign is at most 1; a point or real law is exact


@BINARY_LAWS
def test_binary_laws_draw_from_their_levels_only(law_of, rng):
    law = law_of(torch.cat([PARAMETERS, torch.zeros(200, 3, dtype=torch.float64)]))
    assert law.levels == (-1.0, 1.0)
    assert set(draw(law, rng).unique().tolist()) <= set(law.levels)
    assert set(law.mode().unique().tolist()) <= set(law.levels)


def test_the_real_law_has_no_levels_and_is_its_parameter(rng):
    law = Real(PARAMETERS)
    assert law.levels is None
    for weights in (draw(law, rng), law.mean(), law.mode()):
        assert torch.equal(weights, PARAMETERS)


@BINARY_LAWS
def test_mode_of_a_zero_parameter_is_plus_one(law_of):
    law = law_of(torch.tensor([0.0, -0.0]))
    assert law.mode().tolist() == [1.0, 1.0]


@BINARY_LAWS
def test_values_at_a_zero_latent_are_plus_one(law_of):
    assert law_of(torch.ones(2)).values(torch.tensor([0.0, -0.0])).tolist() == [1.0, 1.0]


@BINARY_LAWS
def test_mode_is_the_sign_of_the_mean(law_of):
    law = law_of(PARAMETERS)
    assert torch.equal(law.mode(), torch.sign(law.mean()))


@EVERY_LAW
def test_pull_back_is_the_adjoint_of_the_latents_derivative(law_of, rng):
    law = law_of(PARAMETERS.clone())
    noise = law.noise(rng)
    upstream = torch.randn(law.shape, generator=rng, dtype=torch.float64)
    pulled = law.pull_back(noise, upstream)
    h = 1e-5
    for parameter, gradient in zip(parameters_of(law), pulled, strict=True):
        direction = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        start = parameter.detach().clone()
        above = latent_at(law, parameter, start + h * direction, noise)
        below = latent_at(law, parameter, start - h * direction, noise)
        latent_at(law, parameter, start, noise)
        # Central difference: rounding |z| eps / h = 4 * 2e-16 / 1e-5 per entry, six entries.
        expected = (upstream * (above - below) / (2 * h)).sum()
        torch.testing.assert_close((gradient * direction).sum(), expected, rtol=0, atol=1e-8)


@EVERY_LAW
def test_pull_back_gives_one_gradient_per_coordinate_in_its_shape(law_of, rng):
    law = law_of(PARAMETERS)
    pulled = law.pull_back(law.noise(rng), torch.ones(law.shape, dtype=torch.float64))
    assert [g.shape for g in pulled] == [p.shape for p in parameters_of(law)]


@EVERY_LAW
def test_the_law_of_the_opposite_parameter_mirrors_the_law(law_of, rng):
    law, mirrored = law_of(PARAMETERS), law_of(-PARAMETERS)
    noise = law.noise(rng)
    opposite = None if noise is None else -noise  # equally likely: the noise of every law here is symmetric
    assert torch.equal(mirrored.mean(), -law.mean())
    assert torch.equal(mirrored.mode(), -law.mode())
    assert torch.equal(mirrored.values(mirrored.latent(opposite)), -law.values(law.latent(noise)))


@EVERY_LAW
@DTYPES
def test_laws_keep_the_dtype_device_and_shape_of_their_parameters(law_of, dtype, rng):
    law = law_of(PARAMETERS.to(dtype))
    noise = law.noise(rng)
    latent = law.latent(noise)
    assert law.shape == PARAMETERS.shape
    tensors = [latent, law.values(latent), law.mean(), law.mode(), *law.pull_back(noise, torch.ones_like(latent))]
    for result in tensors + ([] if noise is None else [noise]):
        assert (result.dtype, result.device, result.shape) == (dtype, PARAMETERS.device, PARAMETERS.shape)


@EVERY_LAW
def test_a_law_moved_to_double_draws_in_double_and_moves_its_anchor(law_of, rng):
    law = law_of(PARAMETERS.float()).double()
    assert draw(law, rng).dtype == torch.float64
    for coordinate in law.coordinates():
        assert coordinate.parameter.dtype == torch.float64
        assert coordinate.anchor is None or coordinate.anchor.dtype == torch.float64


@EVERY_LAW
def test_noise_comes_only_from_the_passed_generator(law_of, rng):
    law = law_of(PARAMETERS)
    unrelated = torch.get_rng_state()
    state = rng.get_state()
    first = draw(law, rng)
    rng.set_state(state)
    assert torch.equal(draw(law, rng), first)
    assert torch.equal(torch.get_rng_state(), unrelated)


def test_bernoulli_draws_follow_one_another_in_the_stream(rng):
    law = Bernoulli(torch.zeros(64))
    assert not torch.equal(draw(law, rng), draw(law, rng))  # equal with probability 2^-64


@pytest.mark.parametrize("law_of", [Point, Real], ids=lambda law: law.__name__)
def test_laws_without_noise_leave_the_generator_where_it_was(law_of, rng):
    law, before = law_of(PARAMETERS), rng.get_state()
    assert law.noise(rng) is None
    assert torch.equal(rng.get_state(), before)


@EVERY_LAW
def test_every_float_parameter_of_a_law_is_one_of_its_coordinates(law_of):
    law = law_of(PARAMETERS)
    assert {id(p) for p in law.parameters()} == {id(p) for p in parameters_of(law)}


@EVERY_LAW
def test_state_dict_restores_the_law(law_of, rng):
    law, other = law_of(PARAMETERS), law_of(torch.zeros_like(PARAMETERS))
    other.load_state_dict(law.state_dict())
    assert torch.equal(other.mean(), law.mean())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.floats(-60, 60), min_size=1, max_size=12), st.integers(0, 2**31), st.sampled_from(LAWS))
def test_draws_means_and_modes_are_finite_and_within_the_levels(values, seed, law_of):
    law = law_of(torch.tensor(values, dtype=torch.float64))
    weights = draw(law, torch.Generator().manual_seed(seed))
    assert torch.isfinite(law.latent(law.noise(torch.Generator().manual_seed(seed)))).all()
    if law.levels is not None:
        assert set(weights.tolist()) <= set(law.levels)
        assert (law.mean().abs() <= 1).all()
        assert (law.mean() * law.mode() >= 0).all()


def test_initial_values_are_uniform_on_minus_one_to_one_and_the_generators_alone(rng):
    unrelated = torch.get_rng_state()
    values = initial_uniform(torch.Size([100, 200]), rng)
    assert (values.shape, values.dtype) == ((100, 200), torch.float32)
    assert values.abs().max() <= 1
    quantiles = torch.sort(values.flatten()).values
    expected = torch.linspace(-1, 1, values.numel())
    assert (quantiles - expected).abs().max() / 2 < 1.95 / values.numel() ** 0.5  # Kolmogorov, one seed in a thousand
    assert torch.equal(torch.get_rng_state(), unrelated)
