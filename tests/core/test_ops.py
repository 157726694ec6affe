"""Laws of signs, surrogates and special functions, against mpmath and independently written formulas."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from core.ops import (
    ClippedStraightThrough,
    FlooredRelaxedSign,
    Identity,
    RelaxedSign,
    StraightThrough,
    half_logit,
    log_sech2,
    logistic_noise,
    sign,
    surrogate_value,
)
from core.readings import SignActivation

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
TEMPERATURES = pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
SURROGATES = [
    Identity(),
    StraightThrough(),
    ClippedStraightThrough(0.7),
    RelaxedSign(0.3),
    FlooredRelaxedSign(0.3, 0.1),
]
EVERY_SURROGATE = pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)

lawful = settings(derandomize=True, deadline=None, max_examples=100)
doubles = st.lists(st.floats(allow_nan=False), min_size=1, max_size=20)


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype)


# --- sign ---------------------------------------------------------------------------------------------------------


@lawful
@given(doubles)
def test_sign_is_plus_one_from_zero_up_and_minus_one_below(values):
    expected = [1.0 if value >= 0 else -1.0 for value in values]  # -0.0 >= 0 holds: sign(-0) = +1
    assert sign(tensor(values)).tolist() == expected


@DTYPES
def test_sign_of_either_zero_is_plus_one_and_keeps_dtype(dtype):
    signs = sign(tensor([0.0, -0.0], dtype))
    assert signs.dtype == dtype
    assert signs.tolist() == [1.0, 1.0]


@lawful
@given(doubles)
def test_sign_is_odd_away_from_zero(values):
    z = tensor([value for value in values if value != 0])
    assert torch.equal(sign(-z), -sign(z))


@DTYPES
def test_sign_of_the_smallest_numbers_is_their_sign(dtype):
    tiny = torch.finfo(dtype).smallest_normal
    assert sign(tensor([tiny, -tiny], dtype)).tolist() == [1.0, -1.0]


# --- log sech^2 ---------------------------------------------------------------------------------------------------


def log_sech2_exactly(x: float) -> float:
    with mpmath.workdps(50):
        return float(-2 * mpmath.log(mpmath.cosh(mpmath.mpf(x))))


@DTYPES
def test_log_sech2_agrees_with_fifty_digits_over_the_whole_range(dtype):
    x = torch.cat([torch.linspace(-700, 700, 281), torch.tensor([0.0, 1e-30, 1e-8, 1e-3, 9.01, 9.02, 20.0])])
    x = x.to(dtype)
    expected = tensor([log_sech2_exactly(value) for value in x.tolist()])
    # Three terms no larger than 2 + 2|x| in all, each rounded once and summed by two more roundings: 4 half-ulps of it.
    tolerance = 4 * torch.finfo(dtype).eps * (2 + 2 * x.double().abs())
    assert ((log_sech2(x).double() - expected).abs() <= tolerance).all()


@lawful
@given(st.floats(min_value=-1e300, max_value=1e300))
def test_log_sech2_is_finite_even_and_never_above_zero(x):
    value = log_sech2(tensor([x]))
    assert torch.isfinite(value).all()
    assert torch.equal(value, log_sech2(tensor([-x])))
    assert value.item() <= 4 * np.finfo(np.float64).eps  # its maximum, 0 at x = 0, is a difference of terms near log 4


def test_log_sech2_keeps_what_subtraction_loses_in_float32():
    x = torch.tensor([9.1, 12.0, 40.0])
    assert (1 - torch.tanh(x) ** 2).tolist() == [0.0, 0.0, 0.0]
    expected = [4 * np.exp(-2 * float(value)) for value in x]  # 1 + e^(-2x) is 1 to 2e-8 from x = 9 on
    # exp turns the absolute error of its argument, 4 eps (2 + 2 x), into a relative one: 82 * 4 * 6e-8 at x = 40.
    np.testing.assert_allclose(log_sech2(x).exp().numpy(), expected, rtol=4e-5)


def test_log_sech2_passes_gradcheck():
    x = tensor([-30.0, -1.3, -0.2, 0.4, 2.0, 25.0]).requires_grad_()
    assert torch.autograd.gradcheck(log_sech2, (x,))


# --- logistic noise -----------------------------------------------------------------------------------------------


GRID_BITS = {torch.float32: 24, torch.float64: 53}  # torch.rand draws multiples of 2^-bits


@DTYPES
def test_half_logit_is_finite_and_increasing_at_the_ends_of_the_grid(dtype):
    step = 2.0 ** -GRID_BITS[dtype]
    delta = half_logit(tensor([0.0, 2.0**-24, step, 1 - step, 1 - 2.0**-24], dtype))
    assert delta.dtype == dtype
    assert torch.isfinite(delta).all()
    assert delta[0] < delta[2] <= delta[1] < delta[4] <= delta[3]


@DTYPES
def test_half_logit_of_zero_is_that_of_half_the_first_grid_step(dtype):
    bits = GRID_BITS[dtype] + 1
    expected = -0.5 * bits * np.log(2)  # log(1 - 2^-bits) is below an ulp
    assert half_logit(tensor([0.0], dtype)).item() == pytest.approx(expected, rel=4 * torch.finfo(dtype).eps)


@DTYPES
def test_half_logit_is_odd_about_one_half(dtype):
    bits = GRID_BITS[dtype]
    u = torch.arange(1, 2000).to(dtype) * 2.0**-bits
    u = torch.cat([u, torch.arange(1, 512).to(dtype) / 1024])  # 1 - u is exact for both
    value, mirrored = half_logit(u), half_logit(1 - u)
    torch.testing.assert_close(mirrored, -value, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)
    assert half_logit(tensor([0.5], dtype)).item() == 0.0


@lawful
@given(st.integers(min_value=1, max_value=2**24 - 1))
def test_half_logit_is_the_logistic_quantile(k):
    u = k * 2.0**-24
    with mpmath.workdps(40):
        expected = float(mpmath.log(mpmath.mpf(u) / (1 - mpmath.mpf(u))) / 2)
    # float64: two logarithms below 17, each rounded to half an ulp.
    assert half_logit(tensor([u])).item() == pytest.approx(expected, abs=8e-15)
    assert half_logit(tensor([u], torch.float32)).item() == pytest.approx(expected, abs=4e-6)


@DTYPES
def test_logistic_noise_has_the_logistic_distribution_of_scale_one_half(dtype):
    rng = torch.Generator().manual_seed(5)
    delta = logistic_noise(torch.empty(100, 200, dtype=dtype), rng)
    assert (delta.shape, delta.dtype) == ((100, 200), dtype)
    test = stats.kstest(delta.double().flatten().numpy(), stats.logistic(scale=0.5).cdf)
    assert test.statistic < 1.95 / np.sqrt(delta.numel())  # exceeded once in a thousand seeds by the true law


def test_logistic_noise_uses_one_uniform_per_entry_of_the_passed_generator_only():
    ours, plain = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    before = torch.get_rng_state()
    like = torch.empty(7, 33)
    delta = logistic_noise(like, ours)
    u = torch.rand(like.shape, generator=plain)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(ours.get_state(), plain.get_state())
    torch.testing.assert_close(delta, 0.5 * torch.log(u / (1 - u)), rtol=1e-5, atol=1e-6)  # float32 by the naive way


# --- surrogates: value and slope against numpy --------------------------------------------------------------------


LATENTS = np.array([-50.0, -3.0, -1.0, -0.7, -0.2, -0.0, 0.0, 0.1, 0.7, 0.9, 1.0, 4.0, 50.0])
STEP = np.where(LATENTS >= 0, 1.0, -1.0)


def test_identity_is_the_latent_with_slope_one():
    z = torch.from_numpy(LATENTS)
    assert torch.equal(Identity()(z), z)
    assert torch.equal(Identity().slope(z), torch.ones_like(z))


def test_straight_through_is_the_sign_with_slope_one():
    z = torch.from_numpy(LATENTS)
    assert np.array_equal(StraightThrough()(z).numpy(), STEP)
    assert torch.equal(StraightThrough().slope(z), torch.ones_like(z))


@pytest.mark.parametrize("window", [0.7, 1.0, 3.0])
def test_clipped_straight_through_has_slope_one_up_to_and_including_its_window(window):
    z = torch.from_numpy(LATENTS)
    surrogate = ClippedStraightThrough(window)
    assert np.array_equal(surrogate(z).numpy(), STEP)
    assert np.array_equal(surrogate.slope(z).numpy(), (np.abs(LATENTS) <= window).astype(np.float64))


def test_clipped_straight_through_at_window_one_has_the_slope_of_hardtanh():
    z = torch.linspace(-2, 2, 102, dtype=torch.float64).requires_grad_()  # even count: avoids the kinks at +-1
    torch.nn.functional.hardtanh(z).sum().backward()
    assert torch.equal(ClippedStraightThrough().slope(z.detach()), z.grad)


@TEMPERATURES
@DTYPES
def test_relaxed_sign_is_tanh_with_slope_sech_squared(temperature, dtype):
    z = torch.from_numpy(LATENTS).to(dtype)
    scaled = z.double().numpy() / temperature
    slope = [float(mpmath.sech(x) ** 2) / temperature for x in scaled.tolist()]
    surrogate = RelaxedSign(temperature)
    eps = torch.finfo(dtype).eps
    np.testing.assert_allclose(surrogate(z).double().numpy(), np.tanh(scaled), rtol=8 * eps)
    # The exponent -2|x| carries its rounding, 4 eps (2 + 2|x|), into a relative error of the slope; float32 underflows
    # at 1e-45, so an absolute floor of the smallest normal number is allowed.
    tolerance = 6 * eps * (2 + 2 * np.abs(scaled)) * np.array(slope) + torch.finfo(dtype).smallest_normal
    assert (np.abs(surrogate.slope(z).double().numpy() - slope) <= tolerance).all()


@TEMPERATURES
def test_slope_of_relaxed_sign_is_the_finite_difference_of_its_value(temperature):
    z = torch.linspace(-2, 2, 81, dtype=torch.float64)
    surrogate, h = RelaxedSign(temperature), 1e-5 * temperature
    difference = (surrogate(z + h) - surrogate(z - h)) / (2 * h)
    # Truncation h^2 max|f'''| / 6 = 3e-11 / T and rounding eps / h = 2e-11 / T.
    torch.testing.assert_close(surrogate.slope(z), difference, rtol=0, atol=2e-10 / temperature)


@lawful
@given(st.floats(-50, 50), st.floats(1e-10, 1.0))
def test_relaxed_sign_is_odd_its_slope_even_and_both_are_finite(z, temperature):
    surrogate = RelaxedSign(temperature)
    for dtype in (torch.float32, torch.float64):
        at, mirrored = tensor([z], dtype), tensor([-z], dtype)
        assert torch.equal(surrogate(mirrored), -surrogate(at))
        assert torch.equal(surrogate.slope(mirrored), surrogate.slope(at))
        assert surrogate(at).abs().item() <= 1
        assert 0 <= surrogate.slope(at).item() <= (1 + 1e-5) / temperature


def floored_slope(z: np.ndarray, temperature: float, floor: float) -> np.ndarray:
    """The released code's expression, literally, in z's precision."""
    kind = z.dtype.type
    w = np.tanh(z / kind(temperature))
    return (1 - w * w + kind(floor)) / kind(temperature)


@pytest.mark.parametrize("temperature, floor", [(1.0, 1e-10), (0.3, 0.1), (1e-2, 1e-4), (1e-10, 1e-10), (1e-8, 1e-10)])
@DTYPES
def test_floored_relaxed_sign_is_the_literal_formula(temperature, floor, dtype):
    z = torch.from_numpy(LATENTS).to(dtype)
    surrogate, eps = FlooredRelaxedSign(temperature, floor), torch.finfo(dtype).eps
    w = np.tanh(z.numpy() / z.numpy().dtype.type(temperature))
    np.testing.assert_allclose(surrogate(z).numpy(), w, rtol=4 * eps)
    # numpy's tanh and torch's may differ in their last bit, which 1 - w^2 doubles; saturated entries are +-1 in both.
    last_bit = np.where(np.abs(w) < 1, 4 * eps / temperature, 0)
    expected = floored_slope(z.numpy(), temperature, floor)
    assert (np.abs(surrogate.slope(z).numpy() - expected) <= 4 * eps * expected + last_bit).all()


def test_floored_slope_in_float32_at_temperature_1e_10_is_floor_over_temperature_off_zero():
    z = torch.tensor([-10.0, -1e-3, 1e-3, 10.0])
    for temperature, expected in [(1e-10, 1.0), (1e-8, 1e-2)]:
        slope = FlooredRelaxedSign(temperature, 1e-10).slope(z)
        np.testing.assert_allclose(slope.numpy(), np.full(4, expected), rtol=1e-6)
    assert FlooredRelaxedSign(1e-10, 1e-10).slope(torch.zeros(1)).item() == pytest.approx(1e10, rel=1e-6)


@EVERY_SURROGATE
@DTYPES
def test_surrogates_keep_shape_and_dtype(surrogate, dtype):
    z = torch.zeros(2, 3, 4, dtype=dtype)
    for result in (surrogate(z), surrogate.slope(z), surrogate_value(z, surrogate)):
        assert (result.shape, result.dtype) == (z.shape, dtype)


# --- surrogate_value and the sign activation ----------------------------------------------------------------------


@EVERY_SURROGATE
def test_surrogate_value_is_the_value_and_its_gradient_is_upstream_times_slope(surrogate):
    z = torch.from_numpy(LATENTS).clone().requires_grad_()
    upstream = torch.linspace(-2, 3, len(LATENTS), dtype=torch.float64)
    value = surrogate_value(z, surrogate)
    value.backward(upstream)
    assert torch.equal(value.detach(), surrogate(z.detach()))
    assert torch.equal(z.grad, upstream * surrogate.slope(z.detach()))


@pytest.mark.parametrize("surrogate", [Identity(), RelaxedSign(1.0), RelaxedSign(0.3)], ids=repr)
def test_honest_surrogates_pass_gradcheck(surrogate):
    z = torch.linspace(-1.5, 1.5, 12, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: surrogate_value(z, surrogate), (z,))


@pytest.mark.parametrize("surrogate", [StraightThrough(), ClippedStraightThrough(0.5), RelaxedSign(0.5)], ids=repr)
def test_sign_activation_is_an_exact_sign_with_the_surrogates_slope_and_draws_nothing(surrogate):
    rng = torch.Generator().manual_seed(0)
    before = rng.get_state()
    h = torch.from_numpy(LATENTS).clone().requires_grad_()
    upstream = torch.arange(1.0, len(LATENTS) + 1, dtype=torch.float64)
    value = SignActivation(surrogate)(h, rng)
    value.backward(upstream)
    assert np.array_equal(value.detach().numpy(), STEP)
    assert torch.equal(h.grad, upstream * surrogate.slope(h.detach()))
    assert torch.equal(rng.get_state(), before)


# --- impossible arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -0.5, float("nan")])
@pytest.mark.parametrize(
    "build, name",
    [
        (RelaxedSign, "temperature"),
        (ClippedStraightThrough, "window"),
        (lambda value: FlooredRelaxedSign(value, 1e-10), "temperature"),
    ],
    ids=["RelaxedSign", "ClippedStraightThrough", "FlooredRelaxedSign"],
)
def test_impossible_temperatures_and_windows_are_refused_by_name_and_value(build, name, value):
    with pytest.raises(ValueError, match=rf"{name} .*got {value}"):
        build(value)


def test_negative_slope_floor_is_refused_by_name_and_value():
    with pytest.raises(ValueError, match=r"slope_floor .*got -1.0"):
        FlooredRelaxedSign(1.0, -1.0)
