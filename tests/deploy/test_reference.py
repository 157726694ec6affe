"""The NumPy backend against plain arithmetic on unpacked numbers: every operation, and the executor that joins them."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from core.deploy import reference
from core.deploy.checks import LARGEST_FAN_IN
from core.deploy.form import Graph, Input, Node, Operation, Value, words
from core.deploy.operations import (
    OPERATIONS,
    Add,
    Affine,
    ArgMax,
    AveragePool,
    Binarize,
    Concat,
    Flatten,
    HardTanh,
    MaxPool,
    MaxPoolBits,
    Relu,
    Threshold,
    ToF32,
)
from core.deploy.packing import pack, pack_bits, unpack, unpack_bits
from core.deploy.sums import (
    BinConv2d,
    BinLinear,
    F32BinConv2d,
    F32BinLinear,
    F32Conv2d,
    F32Linear,
    IntConv2d,
    IntLinear,
)

OF_PADDING = {"zero": 0.0, "minus": -1.0, "plus": 1.0}
LINEAR = {"bits": BinLinear, "u8": IntLinear, "f32": F32BinLinear, "real": F32Linear}
CONVOLUTION = {"bits": BinConv2d, "u8": IntConv2d, "f32": F32BinConv2d, "real": F32Conv2d}


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice(np.array([-1, 1], np.int8), shape)


def numbers(rng: np.random.Generator, kind: str, *shape: int) -> np.ndarray:
    """Random numbers of a kind of value; bits as -1 and +1, to be packed."""
    if kind == "bits":
        return signs(rng, *shape)
    if kind == "u8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    return rng.standard_normal(shape).astype(np.float32)


def packed(kind: str, array: np.ndarray) -> np.ndarray:
    return pack(array) if kind == "bits" else array


def applied(operation: Operation, *arrays: np.ndarray, values: tuple[Value, ...]) -> np.ndarray:
    """What the reference makes of arrays (B, *array_shape), held to the shape and type that the form declares."""
    made = operation.output(values)
    result = reference.compute(operation, list(arrays), values, made)
    dtype = {"bits": np.uint32, "i32": np.int32, "u8": np.uint8, "f32": np.float32}[made.kind]
    assert result.dtype == dtype and result.shape == (len(arrays[0]), *made.array_shape)
    if made.kind == "bits":
        assert np.array_equal(pack_bits(unpack_bits(result, made.channels)), result), "a pad bit is set"
    return result


# packing


@pytest.mark.parametrize("channels", range(1, 131))
def test_channel_c_is_bit_c_mod_32_of_word_c_div_32(channels: int) -> None:
    values = signs(random(channels), 3, 2, channels)
    bits = pack(values)
    assert bits.dtype == np.uint32 and bits.shape == (3, 2, words(channels))
    for place in np.ndindex(3, 2):
        whole = sum(int(word) << (32 * k) for k, word in enumerate(bits[place]))
        assert whole == sum(1 << c for c in range(channels) if values[*place, c] > 0)
    assert np.array_equal(unpack(bits, channels), values) and unpack(bits, channels).dtype == np.int8


def test_pack_compares_with_zero() -> None:
    values = np.array([0.0, -0.0, np.nan, -np.inf, np.inf, -1e-45, 1e-45], np.float32)
    assert unpack(pack(values), 7).tolist() == [1, 1, -1, -1, 1, -1, 1]
    assert unpack(pack(np.array([3, -3, 0])), 3).tolist() == [1, -1, 1]


def test_truth_values_are_not_compared_with_zero() -> None:
    truth = np.array([True, False, True])
    with pytest.raises(ValueError, match="pack_bits"):
        pack(truth)
    assert pack_bits(truth).tolist() == [0b101]


def test_packed_arrays_may_be_any_view() -> None:
    values = signs(random(0), 6, 5, 70)
    turned = values.transpose(1, 0, 2)[::2]
    assert np.array_equal(unpack(pack(turned), 70), turned)
    bits = np.asfortranarray(pack(values))
    assert np.array_equal(unpack(bits, 70), values) and np.array_equal(unpack(bits[::2, 1:3], 70), values[::2, 1:3])


def test_unpack_refuses_words_that_do_not_fit_the_channels() -> None:
    with pytest.raises(ValueError, match=r"33 channels are 2 words of uint32 .*got uint32 of shape \(4, 1\)"):
        unpack(np.zeros((4, 1), np.uint32), 33)
    with pytest.raises(ValueError, match="got int32"):
        unpack(np.zeros((4, 1), np.int32), 32)


# sums


def exact(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums over everything but the first dimension, in whole numbers of 64 bits."""
    return np.einsum("bk,ok->bo", x.reshape(len(x), -1).astype(np.int64), weights.reshape(len(weights), -1))


