"""Sums of w x and of w x^2 against loops over taps: padding, stride, groups, pixels; what a padded tap is worth."""

import itertools

import numpy as np
import pytest
import torch

from core.contractions import Convolution, Dense, Pixels, Watched
from core.interface import UnsupportedReading

F64 = torch.float64
SHAPES = [  # stride, padding, groups, channels, outputs, kernel, image
    (1, 0, 1, 1, 2, (3, 3), (5, 5)),
    (1, 1, 1, 2, 3, (3, 3), (4, 5)),
    (2, 1, 1, 2, 3, (3, 3), (5, 6)),
    (1, 1, 2, 4, 6, (2, 3), (4, 4)),
    (2, 2, 4, 4, 4, (3, 2), (5, 5)),
    (3, 0, 2, 2, 2, (1, 1), (7, 4)),
]
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"stride{s[0]}-padding{s[1]}-groups{s[2]}")


def normal(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def signs(*shape: int, seed: int = 6) -> torch.Tensor:
    return torch.where(normal(*shape, seed=seed) < 0, -1.0, 1.0).to(F64)


def layer(shape, inputs=normal, *, declared_signs=False):
    """The contraction with inputs (3, C, H, W) and real weights."""
    stride, padding, groups, channels, outputs, kernel, image = shape
    contract = Convolution(stride=stride, padding=padding, groups=groups, signs=declared_signs)
    return contract, inputs(3, channels, *image), normal(outputs, channels // groups, *kernel, seed=7)


def over_taps(contract: Convolution, x: torch.Tensor, weights: torch.Tensor, term) -> np.ndarray:
    """Sum of term(w, x) over the valid taps of each output, by loops: nothing outside the image is a tap."""
    x, weights = x.numpy(), weights.numpy()
    (batch, _, height, width), (outputs, per_group, h, w) = x.shape, weights.shape
    rows = (height + 2 * contract.padding - h) // contract.stride + 1
    columns = (width + 2 * contract.padding - w) // contract.stride + 1
    total = np.zeros((batch, outputs, rows, columns))
    for o, i, j in itertools.product(range(outputs), range(rows), range(columns)):
        first = o // (outputs // contract.groups) * per_group
        for c, k, m in itertools.product(range(per_group), range(h), range(w)):
            row, column = i * contract.stride + k - contract.padding, j * contract.stride + m - contract.padding
            if 0 <= row < height and 0 <= column < width:
                total[:, o, i, j] += term(weights[o, c, k, m], x[:, first + c, row, column])
    return total


def close(got: torch.Tensor, expected: np.ndarray) -> None:
    """To the rounding of sums of at most 36 products of numbers below 30: 36 * 30 * 2^-53 < 2e-13."""
    np.testing.assert_allclose(np.broadcast_to(got.numpy(), expected.shape), expected, rtol=0, atol=2e-13)


@EVERY_SHAPE
def test_a_convolution_is_the_sum_over_its_valid_taps(shape):
    contract, x, weights = layer(shape)
    close(contract(x, weights), over_taps(contract, x, weights, lambda w, h: w * h))


@EVERY_SHAPE
def test_squares_of_a_convolution_are_sums_of_squared_inputs_over_its_valid_taps(shape):
    contract, x, weights = layer(shape)
    close(contract.squares(x, weights), over_taps(contract, x, weights, lambda w, h: w * h**2))


@EVERY_SHAPE
def test_squares_of_declared_signs_are_those_of_any_input(shape):
    contract, x, weights = layer(shape, signs, declared_signs=True)
    close(contract.squares(x, weights), over_taps(contract, x, weights, lambda w, h: w * h**2))


@pytest.mark.parametrize("declared_signs", [False, True])
def test_a_padded_tap_adds_nothing_to_a_sum_of_squares(declared_signs):
    # 3 x 3 weights of 1: nine taps inside, six at an edge, four at a corner; a scalar nine is wrong at the border
    contract = Convolution(padding=1, signs=declared_signs)
    taps = contract.squares(signs(1, 1, 4, 4), torch.ones(1, 1, 3, 3, dtype=F64))[0, 0]
    assert taps.tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]


@EVERY_SHAPE
def test_padding_first_and_contracting_the_bare_map_changes_nothing(shape):
    contract, x, weights = layer(shape)
    padded = contract.pad(x, 0.0)
    assert torch.equal(contract.bare()(padded, weights), contract(x, weights))
    close(contract.bare().squares(padded, weights), contract.squares(x, weights).numpy())


def test_dense_sums_are_matrix_products_of_inputs_and_of_their_squares():
    x, weights = normal(4, 11), normal(3, 11, seed=8)
    close(Dense()(x, weights), np.einsum("bi,oi->bo", x.numpy(), weights.numpy()))
    close(Dense().squares(x, weights), np.einsum("bi,oi->bo", x.numpy() ** 2, weights.numpy()))


def test_dense_squares_of_declared_signs_are_those_of_any_input():
    x, weights = signs(4, 11), normal(3, 11, seed=8)
    close(Dense(signs=True).squares(x, weights), Dense().squares(x, weights).numpy())


def test_a_dense_map_pads_nothing():
    x = normal(2, 3)
    assert torch.equal(Dense().pad(x, 7.0), x)
    assert Dense(signs=True).bare()(x, x).shape == (2, 2)


PADDED = [Dense(), Convolution(), Convolution(padding=1), Convolution(stride=2, padding=2)]


def first_layer(inner, shift: float = 100.0, scale: float = 50.0, dtype=F64):
    """Pixels over `inner`, whole raw values 0..255, and real weights."""
    shape, weight_shape = ((3, 20), (4, 20)) if isinstance(inner, Dense) else ((3, 2, 5, 5), (4, 2, 3, 3))
    raw = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    number = [torch.tensor(value, dtype=dtype) for value in (shift, 1 / scale)]
    return Pixels(inner, *number), raw, normal(*weight_shape, seed=10).to(dtype)


@pytest.mark.parametrize("inner", PADDED, ids=repr)
def test_pixels_are_normalised_after_the_sum_as_if_before(inner):
    contract, raw, weights = first_layer(inner)
    # training contracts the normalised padded input; both are sums of 20 products of numbers up to 255 / 50
    close(contract(raw, weights), inner.bare()(contract.normalised(raw), weights).numpy())


@pytest.mark.parametrize("inner", PADDED, ids=repr)
def test_squares_of_pixels_are_of_the_normalised_values_border_included(inner):
    contract, raw, weights = first_layer(inner)
    by_hand = (inner.pad(raw, 0.0) - 100.0) / 50.0
    close(contract.squares(raw, weights), inner.bare().squares(by_hand, weights).numpy())


def test_the_border_of_pixels_is_raw_zero_which_the_normalisation_moves():
    contract, raw, _ = first_layer(Convolution(padding=1))
    assert contract.normalised(raw)[..., 0, :].unique().tolist() == [-2.0]  # (0 - 100) / 50
    squares = contract.squares(torch.full_like(raw, 100.0), torch.ones(4, 2, 3, 3, dtype=F64))
    # inside: every pixel is the shift, so 0; corners: five border taps in each of two channels, 4 apiece
    assert squares[0, 0, 2, 2].item() == 0.0
    assert squares[0, 0, 0, 0].item() == 2 * 5 * 4.0


def test_whole_pixels_on_signs_are_summed_exactly_in_float32():
    # With shift 0 and scale 1 the two roundings after the sum are exact too: the integer is all that is left.
    contract, raw, weights = first_layer(Convolution(padding=1), shift=0.0, scale=1.0, dtype=torch.float32)
    weights = torch.where(weights < 0, -1.0, 1.0)
    exact = over_taps(Convolution(padding=1), raw.double(), weights.double(), lambda w, h: w * h)
    assert torch.equal(contract(raw, weights).double(), torch.from_numpy(exact))


@pytest.mark.parametrize(
    "inner", [Dense(), Convolution(padding=1), *(first_layer(i)[0] for i in PADDED[1:3])], ids=repr
)
def test_a_watched_contract_shows_the_weights_of_both_sums_and_changes_neither(inner):
    seen: list[torch.Tensor] = []
    watched = Watched(inner, seen.append)
    dense = isinstance(inner, Dense)
    x, weights = (normal(2, 6), normal(3, 6)) if dense else (normal(2, 2, 5, 5), normal(3, 2, 3, 3))
    assert torch.equal(watched(x, weights), inner(x, weights))
    assert torch.equal(watched.squares(x, weights), inner.squares(x, weights))
    assert len(seen) == 2 and all(shown is weights for shown in seen)


@pytest.mark.parametrize("inner", [Dense(), *PADDED[1:], Convolution(padding=1, groups=2)], ids=repr)
def test_both_sums_pass_gradcheck(inner):
    dense = isinstance(inner, Dense)
    x = normal(2, 5) if dense else normal(2, 2, 3, 3)
    weights = normal(3, 5) if dense else normal(2, 2 // inner.groups, 2, 2)
    for value in (x, weights):
        value.requires_grad_()
    assert torch.autograd.gradcheck(inner, (x, weights))
    assert torch.autograd.gradcheck(inner.squares, (x, weights))


# ------------------------------------------------------------------ as one product


@EVERY_SHAPE
def test_rows_times_the_weights_are_the_outputs(shape):
    contract, x, weights = layer(shape)
    if contract.groups > 1:
        with pytest.raises(UnsupportedReading, match=f"{contract.groups} groups"):
            contract.rows(x, weights.shape)
        return
    product = contract.rows(x, weights.shape) @ weights.flatten(1).T
    outputs = contract(x, weights).flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(product, outputs, rtol=1e-12, atol=1e-12)  # two orders of a sum of a few terms


@pytest.mark.parametrize("padding", [0, 1])
def test_rows_of_raw_pixels_are_normalised_border_and_all(padding):
    pixels = Pixels(Convolution(padding=padding), torch.tensor(100.0, dtype=F64), torch.tensor(0.02, dtype=F64))
    x, weights = normal(2, 1, 5, 4).abs() * 50, normal(3, 1, 3, 3, seed=8)
    product = pixels.rows(x, weights.shape) @ weights.flatten(1).T
    outputs = pixels(x, weights).flatten(2).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(product, outputs, rtol=1e-12, atol=1e-12)


def test_rows_of_a_dense_map_are_its_inputs():
    x = normal(4, 3)
    assert Dense().rows(x, torch.Size([2, 3])) is x
