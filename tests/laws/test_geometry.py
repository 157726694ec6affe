"""Laws of every geometry: project, retract, tangent directions; and what is particular to each."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.geometry import EUCLIDEAN, BernoulliFisher, Box, DampedBernoulliFisher, Euclidean

GEOMETRIES = [
    Euclidean(),
    Box(),
    Box(0.3),
    BernoulliFisher(),
    BernoulliFisher(6.0),
    DampedBernoulliFisher(1e-10),
    DampedBernoulliFisher(0.5),
]
EVERY_GEOMETRY = pytest.mark.parametrize("geometry", GEOMETRIES, ids=repr)
PROJECTIONS = pytest.mark.parametrize("geometry", [Euclidean(), Box(), Box(0.3)], ids=repr)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])

lawful = settings(derandomize=True, deadline=None, max_examples=100)
numbers = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3)
anywhere = st.tuples(st.sampled_from(GEOMETRIES), numbers, numbers)


def bound(geometry) -> float:
    return getattr(geometry, "bound", math.inf)


def inside(geometry, *shape: int, rng: torch.Generator) -> torch.Tensor:
    """Random points strictly inside the set, at most 3/4 of the way to its boundary."""
    half = min(bound(geometry), 4.0)
    return 0.75 * half * (2 * torch.rand(*shape, generator=rng, dtype=torch.float64) - 1)


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- project and retract ------------------------------------------------------------------------------------------


@lawful
@given(anywhere)
def test_projecting_twice_is_projecting_once(case):
    geometry, point, _ = case
    once = geometry.project(tensor(point))
    assert torch.equal(geometry.project(once), once)


@lawful
@given(anywhere)
def test_a_projection_is_in_the_set_and_no_point_of_the_set_is_nearer(case):
    geometry, point, other = case
    projected = geometry.project(tensor(point))
    assert (projected.abs() <= bound(geometry)).all()
    rival = tensor(other).clamp(-bound(geometry), bound(geometry))
    assert ((projected - tensor(point)).norm() <= (rival - tensor(point)).norm()).item()


@lawful
@given(anywhere)
def test_retracting_is_projecting_the_sum(case):
    geometry, point, step = case
    point = geometry.project(tensor(point))
    assert torch.equal(geometry.retract(point, tensor(step)), geometry.project(point + tensor(step)))


@EVERY_GEOMETRY
@DTYPES
def test_retracting_by_zero_stays(geometry, dtype, rng):
    half = min(bound(geometry), 50.0)
    edge = torch.tensor([half, -half, 0.0], dtype=dtype)
    points = torch.cat([inside(geometry, 50, rng=rng).to(dtype), edge])
    retracted = geometry.retract(points, torch.zeros_like(points))
    assert retracted.dtype == dtype
    assert torch.equal(retracted, points)


@EVERY_GEOMETRY
def test_error_of_a_retraction_falls_as_the_square_of_the_step(geometry, rng):
    points = inside(geometry, 200, rng=rng)
    direction = torch.randn(200, generator=rng, dtype=torch.float64)
    errors = []
    for t in (1e-2, 1e-3, 1e-4):
        errors.append((geometry.retract(points, t * direction) - (points + t * direction)).abs().max().item())
    # Inside a flat set the error is zero once the step is shorter than the way to the boundary, 0.075 at least;
    # |direction| is below 4, so that already holds at the first t and t^2 is a generous bound.
    for t, error in zip((1e-2, 1e-3, 1e-4), errors, strict=True):
        assert error <= t**2


# --- tangent directions -------------------------------------------------------------------------------------------


@EVERY_GEOMETRY
def test_tangent_directions_are_linear_in_the_gradient(geometry, rng):
    points = inside(geometry, 100, rng=rng)
    g, h = torch.randn(2, 100, generator=rng, dtype=torch.float64)
    a, b = 0.7, -2.5
    parts = a * geometry.to_tangent(points, g) + b * geometry.to_tangent(points, h)
    # Three products and a sum, half an ulp each, of terms no larger than `scale`.
    scale = geometry.to_tangent(points, a * g.abs() - b * h.abs()).abs()
    assert ((geometry.to_tangent(points, a * g + b * h) - parts).abs() <= 8 * 2.2e-16 * scale).all()


@EVERY_GEOMETRY
def test_a_tangent_direction_ascends(geometry, rng):
    points = inside(geometry, 100, rng=rng)
    gradient = torch.randn(100, generator=rng, dtype=torch.float64)
    assert (geometry.to_tangent(points, gradient) * gradient > 0).all()


@PROJECTIONS
def test_tangent_projection_of_flat_geometries_is_the_identity_once_and_twice(geometry, rng):
    points = inside(geometry, 100, rng=rng)
    gradient = torch.randn(100, generator=rng, dtype=torch.float64)
    once = geometry.to_tangent(points, gradient)
    assert torch.equal(once, gradient)
    assert torch.equal(geometry.to_tangent(points, once), once)


@EVERY_GEOMETRY
@DTYPES
def test_geometries_act_element_by_element_and_keep_dtype(geometry, dtype, rng):
    points = inside(geometry, 4, 3, 2, rng=rng).to(dtype)
    gradient = torch.randn(4, 3, 2, generator=rng, dtype=dtype)
    for verb in (geometry.to_tangent, geometry.retract):
        whole = verb(points, gradient)
        assert whole.dtype == dtype
        alone = torch.stack([verb(p, g) for p, g in zip(points, gradient, strict=True)])
        # Vectorised and remainder loops of exp may round differently in the last bit.
        torch.testing.assert_close(whole, alone, rtol=8 * torch.finfo(dtype).eps, atol=0)


@EVERY_GEOMETRY
def test_geometries_are_odd(geometry, rng):
    points, gradient = inside(geometry, 50, rng=rng), torch.randn(50, generator=rng, dtype=torch.float64)
    for verb in (geometry.to_tangent, geometry.retract):
        assert torch.equal(verb(-points, -gradient), -verb(points, gradient))


def test_euclidean_never_moves_a_point(rng):
    points = 1e6 * torch.randn(50, generator=rng, dtype=torch.float64)
    assert torch.equal(EUCLIDEAN.project(points), points)


# --- Bernoulli Fisher ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", [BernoulliFisher(), BernoulliFisher(6.0)], ids=repr)
def test_bernoulli_fisher_is_the_derivative_of_natural_in_mean(geometry):
    natural = torch.linspace(-3, 3, 61, dtype=torch.float64)
    mean, h = np.tanh(natural.numpy()), 1e-6
    difference = (np.arctanh(mean + h) - np.arctanh(mean - h)) / (2 * h)
    # Truncation h^2/6 times the third derivative of artanh, below 2e7 at mu = tanh 3: 4e-6 of 101, relative 4e-8;
    # rounding of arctanh, eps / h times its condition: 2e-10 * 100 relative to 101 at most.
    np.testing.assert_allclose(
        geometry.to_tangent(natural, torch.ones(61, dtype=torch.float64)).numpy(), difference, 1e-7
    )


@DTYPES
def test_bernoulli_fisher_divides_by_sech_squared_far_beyond_the_saturation_of_tanh(dtype):
    natural = torch.tensor([-40.0, -20.0, -9.1, -1.0, 0.0, 0.5, 9.1, 30.0, 40.0], dtype=dtype)
    expected = [float(mpmath.cosh(x) ** 2) for x in natural.tolist()]
    tangent = BernoulliFisher().to_tangent(natural, torch.ones_like(natural))
    # The exponent 2|x| <= 80 is exact to 4 eps (2 + 2|x|); exp makes that relative.
    np.testing.assert_allclose(tangent.double().numpy(), expected, rtol=4 * torch.finfo(dtype).eps * 82)


@pytest.mark.parametrize("dtype, natural", [(torch.float32, 100.0), (torch.float64, 800.0)], ids=["float32", "float64"])
def test_bernoulli_fisher_of_a_vanished_gradient_is_zero_and_the_factor_is_capped(dtype, natural):
    point = torch.tensor([natural, -natural], dtype=dtype)
    assert torch.equal(BernoulliFisher().to_tangent(point, torch.zeros_like(point)), torch.zeros_like(point))
    capped = BernoulliFisher().to_tangent(point, torch.ones_like(point))
    assert torch.isfinite(capped).all()
    # The cap keeps clear of overflow by some small factor: its place is no law, its magnitude is.
    assert (capped >= torch.finfo(dtype).max / 4).all()


def damped(point: np.ndarray, gradient: np.ndarray, damping: float) -> np.ndarray:
    """The released code's quotient, by subtraction, in the precision of the point."""
    mean = np.tanh(point)
    return gradient / (1 - mean * mean + point.dtype.type(damping))