@pytest.mark.parametrize("kind", ["bits", "u8"])
@pytest.mark.parametrize("channels", range(1, 131))
def test_linear_sums_are_exact(channels: int, kind: str) -> None:
    rng = random(channels)
    height, width = rng.integers(1, 4, 2).tolist()
    x, weights = numbers(rng, kind, 4, height, width, channels), signs(rng, 7, height, width, channels)
    made = applied(LINEAR[kind](pack(weights)), packed(kind, x), values=(Value(kind, (height, width, channels)),))
    assert np.array_equal(made[:, 0, 0], exact(x, weights.astype(np.int64)))


@pytest.mark.parametrize("channels", [4096, 65_537, 1 << 20, LARGEST_FAN_IN])
def test_sums_of_many_bits_are_exact(channels: int) -> None:
    x, flips = signs(random(0), 1, 1, 1, channels), random(1).choice(channels, 7, replace=False)
    weights = np.repeat(x, 3, axis=0)
    weights[1] *= -1
    weights[2, ..., flips] *= -1
    height = max(1, channels >> 20)  # a side has at most 2^20 numbers
    x, weights = (a.reshape(len(a), height, 1, -1) for a in (x, weights))
    made = applied(BinLinear(pack(weights)), pack(x), values=(Value("bits", x.shape[1:]),))
    assert made.ravel().tolist() == [channels, -channels, channels - 14]


@pytest.mark.parametrize("channels", [65_800, 1 << 20])  # 255 C is beyond 2^24, where float32 leaves out whole numbers
def test_sums_of_pixels_stay_exact_where_float32_is_not(channels: int) -> None:
    x = np.full((2, 1, 1, channels), 255, np.uint8)
    x[1, ..., 0] = 254  # odd: no float32 beyond 2^24
    made = applied(IntLinear(pack(np.ones((1, 1, 1, channels)))), x, values=(Value("u8", (1, 1, channels)),))
    assert made.ravel().tolist() == [255 * channels, 255 * channels - 1]


@st.composite
def convolutions(draw: st.DrawFn) -> dict:
    groups = draw(st.integers(1, 4))
    case = {
        "groups": groups,
        "channels": groups * draw(st.integers(1, 40)),  # within a group no multiple of 32, and rarely at a word's start
        "outputs": groups * draw(st.integers(1, 3)),
        "side": (draw(st.integers(1, 9)), draw(st.integers(1, 9))),
        "kernel": (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        "stride": draw(st.integers(1, 4)),
        "dilation": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, 4)),
        "seed": draw(st.integers(0, 1 << 30)),
    }
    reach = [case["dilation"] * (k - 1) + 1 for k in case["kernel"]]
    assume(all(n + 2 * case["padding"] >= r for n, r in zip(case["side"], reach, strict=True)))
    return case


