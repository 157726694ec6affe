"""Batch-norm statistics as values: exact merging, three phases, and the arithmetic that deployment repeats."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from core.interface import Reading
from core.layers import BatchNorm
from core.ops import StraightThrough
from core.readings import Draw, SignActivation
from core.seeds import generator
from core.statistics import Estimation, Evaluation, Statistics, Training

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]
NAME = "layers.1"
READING = Reading(Draw(StraightThrough()), SignActivation(StraightThrough()))
F64 = torch.float64


def normal(*shape: int, part: str = "h", dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(shape, generator=generator("statistics", part, *shape), dtype=dtype)


def norm_of(
    channels: int, *, affine: bool = False, eps: float = 1e-4, momentum: float = 0.15, dtype: torch.dtype = F64
) -> BatchNorm:
    norm = BatchNorm(channels, affine=affine, eps=eps, momentum=momentum).to(dtype)
    norm.name = NAME
    if affine:
        with torch.no_grad():
            norm.weight.copy_(normal(channels, part="gain"))
            norm.bias.copy_(normal(channels, part="bias"))
    return norm


def through(norm: BatchNorm, h: torch.Tensor, phase) -> torch.Tensor:
    return norm(h, READING.during(phase), generator("unused"))


def recorded(*batches: torch.Tensor) -> Statistics:
    statistics = Statistics()
    for batch in batches:
        statistics.record(NAME, batch)
    return statistics


# ---------------------------------------------------------------------------------------------------- merging


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    spatial=st.sampled_from([(), (3,), (2, 2)]),
    offset=st.floats(-1e3, 1e3),
    seed=st.integers(0, 2**31),
)
def test_merged_moments_are_the_moments_of_the_concatenation(sizes, spatial, offset, seed):
    rng = torch.Generator().manual_seed(seed)
    batches = [torch.randn((n, 3, *spatial), generator=rng, dtype=F64) + offset for n in sizes]
    everything = torch.cat(batches).movedim(1, 0).flatten(1)  # (C, samples)
    n = everything.shape[1]
    statistics = recorded(*batches)
    assert statistics.layers[NAME].count == n
    # values of size |offset| + 1 carry absolute rounding errors u (|offset| + 1); the mean keeps that size, squared
    # deviations lose at most 2 u (|offset| + 1) |deviation| + u^2 (...)^2 each: n * 1e-12 covers 1e3 ten times over
    torch.testing.assert_close(statistics.mean(NAME), everything.mean(1), rtol=0, atol=1e-15 * 10 * (abs(offset) + 1))
    squares = (everything - everything.mean(1, keepdim=True)).square().sum(1)
    torch.testing.assert_close(statistics.layers[NAME].squares, squares, rtol=1e-12, atol=1e-12 * n)
    torch.testing.assert_close(statistics.variance(NAME), squares / max(1, n - 1), rtol=1e-12, atol=2e-12)


@given(sizes=st.tuples(*[st.integers(1, 20)] * 3), seed=st.integers(0, 2**31))
def test_merging_does_not_depend_on_the_order_or_the_grouping(sizes, seed):
    rng = torch.Generator().manual_seed(seed)
    a, b, c = (recorded(torch.randn((n, 2), generator=rng, dtype=F64)).layers[NAME] for n in sizes)
    left, right, swapped = a.merged(b).merged(c), a.merged(b.merged(c)), c.merged(a).merged(b)
    for other in (right, swapped):
        assert left.count == other.count
        # sums of at most 60 numbers of size ~1: 60 u ~ 1e-14
        torch.testing.assert_close(left.mean, other.mean, rtol=0, atol=1e-13)
        torch.testing.assert_close(left.squares, other.squares, rtol=1e-12, atol=1e-13)


def test_moments_of_float32_are_taken_in_float64():
    # Mean 4096 and sd 1 leave float32 a spacing of 2.4e-4 for each value; its squares sum to 1.7e10, where float32's
    # spacing is 2048. In float64 the moments of the given values are exact to 1e-12.
    h = normal(1000, 2, dtype=torch.float32) + 4096.0
    statistics = recorded(h[:300], h[300:])
    exact = np.asarray(h, dtype=np.float64)
    np.testing.assert_allclose(statistics.mean(NAME).numpy(), exact.mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.variance(NAME).numpy(), exact.var(0, ddof=1), rtol=1e-9)
    assert statistics.mean(NAME).dtype == F64


def test_recording_takes_no_gradient():
    h = normal(8, 3).requires_grad_()
    assert not recorded(h).mean(NAME).requires_grad


# ------------------------------------------------------------------------------------------------------ phases


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(64, 5), (16, 5, 3, 3)])
@pytest.mark.parametrize("device", DEVICES)
def test_estimation_normalises_a_full_batch_as_torch_does_in_training(shape, affine, device):
    norm, h = norm_of(5, affine=affine, eps=1e-2).to(device), (3 * normal(*shape) + 2).to(device)
    statistics = Statistics()
    out = through(norm, h, Estimation(statistics))
    reference = torch.nn.BatchNorm2d if h.ndim == 4 else torch.nn.BatchNorm1d
    twin = reference(5, eps=1e-2, momentum=1.0, affine=affine, dtype=F64).to(device).train()
    if affine:
        twin.load_state_dict({"weight": norm.weight, "bias": norm.bias}, strict=False)
    torch.testing.assert_close(out, twin(h), rtol=1e-12, atol=1e-12)
    # momentum 1: torch's running averages are this batch's mean and unbiased variance
    torch.testing.assert_close(statistics.mean(NAME), twin.running_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(statistics.variance(NAME), twin.running_var, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(64, 5), (16, 5, 3, 3)])
def test_evaluation_is_torchs_evaluation_with_the_recorded_statistics(shape, affine):
    norm, statistics = norm_of(5, affine=affine, eps=1e-2), recorded(2 * normal(100, 5, part="train") + 1)
    h = normal(*shape)
    expected = F.batch_norm(
        h, statistics.mean(NAME), statistics.variance(NAME), norm.weight, norm.bias, training=False, eps=1e-2
    )
    torch.testing.assert_close(through(norm, h, Evaluation(statistics)), expected, rtol=1e-12, atol=1e-12)


def test_estimation_leaves_the_layer_untouched():
    norm, h = norm_of(5, affine=True), normal(64, 5) + 7
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    through(norm, h, Estimation(Statistics()))
    through(norm, h, Evaluation(recorded(h)))
    assert {name: value.tolist() for name, value in norm.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }


@pytest.mark.parametrize("momentum", [0.15, 0.6])
def test_running_averages_weigh_the_new_batch_by_momentum(momentum):
    norm, batches = norm_of(5, momentum=momentum), [2 * normal(64, 5, part=str(i)) + i for i in range(3)]
    mean, variance = torch.zeros(5, dtype=F64), torch.ones(5, dtype=F64)
    for batch in batches:
        through(norm, batch, Training())
        mean = (1 - momentum) * mean + momentum * batch.mean(0)
        variance = (1 - momentum) * variance + momentum * batch.var(0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eps", [1e-4, 0.5])
def test_eps_is_added_to_the_variance_in_every_phase(eps):
    # Entries of +-0.01 in equal number: batch variance v = 1e-4 exactly as much as the smaller eps, so it matters.
    h = torch.tensor([[0.01], [-0.01]] * 50, dtype=F64)
    biased, unbiased = 1e-4, 1e-4 * 100 / 99
    norm = norm_of(1, eps=eps)
    for phase, variance in (
        (Training(), biased),
        (Estimation(Statistics()), biased),
        (Evaluation(recorded(h)), unbiased),
    ):
        torch.testing.assert_close(through(norm, h, phase), h / (variance + eps) ** 0.5, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("phase", [Training(), Estimation(Statistics()), Evaluation(recorded(normal(64, 5)))])
def test_gain_and_bias_act_in_every_phase(phase):
    plain, affine, h = norm_of(5), norm_of(5, affine=True), normal(64, 5)
    expected = through(plain, h, phase) * affine.weight + affine.bias
    torch.testing.assert_close(through(affine, h, phase), expected, rtol=1e-12, atol=1e-12)


def test_without_affine_a_layer_has_no_parameters():
    assert list(norm_of(5).parameters()) == []
    assert {name for name, _ in norm_of(5, affine=True).named_parameters()} == {"weight", "bias"}


def test_only_training_trains():
    assert Training().training
    assert not Estimation(Statistics()).training and not Evaluation(Statistics()).training


# -------------------------------------------------------------------------------------- exactness of evaluation


def float32_layer(channels: int) -> tuple[BatchNorm, Statistics]:
    """A float32 layer with affine and statistics whose scale and bias are full-length float32 numbers."""
    norm = norm_of(channels, affine=True, dtype=torch.float32)
    return norm, recorded(3 * normal(200, channels, part="train", dtype=torch.float32) + 20)


@pytest.mark.parametrize("device", DEVICES)
def test_evaluation_rounds_twice_as_numpy_does_and_is_no_fused_multiply_add(device):
    norm, statistics = float32_layer(64)
    norm.to(device)
    statistics = Statistics.from_state({key: value.to(device) for key, value in statistics.state().items()})
    h = (normal(500, 64, dtype=torch.float32) * 20).to(device)
    out = through(norm, h, Evaluation(statistics)).detach().cpu().numpy()
    scale, bias = (v.cpu().numpy() for v in statistics.affine(NAME, norm))
    values = h.cpu().numpy()
    assert values.dtype == scale.dtype == bias.dtype == out.dtype == np.float32
    two_roundings = np.add(np.multiply(values, scale), bias)
    # the product of two float32 is exact in float64, so this rounds the product once less, as an FMA does
    one_rounding = (values.astype(np.float64) * scale.astype(np.float64) + bias.astype(np.float64)).astype(np.float32)
    assert (two_roundings != one_rounding).mean() > 0.01  # the inputs tell the two apart
    np.testing.assert_array_equal(out.view(np.int32), two_roundings.view(np.int32))


@pytest.mark.parametrize("spatial", [(), (4, 4)])
def test_evaluation_of_one_example_is_its_row_in_any_batch(spatial):
    norm, statistics = float32_layer(16)
    h = normal(33, 16, *spatial, dtype=torch.float32)
    evaluation = Evaluation(statistics)
    whole = through(norm, h, evaluation)
    for size in (1, 2, 32):
        parts = torch.cat([through(norm, part, evaluation) for part in h.split(size)])
        assert torch.equal(parts, whole)


def test_scale_and_bias_are_the_float64_values_rounded_once():
    norm, statistics = float32_layer(256)
    scale, bias = statistics.affine(NAME, norm)
    mean, variance = statistics.mean(NAME).numpy(), statistics.variance(NAME).numpy()
    gain, shift = norm.weight.detach().double().numpy(), norm.bias.detach().double().numpy()
    true_scale = gain / np.sqrt(variance + norm.eps)
    true_bias = shift - mean * true_scale
    # one rounding to float32 errs by half a spacing; float64's own errors add 1e-6 of a spacing. The bias is a
    # difference of numbers up to ~20 times itself, which float64 still resolves to 1e-14
    for got, true in ((scale, true_scale), (bias, true_bias)):
        rounded = got.detach().numpy()
        spacing = np.spacing(np.abs(rounded)).astype(np.float64)
        assert (np.abs(rounded - true) <= (0.5 + 1e-4) * spacing).all()
    # formed in float32 throughout, they differ: the test above can fail
    narrow = np.float32(1) / np.sqrt(variance.astype(np.float32) + np.float32(norm.eps))
    narrow_bias = norm.bias.detach().numpy() - mean.astype(np.float32) * narrow * norm.weight.detach().numpy()
    assert (narrow_bias != bias.detach().numpy()).any()


def test_the_stored_bias_is_correctly_rounded_in_exact_arithmetic():
    # One channel without affine: bias = -mean * scale, with mean and float64 scale taken as exact rationals.
    norm, statistics = norm_of(1, dtype=torch.float32), recorded(normal(50, 1, part="exact") + 3)
    _, bias = statistics.affine(NAME, norm)
    scale = torch.rsqrt(statistics.variance(NAME) + norm.eps)
    exact = -Fraction(statistics.mean(NAME).item()) * Fraction(scale.item())
    got = Fraction(bias.item())
    spacing = Fraction(float(np.spacing(np.float32(abs(bias.item())))))
    assert abs(got - exact) <= spacing / 2 + spacing / 10**6


# ------------------------------------------------------------------------------------------- state and messages


def test_statistics_survive_a_weights_only_state_file_bitwise():
    statistics = recorded(normal(40, 5), normal(7, 5, part="more"))
    statistics.record("layers.12", normal(40, 2))
    file = io.BytesIO()
    torch.save(statistics.state(), file)
    file.seek(0)
    back = Statistics.from_state(torch.load(file, weights_only=True))
    assert list(back.layers) == [NAME, "layers.12"]
    for name, moments in statistics.layers.items():
        assert back.layers[name].count == moments.count
        assert torch.equal(back.layers[name].mean, moments.mean)
        assert torch.equal(back.layers[name].squares, moments.squares)


def test_a_state_keeps_its_values_when_more_is_recorded():
    statistics = recorded(normal(40, 5))
    state = {key: value.tolist() for key, value in statistics.state().items()}
    kept = statistics.state()
    statistics.record(NAME, normal(40, 5, part="more"))
    assert {key: value.tolist() for key, value in kept.items()} == state


@pytest.mark.parametrize("ask", ["mean", "variance"])
def test_a_layer_without_statistics_is_named_with_those_that_have_some(ask):
    with pytest.raises(KeyError, match=r"no statistics for batch norm 'layers.4'; known: \['layers.1'\]"):
        getattr(recorded(normal(4, 2)), ask)("layers.4")


def test_evaluation_of_a_layer_that_was_not_estimated_says_what_to_do():
    with pytest.raises(KeyError, match="'layers.1'.*re-estimate"):
        through(norm_of(5), normal(4, 5), Evaluation(Statistics()))


def test_a_pass_without_a_phase_names_the_layer_and_the_way_out():
    with pytest.raises(ValueError, match=r"batch norm 'layers.1': the reading has no phase; use reading.during"):
        norm_of(5)(normal(4, 5), READING, generator("unused"))