@pytest.mark.parametrize("damping", [1e-10, 1e-3, 0.5])
@DTYPES
def test_damped_bernoulli_fisher_is_the_literal_formula(damping, dtype, rng):
    point = torch.cat([torch.linspace(-3, 3, 61), torch.tensor([-1e6, -12.0, 12.0, 1e6])]).to(dtype)
    if dtype == torch.float64:
        point[point.abs() == 12] *= 2  # in float64 tanh reaches 1 from 19.1 on
    gradient = torch.randn(len(point), generator=rng, dtype=dtype)
    expected = damped(point.numpy(), gradient.numpy(), damping)
    # numpy's and torch's tanh may differ in the last bit: 2 eps of 1 - mu^2 >= 0.0099 (or of 0, where both are 1).
    tolerance = torch.finfo(dtype).eps * (4 + 4 / 0.0099)
    tangent = DampedBernoulliFisher(damping).to_tangent(point, gradient)
    np.testing.assert_allclose(tangent.numpy(), expected, rtol=tolerance)


def test_damped_bernoulli_fisher_in_float32_divides_saturated_entries_by_the_damping_alone():
    point = torch.tensor([9.1, -10.0, 1e6])
    tangent = DampedBernoulliFisher(1e-10).to_tangent(point, torch.ones(3))
    np.testing.assert_allclose(tangent.numpy(), 1e10, rtol=1e-6)


def test_damping_vanishes_into_the_exact_fisher_information():
    point, one = torch.linspace(-3, 3, 31, dtype=torch.float64), torch.ones(31, dtype=torch.float64)
    exact = BernoulliFisher().to_tangent(point, one)
    # Relative effect of 1e-10 on sech^2(3) = 0.0099: 1e-8.
    torch.testing.assert_close(DampedBernoulliFisher(1e-10).to_tangent(point, one), exact, rtol=2e-8, atol=0)


# --- impossible arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("build", [Box, BernoulliFisher], ids=lambda build: build.__name__)
def test_impossible_bounds_are_refused_by_name_and_value(build, value):
    with pytest.raises(ValueError, match=rf"bound.*{value}"):
        build(value)


@pytest.mark.parametrize("value", [0.0, -1e-3, float("nan")])
def test_impossible_damping_is_refused_by_name_and_value(value):
    with pytest.raises(ValueError, match=rf"damping.*{value}"):
        DampedBernoulliFisher(value)