def convolved(kind: str, case: dict, pad: str = "zero") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the reference makes of a convolution, the same by torch in float64, and by torch of absolute values."""
    rng = random(case["seed"])
    fan_in = (*case["kernel"], case["channels"] // case["groups"])
    x = numbers(rng, "f32" if kind == "real" else kind, 2, *case["side"], case["channels"])
    weights = numbers(rng, "f32" if kind == "real" else "bits", case["outputs"], *fan_in)
    steps = {name: case[name] for name in ("stride", "dilation", "padding", "groups")}
    more = {"pad": pad} if kind == "bits" else {}
    operation = CONVOLUTION[kind](weights if kind == "real" else pack(weights), **steps, **more)
    value = Value("f32" if kind == "real" else kind, (*case["side"], case["channels"]))
    made = applied(operation, packed(kind, x), values=(value,))
    steps.pop("padding")

    def by_torch(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        images, kernels = (torch.from_numpy(a.astype(np.float64)).permute(0, 3, 1, 2) for a in (x, weights))
        images = torch.nn.functional.pad(images, (case["padding"],) * 4, value=OF_PADDING[pad])
        return torch.nn.functional.conv2d(images, kernels, **steps).permute(0, 2, 3, 1).numpy()

    return made, by_torch(x, weights), by_torch(abs(x), abs(weights))


@pytest.mark.parametrize("pad", OF_PADDING)
@given(case=convolutions())
@settings(max_examples=150)
def test_binary_convolution_is_exact(pad: str, case: dict) -> None:
    made, truth, _ = convolved("bits", case, pad)
    assert np.array_equal(made, truth)


@given(case=convolutions())
@settings(max_examples=100)
def test_convolution_of_pixels_is_exact(case: dict) -> None:
    made, truth, _ = convolved("u8", case)
    assert np.array_equal(made, truth)


@pytest.mark.parametrize("kind", ["f32", "real"])
@given(case=convolutions())
@settings(max_examples=60)
def test_convolution_of_reals_is_right_to_rounding(kind: str, case: dict) -> None:
    made, truth, size = convolved(kind, case)
    n_terms = case["channels"] // case["groups"] * np.prod(case["kernel"])
    # Higham 2002, (3.5): a sum of n products in any order is off by at most n u / (1 - n u) times the sum of sizes
    unit = 2.0**-24
    assert (abs(made - truth) <= n_terms * unit / (1 - n_terms * unit) * size).all()


@pytest.mark.parametrize("channels", range(1, 131, 3))
@pytest.mark.parametrize("kind", ["f32", "real"])
def test_linear_sums_of_reals_are_right_to_rounding(kind: str, channels: int) -> None:
    rng = random(channels)
    x = numbers(rng, "f32", 4, 2, 3, channels)
    weights = numbers(rng, "f32" if kind == "real" else "bits", 5, 2, 3, channels)
    operation = LINEAR[kind](weights if kind == "real" else pack(weights))
    made = applied(operation, x, values=(Value("f32", (2, 3, channels)),))[:, 0, 0]
    truth = np.einsum("bijc,oijc->bo", x.astype(np.float64), weights.astype(np.float64))
    size = np.einsum("bijc,oijc->bo", abs(x).astype(np.float64), abs(weights).astype(np.float64))
    unit, n_terms = 2.0**-24, 6 * channels
    assert (abs(made - truth) <= n_terms * unit / (1 - n_terms * unit) * size).all()  # as above


# from sums to values


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 100])
def test_threshold_is_a_comparison_then_a_flip(channels: int) -> None:
    rng = random(channels)
    sums = rng.integers(-3, 4, (50, 2, 3, channels)).astype(np.int32)
    at, flip = rng.integers(-3, 4, channels).astype(np.int32), rng.integers(0, 2, channels).astype(bool)
    value = Value("i32", (2, 3, channels))
    made = applied(Threshold(at, pack_bits(flip)), sums, values=(value,))
    assert np.array_equal(unpack_bits(made, channels), (sums >= at) != flip)


def test_thresholds_at_the_ends_of_int32_are_all_or_nothing() -> None:
    ends = np.iinfo(np.int32)
    sums = np.array([ends.min, -1, 0, ends.max], np.int32).reshape(4, 1, 1, 1).repeat(2, axis=-1)
    at = np.array([ends.min, ends.max], np.int32)
    made = applied(Threshold(at, np.zeros(1, np.uint32)), sums, values=(Value("i32", (1, 1, 2)),))
    assert unpack(made, 2)[:, 0, 0].tolist() == [[1, -1], [1, -1], [1, -1], [1, 1]]


def test_binarize_takes_equal_for_plus_and_nan_for_minus() -> None:
    x = np.array([0.0, -0.0, np.nan, 0.5, np.inf, -np.inf], np.float32).reshape(1, 1, 1, 6)
    at = np.array([-0.0, 0.0, 0.0, 0.5, 1.0, 1.0], np.float32)
    made = applied(Binarize(at), x, values=(Value("f32", (1, 1, 6)),))
    assert unpack(made, 6).ravel().tolist() == [1, 1, -1, 1, 1, -1]


def test_binarize_compares_pixels_as_float32() -> None:
    x = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    made = applied(Binarize(np.array([127.5], np.float32)), x, values=(Value("u8", (1, 1, 1)),))
    assert np.array_equal(unpack_bits(made, 1).ravel(), np.arange(256) >= 128)


def rounded(number: Fraction) -> np.float32:
    """The float32 nearest to a fraction, ties to even; for numbers in the normal range."""
    near = np.float32(float(number))  # may be rounded twice; one step either side mends it
    found = min(
        (np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))),
        key=lambda f: (abs(Fraction(float(f)) - number), int(f.view(np.uint32)) & 1),
    )
    return np.float32(found)


def test_affine_rounds_the_product_and_then_the_sum() -> None:
    rng = random(1)
    sums = rng.integers(-(1 << 26), 1 << 26, (20, 1, 1, 16)).astype(np.int32)  # also beyond what float32 holds
    scale, bias = (rng.standard_normal(16).astype(np.float32) for _ in range(2))
    bias *= np.float32(1 << 22)
    made = applied(Affine(scale, bias), sums, values=(Value("i32", (1, 1, 16)),))
    fused = 0
    for place in np.ndindex(20, 16):
        x, a, b = rounded(Fraction(int(sums[place[0], 0, 0, place[1]]))), scale[place[1]], bias[place[1]]
        product = Fraction(float(x)) * Fraction(float(a))
        two = rounded(Fraction(float(rounded(product))) + Fraction(float(b)))
        assert made[place[0], 0, 0, place[1]] == two
        fused += two != rounded(product + Fraction(float(b)))
    assert fused, "no case tells two roundings from one"


def test_affine_takes_reals_and_a_bias_of_minus_zero_adds_nothing() -> None:
    x = np.array([-0.0, 0.0, 3.0, 1e38], np.float32).reshape(1, 1, 1, 4)
    operation = Affine(np.ones(4, np.float32), np.full(4, -0.0, np.float32))
    made = applied(operation, x, values=(Value("f32", (1, 1, 4)),))
    assert made.tobytes() == x.tobytes()


@pytest.mark.parametrize("kind", ["bits", "u8", "i32"])
def test_to_f32_keeps_the_numbers(kind: str) -> None:
    rng = random(2)
    x = rng.integers(-(1 << 24), 1 << 24, (3, 2, 2, 40)).astype(np.int32) if kind == "i32" else None
    x = numbers(rng, kind, 3, 2, 2, 40) if x is None else x
    assert np.array_equal(applied(ToF32(), packed(kind, x), values=(Value(kind, (2, 2, 40)),)), x)


def test_real_activations_are_as_defined() -> None:
    x = np.array([-np.inf, -2.0, -1.0, -0.0, 0.0, 0.25, 1.0, 7.0, np.inf], np.float32).reshape(1, 1, 1, 9)
    value = Value("f32", (1, 1, 9))
    assert applied(Relu(), x, values=(value,)).ravel().tolist() == [0, 0, 0, 0, 0, 0.25, 1, 7, np.inf]
    assert applied(HardTanh(), x, values=(value,)).ravel().tolist() == [-1, -1, -1, 0, 0, 0.25, 1, 1, 1]


# pooling

WINDOWS = [(1, 1, 0), (2, 2, 0), (2, 1, 1), (3, 2, 1), (3, 3, 0), (4, 3, 2), (5, 1, 2)]


def pooled(x: np.ndarray, size: int, stride: int, padding: int) -> np.ndarray:
    """The largest of each window by torch, of (B, H, W, C)."""
    images = torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)
    return torch.nn.functional.max_pool2d(images, size, stride, padding).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("size", "stride", "padding"), WINDOWS)
@pytest.mark.parametrize("kind", ["f32", "i32"])
def test_max_pool_takes_the_largest_inside(kind: str, size: int, stride: int, padding: int) -> None:
    x = (random(3).standard_normal((2, 7, 6, 5)) * 1000 - 5000).astype({"f32": np.float32, "i32": np.int32}[kind])
    made = applied(MaxPool(size, stride, padding), x, values=(Value(kind, (7, 6, 5)),))
    assert np.array_equal(made, pooled(x, size, stride, padding))  # all below 0: a padded 0 would win


@pytest.mark.parametrize(("size", "stride", "padding"), WINDOWS)
@pytest.mark.parametrize("channels", [1, 33, 64, 70])
def test_pooled_bits_are_the_largest_or_on_some_channels_the_smallest(
    channels: int, size: int, stride: int, padding: int
) -> None:
    rng = random(channels)
    x, smallest = signs(rng, 2, 7, 6, channels), rng.integers(0, 2, channels).astype(bool)
    operation = MaxPoolBits(size, stride, padding, smallest=pack_bits(smallest))
    made = unpack(applied(operation, pack(x), values=(Value("bits", (7, 6, channels)),)), channels)
    largest, least = pooled(x, size, stride, padding), -pooled(-x, size, stride, padding)
    assert np.array_equal(made, np.where(smallest, least, largest))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (7, 6), (4, 4), (9, 1 << 20)])
def test_average_pool_divides_by_what_is_inside(height: int, width: int) -> None:
    x = random(4).integers(-50, 50, (2, 7, 6, 5)).astype(np.float32)  # whole numbers: sums are exact
    made = applied(AveragePool(height, width), x, values=(Value("f32", (7, 6, 5)),))
    for i, j in np.ndindex(made.shape[1:3]):
        window = x[:, i * height : (i + 1) * height, j * width : (j + 1) * width]
        total, count = window.sum(axis=(1, 2)), window.shape[1] * window.shape[2]
        assert np.array_equal(made[:, i, j], total / np.float32(count))


# joining values


@pytest.mark.parametrize("kind", ["i32", "f32"])
def test_add_is_entry_by_entry(kind: str) -> None:
    x, y = (random(s).integers(-100, 100, (3, 2, 2, 5)).astype({"i32": "i4", "f32": "f4"}[kind]) for s in (0, 1))
    assert np.array_equal(applied(Add(), x, y, values=(Value(kind, (2, 2, 5)),) * 2), x + y)


@pytest.mark.parametrize("kind", ["bits", "i32", "u8", "f32"])
@pytest.mark.parametrize("channels", [1, 5, 32, 33])
def test_flatten_has_channels_fastest_and_leaves_no_gaps(channels: int, kind: str) -> None:
    x = numbers(random(5), "u8" if kind == "i32" else kind, 3, 2, 4, channels)
    x = x.astype(np.int32) if kind == "i32" else x
    made = applied(Flatten(), packed(kind, x), values=(Value(kind, (2, 4, channels)),))
    flat = unpack(made, 8 * channels) if kind == "bits" else made
    assert np.array_equal(flat.ravel(), x.ravel())


@pytest.mark.parametrize("kind", ["bits", "u8", "f32"])
def test_concat_puts_channels_side_by_side(kind: str) -> None:
    sizes = (32, 64, 7)
    parts = [numbers(random(n), kind, 2, 3, 3, n) for n in sizes]
    values = tuple(Value(kind, (3, 3, n)) for n in sizes)
    made = applied(Concat(), *(packed(kind, part) for part in parts), values=values)
    assert np.array_equal(unpack(made, 103) if kind == "bits" else made, np.concatenate(parts, axis=-1))


def test_arg_max_is_the_first_of_the_largest() -> None:
    x = np.array([[1, 3, 3], [2, 2, 2], [-5, -7, -4]], np.int32).reshape(3, 1, 1, 3)
    assert applied(ArgMax(), x, values=(Value("i32", (1, 1, 3)),)).ravel().tolist() == [1, 0, 2]


def test_every_operation_has_a_rule() -> None:
    assert set(reference._RULES) == set(OPERATIONS.values())


# the executor


def small_network(rng: np.random.Generator) -> Graph:
    """A residual network over images of 3 channels: integer sums, thresholds, pooling, two branches, a real end."""

    def weights(*shape: int) -> np.ndarray:
        return pack(signs(rng, *shape))

    def threshold(channels: int) -> Threshold:
        return Threshold(rng.integers(-9, 10, channels).astype(np.int32), pack(signs(rng, channels)))

    nodes = (
        Node("first", IntConv2d(weights(40, 3, 3, 3), padding=1), ("input",)),
        Node("sign", threshold(40), ("first",)),
        Node("left", BinConv2d(weights(24, 3, 3, 40), padding=1), ("sign",)),
        Node("right", BinConv2d(weights(24, 1, 1, 20), groups=2), ("sign",)),
        Node("sum", Add(), ("left", "right")),
        Node("signs", threshold(24), ("sum",)),
        Node("pooled", MaxPoolBits(2, 2, smallest=pack(signs(rng, 24))), ("signs",)),
        Node("last", BinLinear(weights(10, 4, 4, 24)), ("pooled",)),
        Node("logits", Affine(rng.random(10, np.float32), rng.random(10, np.float32)), ("last",)),
    )
    return Graph(Input((3, 8, 8), Value("u8", (8, 8, 3))), nodes, "logits")


def test_trace_has_every_node_and_run_the_last() -> None:
    rng = random(6)
    graph = small_network(rng)
    x = numbers(rng, "u8", 11, 3, 8, 8)
    executor = reference.Executor(graph)
    trace = executor.trace(x)
    assert list(trace) == [node.name for node in graph.nodes]
    for name, array in trace.items():
        assert array.shape == (11, *graph.values[name].array_shape)
    assert np.array_equal(executor.run(x), trace["logits"])


def test_nodes_see_images_with_channels_last() -> None:
    graph = small_network(random(7))
    x = numbers(random(8), "u8", 2, 3, 8, 8)
    kernels = unpack(graph.nodes[0].operation.weights, 3).astype(np.float64)
    truth = torch.nn.functional.conv2d(
        torch.from_numpy(x.astype(np.float64)), torch.from_numpy(kernels).permute(0, 3, 1, 2), padding=1
    )
    assert np.array_equal(reference.Executor(graph).trace(x)["first"], truth.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("raw", [(6,), (2, 3), (1, 2, 3), (2, 1, 1, 3)])
def test_linear_networks_see_raw_inputs_in_their_order(raw: tuple[int, ...]) -> None:
    graph = Graph(Input(raw, Value("u8", (1, 1, 6))), (Node("out", ToF32(), ("input",)),), "out")
    x = numbers(random(9), "u8", 4, *raw)
    assert np.array_equal(reference.Executor(graph).run(x), x.reshape(4, 1, 1, 6))


def test_gray_images_may_come_without_channel() -> None:
    graph = Graph(Input((2, 3), Value("f32", (2, 3, 1))), (Node("out", Relu(), ("input",)),), "out")
    x = abs(numbers(random(10), "f32", 4, 2, 3))
    assert np.array_equal(reference.Executor(graph).run(x), x[..., np.newaxis])


@pytest.mark.parametrize("batch", [0, 1, 2, 7])
def test_answers_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    graph = small_network(random(11))
    x = numbers(random(12), "u8", 7, 3, 8, 8)
    whole = reference.Executor(graph).trace(x)
    monkeypatch.setattr(reference, "AT_ONCE", 3 * 8 * 8 * 40)  # three examples a part
    parts = reference.Executor(graph)
    assert np.array_equal(parts.run(x[:batch]), whole["logits"][:batch])
    for name, array in parts.trace(x[:batch]).items():
        assert np.array_equal(array, whole[name][:batch])


def test_memory_does_not_grow_with_the_batch() -> None:
    rng = random(13)
    weights = pack(signs(rng, 4096, 1, 1, 64))
    graph = Graph(
        Input((64,), Value("f32", (1, 1, 64))),
        (
            Node("bits", Binarize(np.zeros(64, np.float32)), ("input",)),
            Node("wide", BinLinear(weights), ("bits",)),
            Node("class", ArgMax(), ("wide",)),
        ),
        "class",
    )
    executor = reference.Executor(graph)
    peaks = []
    for batch in (2000, 8000):
        x = numbers(rng, "f32", batch, 64)
        tracemalloc.start()
        executor.run(x)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 64 << 20 and peaks[1] < 1.5 * peaks[0]  # 8000 rows of sums alone would be 131 MB


def test_infinities_are_values_and_no_warnings() -> None:
    large = np.full(2, 3e38, np.float32)
    nodes = (Node("a", Affine(large, large), ("input",)), Node("b", Add(), ("a", "a")))
    graph = Graph(Input((2,), Value("f32", (1, 1, 2))), nodes, "b")
    assert reference.Executor(graph).run(np.array([[3e38, -3e38]], np.float32)).tolist() == [[[[np.inf, -np.inf]]]]
