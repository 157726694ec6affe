"""The known ways for packed networks to be almost right, one test each: every backend avoids every one."""

import numpy as np
import pytest

from core.deploy import PackedNetwork
from core.deploy.form import Form, Graph, Input, Node, Value
from core.deploy.operations import (
    Add,
    Affine,
    ArgMax,
    Binarize,
    BinConv2d,
    BinLinear,
    Concat,
    Flatten,
    IntConv2d,
    IntLinear,
    MaxPool,
    MaxPoolBits,
    Relu,
    Threshold,
    ToF32,
)
from core.deploy.packing import pack, unpack

LEAST, MOST = -(2**31), 2**31 - 1


def chain(value: Value, *operations, raw: tuple[int, ...] | None = None) -> Graph:
    """Operations in a row on the input, named by place: n0, n1, ..."""
    nodes = [Node(f"n{i}", o, (f"n{i - 1}" if i else "input",)) for i, o in enumerate(operations)]
    height, width, channels = value.shape
    shape = raw or ((channels,) if (height, width) == (1, 1) else (channels, height, width))
    return Graph(Input(shape, value), tuple(nodes), nodes[-1].name)


def vector(kind: str, channels: int) -> Value:
    return Value(kind, (1, 1, channels))


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 2, shape) * 2 - 1


def at_zero(channels: int) -> Binarize:
    return Binarize(np.zeros(channels, np.float32))


def as_pixels(values: np.ndarray) -> np.ndarray:
    """Signs as u8 that `Binarize(0.5)` turns back into them."""
    return (values > 0).astype(np.uint8)


def half(channels: int) -> Binarize:
    return Binarize(np.full(channels, 0.5, np.float32))


def check(backends, twin, graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """Trace and run of every backend equal the twin's, which are returned unpacked. f32 compares as numbers."""
    expected = twin.run(graph, x)
    for backend, executor_of in backends.items():
        executor = executor_of(graph)
        trace, answer = executor.trace(x), executor.run(x)
        for name, value in list(graph.values.items())[1:]:
            assert np.array_equal(trace[name], twin.packed(expected[name], value), equal_nan=value.kind == "f32"), (
                f"{backend}: {name}"
            )
        last = twin.packed(expected[graph.output], graph.values[graph.output])
        assert np.array_equal(answer, last, equal_nan=last.dtype == np.float32), f"{backend}: run"
    return expected


# ---------------------------------------------------------------------- 1: zero, negative zero, nan


def test_zero_and_negative_zero_are_plus_one_and_the_next_number_below_is_not(twin, backends) -> None:
    x = np.array([[0.0, -0.0, 2.0**-149, -(2.0**-149), np.inf, -np.inf]], np.float32)
    for zero in (0.0, -0.0):
        graph = chain(vector("f32", 6), Binarize(np.full(6, zero, np.float32)))
        assert check(backends, twin, graph, x)["n0"][0, 0, 0].tolist() == [1, 1, 1, -1, 1, -1]


def test_negative_zero_times_anything_plus_negative_zero_is_plus_one(twin, backends) -> None:
    """What a batch norm of gain -0.0 and bias -0.0 makes of any sum."""
    scale = np.array([0.0, -0.0, 0.0, -0.0], np.float32)
    bias = np.array([0.0, 0.0, -0.0, -0.0], np.float32)
    graph = chain(vector("u8", 4), IntLinear(pack(signs(np.random.default_rng(0), 4, 1, 1, 4))), Affine(scale, bias))
    graph = Graph(graph.input, (*graph.nodes, Node("n2", at_zero(4), ("n1",))), "n2")
    x = np.random.default_rng(1).integers(0, 256, (20, 4), np.uint8)
    assert (check(backends, twin, graph, x)["n2"] == 1).all()


def test_the_sign_of_nan_is_minus_one_and_a_relu_keeps_nan(twin, backends) -> None:
    """An infinity minus an infinity, as only overflow inside a network makes it."""
    large, none = np.full(36, 10, np.float32), np.full(36, -0.0, np.float32)
    nodes = (
        Node("up", Affine(large, none), ("input",)),
        Node("down", Affine(-large, none), ("input",)),
        Node("sum", Add(), ("up", "down")),
        Node("bits", at_zero(36), ("sum",)),
        Node("relu", Relu(), ("sum",)),
    )
    x = np.tile(np.array([[3e38, 1.0, -3e38]], np.float32), 12)  # a whole word, and some bits of another
    with np.errstate(over="ignore", invalid="ignore"):
        for output in ("bits", "relu"):
            made = check(backends, twin, Graph(Input((36,), vector("f32", 36)), nodes, output), x)
    assert np.isnan(made["sum"][0, 0, 0, [0, 2]]).all()
    assert made["bits"][0, 0, 0].tolist() == [-1, 1, -1] * 12
    assert np.isnan(made["relu"][0, 0, 0]).tolist() == [True, False, True] * 12


def test_nan_inputs_are_refused() -> None:
    network = PackedNetwork(Form((chain(vector("f32", 3), at_zero(3), BinLinear(pack(np.ones((2, 1, 1, 3))))),)))
    x = np.zeros((4, 3), np.float32)
    x[2, 1] = np.nan
    with pytest.raises(ValueError, match="nan"):
        network.run(x)


# ---------------------------------------------------------------------- 2, 3, 4: thresholds


@pytest.mark.parametrize("fan_in", [1, 2, 31, 32, 33, 63, 64, 65])
def test_every_threshold_cuts_every_sum_of_either_parity(fan_in: int, twin, backends) -> None:
    """All sums -K, -K + 2, ..., K against all thresholds from -K - 2 to K + 2, rising and falling."""
    at = np.arange(-fan_in - 2, fan_in + 3)
    at = np.concatenate([at, at]).astype(np.int32)
    flip = pack(np.repeat([-1, 1], len(at) // 2))
    weights = signs(np.random.default_rng(fan_in), 1, 1, 1, fan_in).repeat(len(at), 0)
    x = np.where(np.arange(fan_in) < np.arange(fan_in + 1)[:, None], -1, 1) * weights[0, 0, 0]
    graph = chain(vector("u8", fan_in), half(fan_in), BinLinear(pack(weights)), Threshold(at, flip))
    made = check(backends, twin, graph, as_pixels(x))
    assert sorted(made["n1"][:, 0, 0, 0].tolist()) == list(range(-fan_in, fan_in + 1, 2))


@pytest.mark.parametrize("pad", ["zero", "minus", "plus"])
def test_thresholds_far_out_of_reach_are_constants_at_borders_too(pad: str, twin, backends) -> None:
    far = [LEAST, LEAST + 1, -(2**22) - 1, -10, 10, 2**22 + 1, MOST - 1, MOST]
    at, flip = np.array(far * 2, np.int32), pack(np.repeat([-1, 1], len(far)))
    rng = np.random.default_rng(0)
    for size in (1, 3):
        weights = pack(signs(rng, 16, size, size, 1))
        operations = half(1), BinConv2d(weights, padding=1, pad=pad), Threshold(at, flip)
        made = check(backends, twin, chain(Value("u8", (4, 5, 1)), *operations), as_pixels(signs(rng, 3, 1, 4, 5)))
        constant = np.array([1, 1, 1, 1, -1, -1, -1, -1])
        assert (made["n2"] == np.concatenate([constant, -constant])).all()


def test_thresholds_of_pixel_sums_reach_their_extremes(twin, backends) -> None:
    """Sums of 300 pixels of 255 (76500 leaves 16 bits), at the threshold and on either side of it."""
    top = 300 * 255
    at = np.array([top, top + 1, -top, -top + 1, 0, 1, LEAST, MOST] * 2, np.int32)
    weights = np.ones((16, 1, 1, 300))
    graph = chain(vector("u8", 300), IntLinear(pack(weights)), Threshold(at, pack(np.repeat([-1, 1], 8))))
    x = np.stack([np.full(300, 255), np.zeros(300), np.r_[np.full(299, 255), 254]]).astype(np.uint8)
    made = check(backends, twin, graph, x)
    assert made["n0"][:, 0, 0, 0].tolist() == [top, 0, top - 1]


# ---------------------------------------------------------------------- 5: padding


@pytest.mark.parametrize("pad", ["zero", "minus", "plus"])
@pytest.mark.parametrize("height, width", [(1, 1), (1, 6), (2, 3), (3, 2), (5, 5)])
def test_every_border_class_counts_its_own_taps(pad: str, height: int, width: int, twin, backends) -> None:
    rng = np.random.default_rng(0)
    x = as_pixels(signs(rng, 2, 5, height, width))
    for taps in ((3, 3), (1, 2), (5, 4)):
        for padding in (0, 1, 2, 4):
            for stride in (1, 2, 3):
                for dilation in (1, 2):
                    spans = [dilation * (t - 1) + 1 for t in taps]
                    if height + 2 * padding < spans[0] or width + 2 * padding < spans[1]:
                        continue
                    operation = BinConv2d(pack(signs(rng, 18, *taps, 5)), stride, dilation, padding, pad=pad)
                    at = Threshold(rng.integers(-9, 10, 18).astype(np.int32), pack(signs(rng, 18)))
                    check(backends, twin, chain(Value("u8", (height, width, 5)), half(5), operation, at), x)


def test_the_three_paddings_are_three_networks(twin, backends) -> None:
    """An image of +1 under weights of +1: a corner of 3 x 3 sees 4 taps, and 5 of padding."""
    x, corner = np.ones((1, 1, 2, 2), np.uint8), {}
    for pad in ("zero", "minus", "plus"):
        graph = chain(Value("u8", (2, 2, 1)), half(1), BinConv2d(pack(np.ones((1, 3, 3, 1))), padding=1, pad=pad))
        corner[pad] = int(check(backends, twin, graph, x)["n1"][0, 0, 0, 0])
    assert corner == {"zero": 4, "minus": -1, "plus": 9}


def test_raw_pixels_are_padded_with_zero_on_every_channel(twin, backends) -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 2, 3, 4, 5):
        for taps, padding, stride in (((3, 3), 1, 1), ((5, 2), 2, 2), ((1, 1), 3, 1)):
            graph = chain(
                Value("u8", (4, 5, channels)), IntConv2d(pack(signs(rng, 7, *taps, channels)), stride, 1, padding)
            )
            check(backends, twin, graph, np.full((2, channels, 4, 5), 255, np.uint8))


# ---------------------------------------------------------------------- 6: words


def test_every_number_of_inputs_up_to_130_is_summed_exactly(twin, backends) -> None:
    rng = np.random.default_rng(0)
    for channels in range(1, 131):
        graph = chain(vector("u8", channels), half(channels), BinLinear(pack(signs(rng, 19, 1, 1, channels))))
        check(backends, twin, graph, as_pixels(signs(rng, 3, channels)))


def test_every_number_of_channels_up_to_70_is_convolved_exactly(twin, backends) -> None:
    rng = np.random.default_rng(0)
    for channels in range(1, 71):
        operations = half(channels), BinConv2d(pack(signs(rng, 17, 3, 2, channels)), padding=1)
        graph = chain(Value("u8", (3, 4, channels)), *operations)
        check(backends, twin, graph, as_pixels(signs(rng, 2, channels, 3, 4)))


@pytest.mark.parametrize("channels", [1, 15, 16, 17, 31, 33, 47, 48, 49, 65, 100])
def test_bits_beyond_the_last_channel_are_0_whatever_made_them(channels: int, twin, backends) -> None:
    """Where all true channels are +1: else the next layer, whose weights have zeros there, still counts them."""
    rng = np.random.default_rng(channels)
    sums = BinConv2d(pack(signs(rng, channels, 3, 3, 5)), padding=1)
    every = pack(np.ones(channels))
    nodes = (
        Node("signs", Binarize(np.full(5, -1.0, np.float32)), ("input",)),
        Node("sums", sums, ("signs",)),
        Node("low", Threshold(np.full(channels, LEAST, np.int32), 0 * every), ("sums",)),
        Node("flipped", Threshold(np.full(channels, MOST, np.int32), every), ("sums",)),
        Node("or", MaxPoolBits(2, 1, 1, smallest=0 * every), ("low",)),
        Node("and", MaxPoolBits(2, 1, 1, smallest=every), ("flipped",)),
        Node("flat", Flatten(), ("and",)),
        Node("real", ToF32(), ("low",)),
        Node("again", at_zero(channels), ("real",)),
        Node("count", BinLinear(pack(np.ones((1, 1, 1, channels * 20)))), ("flat",)),
    )
    for output in ("low", "flipped", "or", "and", "flat", "again", "count"):
        graph = Graph(Input((5, 3, 4), Value("u8", (3, 4, 5))), nodes, output)
        made = check(backends, twin, graph, np.zeros((2, 5, 3, 4), np.uint8))
    assert (made["again"] == 1).all() and (made["count"] == channels * 20).all()


def test_flattening_bits_moves_channels_across_words(twin, backends) -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 5, 31, 32, 33, 40, 64, 70):
        operations = half(channels), Flatten(), BinLinear(pack(signs(rng, 9, 1, 1, 6 * channels)))
        made = check(
            backends, twin, chain(Value("u8", (3, 2, channels)), *operations), as_pixels(signs(rng, 4, channels, 3, 2))
        )
        assert np.array_equal(made["n1"][:, 0, 0, channels : 2 * channels], made["n0"][:, 0, 1])


def test_joined_bits_keep_their_order(twin, backends) -> None:
    rng = np.random.default_rng(0)
    nodes = (
        Node("a", half(32), ("input",)),
        Node("b", Binarize(np.full(32, -1.0, np.float32)), ("input",)),
        Node("sums", BinConv2d(pack(signs(rng, 37, 1, 1, 32))), ("a",)),
        Node("c", Threshold(np.zeros(37, np.int32), pack(signs(rng, 37))), ("sums",)),
        Node("all", Concat(), ("b", "a", "c")),
        Node("out", BinConv2d(pack(signs(rng, 5, 2, 2, 101)), padding=1), ("all",)),
    )
    graph = Graph(Input((32, 3, 3), Value("u8", (3, 3, 32))), nodes, "out")
    check(backends, twin, graph, as_pixels(signs(rng, 3, 32, 3, 3)))


# ---------------------------------------------------------------------- 7, 9: accumulators


@pytest.mark.parametrize("fan_in", [31 * 32, 31 * 256, 32 * 256, 65_535, 65_537, 70_000, 1 << 18])
def test_long_sums_do_not_overflow(fan_in: int, twin, backends) -> None:
    """All bits differ, none do, half do: byte counters hold 255, 16-bit ones 65535."""
    rng = np.random.default_rng(0)
    weights = np.stack([np.ones(fan_in), -np.ones(fan_in), signs(rng, fan_in)])[:, None, None]
    x = as_pixels(np.stack([np.ones(fan_in), -np.ones(fan_in), signs(rng, fan_in), weights[2, 0, 0]]))
    graph = chain(vector("u8", fan_in), half(fan_in), BinLinear(pack(weights)))
    made = check(backends, twin, graph, x)["n1"][:, 0, 0]
    assert made[0, 0] == made[1, 1] == made[3, 2] == fan_in and made[0, 1] == -fan_in


def test_the_longest_sum_that_the_form_admits_is_exact(backends) -> None:
    """2^22 pixels of 255 but one of 254: float32 would round 1069547519 to 1069547520. And as many bits."""
    for backend, executor_of in backends.items():
        channels = 1 << (17 if backend.startswith("cuda") else 20)  # emulation takes its time
        fan_in, value = 4 * channels, Value("u8", (2, 2, channels))
        words = np.full((2, 2, 2, channels // 32), 0xFFFFFFFF, np.uint32)
        words[1] = 0
        pixels = np.full((1, channels, 2, 2), 255, np.uint8)
        pixels[0, -1, 1, 1] = 254
        sums = executor_of(chain(value, IntLinear(words))).run(pixels)
        bits = chain(value, Binarize(np.full(channels, 254.5, np.float32)), BinLinear(words))
        assert sums[0, 0, 0].tolist() == [255 * fan_in - 1, 1 - 255 * fan_in], backend
        assert executor_of(bits).run(pixels)[0, 0, 0].tolist() == [fan_in - 2, 2 - fan_in], backend


@pytest.mark.parametrize("fan_in", [1, 2, 3, 4, 63, 64, 65, 255, 257, 1000, 70_001])
def test_sums_of_the_brightest_pixels_are_exact(fan_in: int, twin, backends) -> None:
    """Pairs of 255 on equal signs are what 16-bit dot products saturate on."""
    rng = np.random.default_rng(0)
    alternating = np.where(np.arange(fan_in) % 4 < 2, 1, -1)
    weights = np.stack([np.ones(fan_in), -np.ones(fan_in), alternating, -alternating, signs(rng, fan_in)])
    x = np.stack([np.full(fan_in, 255), np.where(alternating > 0, 255, 0), rng.integers(128, 256, fan_in)])
    graph = chain(vector("u8", fan_in), IntLinear(pack(weights[:, None, None])))
    made = check(backends, twin, graph, x.astype(np.uint8))["n0"][:, 0, 0]
    assert made[0, 0] == 255 * fan_in and made[0, 1] == -255 * fan_in


def test_whole_numbers_beyond_2_to_24_are_rounded_to_the_nearest_once(twin, backends) -> None:
    fan_in = 66_000
    graph = chain(vector("u8", fan_in), IntLinear(pack(np.ones((3, 1, 1, fan_in)))))
    affine = Affine(np.array([1, -1, 0.1], np.float32), np.array([-0.0, 1, -1683000], np.float32))
    nodes = (*graph.nodes, Node("real", ToF32(), ("n0",)), Node("scaled", affine, ("n0",)))
    x = np.full((8, fan_in), 255, np.uint8)
    x[np.arange(8), 0] -= np.arange(8).astype(np.uint8)  # 16830000 and the seven numbers below it: ties both ways
    for output in ("real", "scaled"):
        made = check(backends, twin, Graph(graph.input, nodes, output), x)
    assert (made["real"].astype(np.int64) != made["n0"]).any()


# ---------------------------------------------------------------------- 10, 11: pools, groups


@pytest.mark.parametrize("size, stride, padding", [(2, 2, 0), (2, 2, 1), (3, 2, 1), (3, 1, 1), (3, 3, 0), (5, 2, 2)])
def test_padding_never_wins_a_pool(size: int, stride: int, padding: int, twin, backends) -> None:
    """Of -1 alone the or is -1; of +1 alone the and is +1; of negative numbers the largest is negative."""
    falling = pack(np.repeat([-1, 1], 20))
    for constant, sign in ((0, -1), (255, 1)):
        graph = chain(Value("u8", (5, 6, 40)), half(40), MaxPoolBits(size, stride, padding, smallest=falling))
        made = check(backends, twin, graph, np.full((2, 40, 5, 6), constant, np.uint8))
        assert (made["n1"] == sign).all()
    minus = pack(-np.ones((3, 1, 1, 2)))
    graph = chain(Value("u8", (5, 6, 2)), IntConv2d(minus), MaxPool(size, stride, padding), ToF32())
    assert (check(backends, twin, graph, np.full((2, 2, 5, 6), 7, np.uint8))["n1"] == -14).all()
    scale = Affine(np.full(3, 0.5, np.float32), np.full(3, -0.0, np.float32))
    graph = chain(Value("u8", (5, 6, 2)), IntConv2d(minus), scale, MaxPool(size, stride, padding))
    assert (check(backends, twin, graph, np.full((2, 2, 5, 6), 7, np.uint8))["n2"] == -7).all()


@pytest.mark.parametrize("size, stride, padding", [(2, 2, 1), (3, 1, 1), (4, 3, 2), (5, 2, 2), (2, 5, 0)])
def test_windows_begin_and_end_where_the_padding_puts_them(
    size: int, stride: int, padding: int, twin, backends
) -> None:
    rng = np.random.default_rng(size)
    pool = MaxPoolBits(size, stride, padding, smallest=pack(signs(rng, 40)))
    graph = chain(Value("u8", (6, 5, 40)), half(40), pool)
    check(backends, twin, graph, (rng.random((4, 40, 6, 5)) < 0.2).astype(np.uint8))
    sums = IntConv2d(pack(signs(rng, 9, 1, 1, 40))), MaxPool(size, stride, padding), ToF32()
    check(backends, twin, chain(Value("u8", (6, 5, 40)), *sums), rng.integers(0, 256, (4, 40, 6, 5), np.uint8))


def test_or_and_and_are_told_apart_channel_by_channel(twin, backends) -> None:
    for channels in (1, 31, 32, 33, 70):
        rng = np.random.default_rng(channels)
        pool = MaxPoolBits(2, 2, smallest=pack(signs(rng, channels)))
        graph = chain(Value("u8", (7, 4, channels)), half(channels), pool)
        check(backends, twin, graph, as_pixels(signs(rng, 5, channels, 7, 4)))


@pytest.mark.parametrize("channels, groups", [(2, 2), (6, 3), (33, 33), (40, 5), (64, 2), (64, 8), (70, 2), (96, 3)])
@pytest.mark.parametrize("pad", ["zero", "plus"])
def test_groups_see_their_own_channels_in_their_own_order(channels, groups, pad, twin, backends) -> None:
    rng = np.random.default_rng(channels)
    for multiple in (1, 3, 17):
        n_out = groups * multiple
        operation = BinConv2d(pack(signs(rng, n_out, 3, 3, channels // groups)), 1, 1, 1, groups, pad=pad)
        at = Threshold(rng.integers(-3, 4, n_out).astype(np.int32), pack(signs(rng, n_out)))
        graph = chain(Value("u8", (4, 5, channels)), half(channels), operation, at)
        check(backends, twin, graph, as_pixels(signs(rng, 2, channels, 4, 5)))


def test_a_group_is_blind_to_the_others(backends) -> None:
    graph = chain(Value("u8", (2, 2, 4)), half(4), BinConv2d(pack(np.ones((2, 1, 1, 2))), groups=2))
    x = np.zeros((1, 4, 2, 2), np.uint8)
    x[0, 2:] = 1
    for backend, executor_of in backends.items():
        sums = executor_of(graph).run(x)
        assert (sums[..., 0] == -2).all() and (sums[..., 1] == 2).all(), backend


# ---------------------------------------------------------------------- 12: order of bits, of axes, of sums


def test_channel_c_is_bit_c_of_its_word(backends) -> None:
    """Written by hand: channels 0, 1, 4, 31 and 32 of 35 are +1."""
    by_hand = np.array([0x80000013, 0x00000001], np.uint32)
    values = np.full(35, -1)
    values[[0, 1, 4, 31, 32]] = 1
    assert np.array_equal(pack(values), by_hand) and np.array_equal(unpack(by_hand, 35), values)
    graph = chain(vector("u8", 35), half(35), BinLinear(np.array([[[[0x3, 0x4]]]], np.uint32)))
    for backend, executor_of in backends.items():
        executor = executor_of(graph)
        assert np.array_equal(executor.trace(as_pixels(values[None]))["n0"][0, 0, 0], by_hand), backend
        # weights are +1 on channels 0, 1, 34: of 35 they disagree on 4, 31, 32, 34
        assert executor.run(as_pixels(values[None])).tolist() == [[[[35 - 2 * 4]]]], backend


def test_images_come_channels_first_and_rows_before_columns(backends) -> None:
    """One tap of +1 among -1, found where the raw image has it."""
    x = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(1, 2, 3, 4)
    graph = chain(Value("u8", (3, 4, 2)), IntConv2d(pack(np.array([[[[1, -1]]]]))))
    for backend, executor_of in backends.items():
        sums = executor_of(graph).run(x)[0, :, :, 0]
        assert np.array_equal(sums, x[0, 0].astype(int) - x[0, 1]), backend
    flat = chain(Value("u8", (3, 4, 2)), Flatten(), IntLinear(pack(np.where(np.eye(24), 1, -1)[:, None, None])))
    for backend, executor_of in backends.items():
        picked = (executor_of(flat).run(x)[0, 0, 0] + x.sum()) // 2
        assert np.array_equal(picked, np.moveaxis(x[0], 0, -1).ravel()), backend


def test_an_image_of_one_row_is_an_image_and_one_of_one_point_a_vector(twin, backends) -> None:
    rng = np.random.default_rng(0)
    for height, width, raw in ((1, 7, (1, 7)), (7, 1, (1, 7, 1)), (7, 1, (7, 1)), (1, 1, (3, 1, 1))):
        channels = int(np.prod(raw)) // (height * width)
        operations = IntConv2d(pack(signs(rng, 4, 1, 1, channels)), padding=1), Affine(*np.ones((2, 4), np.float32))
        graph = chain(Value("u8", (height, width, channels)), *operations, raw=raw)
        check(backends, twin, graph, rng.integers(0, 256, (3, *raw), np.uint8))


def test_the_first_of_equal_classes_wins(twin, backends) -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 2, 17, 40):
        weights = pack(signs(rng, 3, 1, 1, 6)[rng.integers(0, 3, channels)])
        x = rng.integers(0, 2, (30, 6), np.uint8)
        graph = chain(vector("u8", 6), IntLinear(weights), ArgMax())
        sums = check(backends, twin, graph, x)["n0"][:, 0, 0]
        scale = Affine(np.full(channels, -0.1, np.float32), np.zeros(channels, np.float32))
        network = PackedNetwork(Form((chain(vector("u8", 6), IntLinear(weights), scale),)))
        for backend in ("numpy", "auto"):
            assert np.array_equal(network.classes(x, backend=backend), np.argmin(sums, 1)), backend


def test_an_ensemble_is_summed_in_the_order_of_the_file_then_divided() -> None:
    """In float32 (1e8 + 1) - 1e8 is 0, and 1e8 - 1e8 + 1 is 1; a third is rounded after the sum."""

    def member(bias: float) -> Graph:
        affine = Affine(np.zeros(1, np.float32), np.array([bias], np.float32))
        return chain(vector("u8", 1), IntLinear(pack(np.ones((1, 1, 1, 1)))), affine)

    x = np.ones((2, 1), np.uint8)
    for biases, answer in (((1e8, 1, -1e8), 0.0), ((1e8, -1e8, 1), np.float32(1) / np.float32(3)), ((7, 0, 0), 7 / 3)):
        network = PackedNetwork(Form(tuple(member(bias) for bias in biases)))
        for backend in ("numpy", "auto"):
            got = network.run(x, backend=backend)
            assert got.dtype == np.float32 and got.tolist() == [[np.float32(answer)]] * 2, backend
    for biases in np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32):
        total = biases[0]
        for bias in biases[1:]:
            total = total + bias
        network = PackedNetwork(Form(tuple(member(float(bias)) for bias in biases)))
        assert network.run(x).tolist() == [[total / np.float32(7)]] * 2


# ---------------------------------------------------------------------- values with many users


def test_a_value_read_in_many_ways_is_the_same_for_each(twin, backends) -> None:
    """One image of bits under three paddings, pooled, flattened; one sum under two thresholds and an affine map."""
    rng = np.random.default_rng(0)
    at = [Threshold(rng.integers(-5, 6, 32).astype(np.int32), pack(signs(rng, 32))) for _ in range(2)]
    nodes = (
        Node("bits", half(32), ("input",)),
        Node("near", BinConv2d(pack(signs(rng, 32, 3, 3, 32)), padding=1), ("bits",)),
        Node("far", BinConv2d(pack(signs(rng, 9, 5, 5, 32)), padding=2, pad="plus"), ("bits",)),
        Node("parted", BinConv2d(pack(signs(rng, 32, 3, 3, 8)), padding=3, groups=4, pad="minus"), ("bits",)),
        Node("pooled", MaxPoolBits(2, 1, 1, smallest=pack(signs(rng, 32))), ("bits",)),
        Node("flat", Flatten(), ("bits",)),
        Node("one", at[0], ("near",)),
        Node("two", at[1], ("near",)),
        Node("real", Affine(*rng.standard_normal((2, 32)).astype(np.float32)), ("near",)),
        Node("both", Concat(), ("one", "two", "one")),
        Node("again", BinConv2d(pack(signs(rng, 7, 3, 3, 96)), padding=1), ("both",)),
        Node("twice", Add(), ("near", "near")),
        Node("whole", BinLinear(pack(signs(rng, 5, 4, 5, 32))), ("one",)),
        Node("row", BinLinear(pack(signs(rng, 5, 1, 1, 640))), ("flat",)),
        Node("sum", Add(), ("whole", "row")),
    )
    graph = Graph(Input((32, 4, 5), Value("u8", (4, 5, 32))), nodes, "sum")
    x = as_pixels(signs(rng, 3, 32, 4, 5))
    for output in ("sum", "far", "parted", "pooled", "real", "again", "twice", "two"):
        check(backends, twin, Graph(graph.input, nodes, output), x)


# ---------------------------------------------------------------------- batches


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 4, 5, 15, 16, 17, 33, 257])
def test_an_example_is_answered_alike_in_every_batch(batch: int, twin, backends) -> None:
    rng = np.random.default_rng(7)
    image = (
        IntConv2d(pack(signs(rng, 33, 3, 3, 3)), padding=1),
        Threshold(rng.integers(-300, 300, 33).astype(np.int32), pack(signs(rng, 33))),
        MaxPoolBits(2, 2, smallest=pack(signs(rng, 33))),
        BinConv2d(pack(signs(rng, 20, 3, 3, 33)), padding=1),
        Affine(*rng.standard_normal((2, 20)).astype(np.float32)),
        at_zero(20),
        BinLinear(pack(signs(rng, 10, 3, 4, 20))),
        Affine(*rng.standard_normal((2, 10)).astype(np.float32)),
    )
    graph = chain(Value("u8", (6, 8, 3)), *image)
    x = rng.integers(0, 256, (257, 3, 6, 8), np.uint8)
    check(backends, twin, graph, x[:batch])
    for backend, executor_of in backends.items():
        executor = executor_of(graph)
        assert np.array_equal(executor.run(x[:batch]), executor.run(x)[:batch]), backend
