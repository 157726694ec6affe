"""Single layers on the host's emulation of the GPU kernels: ragged sizes, extremes, and which kernel runs when."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from core.deploy import reference
from core.deploy.cuda.backend import MOST_RUNS, Executor
from core.deploy.cuda.launcher import DeviceError, has_bit_tensor_cores
from core.deploy.cuda.plan import plan
from core.deploy.cuda.rates import WORK, counted, rates
from core.deploy.cuda.records import MOVES, SUMS, record
from core.deploy.cuda.steps import Launch
from core.deploy.cuda.sum_steps import SUMS_BY, SumStep
from core.deploy.form import FormError, Graph, Input, Node, Value
from core.deploy.operations import Affine, ArgMax, Binarize, Relu, Threshold
from core.deploy.packing import pack_bits
from core.deploy.sums import PADDINGS, BinConv2d, BinLinear, F32BinLinear, F32Conv2d, F32Linear, IntLinear

WORD_EDGES = (1, 31, 32, 33, 127, 128, 129, 1000, 1024, 1025, 4200)
TILE_EDGES = (1, 9, 32, 33, 64, 65, 127, 128, 130)


def bits(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return pack_bits(rng.integers(0, 2, shape).astype(np.bool_))


def network(value: Value, *operations) -> Graph:
    """A chain of operations on an input of `value`, images with channels first."""
    raw = (value.shape[2], *value.shape[:2]) if value.shape[:2] != (1, 1) else (value.shape[2],)
    names = ["input", *(f"{k} {type(op).__name__}" for k, op in enumerate(operations))]
    nodes = tuple(Node(names[k + 1], op, (names[k],)) for k, op in enumerate(operations))
    return Graph(Input(raw, value), nodes, names[-1])


def signs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.choice([-1, 1], shape).astype(np.float32)


def followers(rng: np.random.Generator, outputs: int) -> tuple[tuple, ...]:
    """Nothing, a threshold near the usual sums, an affine map whose results are rounded."""
    at = rng.integers(-9, 9, outputs).astype(np.int32)
    scale, bias = rng.normal(size=(2, outputs)).astype(np.float32)
    return (), (Threshold(at, bits(rng, outputs)),), (Affine(scale, bias),)


def check(graph: Graph, x: np.ndarray, launcher, sums: str = "auto") -> None:
    expected = reference.Executor(graph).run(x)
    found = Executor(graph, launcher=launcher, sums=sums).run(x)
    assert found.dtype == expected.dtype and np.array_equal(found, expected), graph.nodes


@pytest.mark.parametrize("sums", SUMS_BY)
@pytest.mark.parametrize("k", WORD_EDGES)
def test_linear_layers_of_any_size_are_the_reference_bit_for_bit(host, sums: str, k: int) -> None:
    rng = np.random.default_rng(k)
    for outputs in rng.choice(TILE_EDGES, 3):
        rows = int(rng.choice([1, 2, 3, 4, 5, 8, 9, 65, 129]))
        x = signs(rng, (rows, k))
        for after in followers(rng, outputs):
            layer = BinLinear(bits(rng, outputs, 1, 1, k))
            check(network(Value("f32", (1, 1, k)), Binarize(np.zeros(k, np.float32)), layer, *after), x, host(), sums)


@pytest.mark.parametrize("sums", ("tile", "mma"))
@pytest.mark.parametrize("pad", PADDINGS)
@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "kernel", "stride", "dilation", "padding"),
    [
        (3, 7, 1, (3, 3), 1, 1, 1),
        (64, 96, 1, (3, 2), 2, 1, 1),
        (128, 64, 2, (3, 3), 1, 2, 2),
        (36, 64, 2, (3, 3), 1, 1, 1),
        (24, 12, 12, (5, 5), 2, 1, 4),  # taps outside at once above and below
        (256, 130, 1, (1, 1), 1, 1, 0),
        (160, 40, 1, (2, 4), 3, 3, 3),
    ],
)
def test_convolutions_of_any_shape_are_the_reference_bit_for_bit(
    host, sums, pad, channels, outputs, groups, kernel, stride, dilation, padding
) -> None:
    rng = np.random.default_rng(channels)
    x = signs(rng, (2, channels, 7, 10))
    layer = BinConv2d(bits(rng, outputs, *kernel, channels // groups), stride, dilation, padding, groups, pad)
    for after in followers(rng, outputs):
        first = Binarize(np.zeros(channels, np.float32))
        check(network(Value("f32", (7, 10, channels)), first, layer, *after), x, host(), sums)


@pytest.mark.parametrize("sums", SUMS_BY)
def test_sums_at_their_extremes_are_exact(host, sums: str) -> None:
    k = 70_000  # beyond int16, and beyond what bytes could count
    full = np.full((3, k), 1, np.float32) * np.array([[1], [-1], [1]], np.float32)
    for weights in (pack_bits(np.ones((40, 1, 1, k))), pack_bits(np.zeros((40, 1, 1, k)))):
        graph = network(Value("f32", (1, 1, k)), Binarize(np.zeros(k, np.float32)), BinLinear(weights))
        check(graph, full, host(), sums)
    assert Executor(graph, launcher=host(), sums=sums).run(full)[0, 0, 0, 0] == -k


def test_pixels_at_their_extremes_are_exact(host) -> None:
    k = 70_003  # whole words of four do not fill it
    x = np.stack([np.full(k, 255, np.uint8), np.zeros(k, np.uint8)])
    for weights in (pack_bits(np.ones((2, 1, 1, k))), pack_bits(np.zeros((2, 1, 1, k)))):
        check(network(Value("u8", (1, 1, k)), IntLinear(weights)), x, host())


@pytest.mark.parametrize("kind", (F32BinLinear, F32Linear))
def test_sums_of_reals_are_the_reference_to_rounding(host, kind: type) -> None:
    rng = np.random.default_rng(5)
    k, outputs = 333, 70
    weights = rng.normal(size=(outputs, 1, 1, k)).astype(np.float32)
    layer = kind(weights if kind is F32Linear else pack_bits(weights >= 0))
    x = rng.normal(size=(5, k)).astype(np.float32)
    graph = network(Value("f32", (1, 1, k)), layer)
    found, expected = Executor(graph, launcher=host()).run(x), reference.Executor(graph).run(x)
    size = np.abs(x).astype(np.float64) @ np.abs(weights if kind is F32Linear else np.ones_like(weights))[:, 0, 0].T
    # two sums of k rounded products, each within k 2^-24 of the exact sum, relative to the sum of absolute values
    assert (np.abs(found - expected)[:, 0, 0] <= 2 * (k + 1) * 2.0**-24 * size).all()


def test_real_images_through_every_padding_and_stride_are_exact_where_sums_are(host) -> None:
    rng = np.random.default_rng(6)
    for stride, dilation, padding, groups in ((1, 1, 1, 1), (2, 2, 3, 2), (3, 1, 0, 4)):
        weights = rng.integers(-4, 5, (24, 3, 2, 8 // groups)).astype(np.float32)
        x = rng.integers(-9, 10, (3, 8, 9, 7)).astype(np.float32)
        check(
            network(Value("f32", (9, 7, 8)), F32Conv2d(weights, stride, dilation, padding, groups), Relu()), x, host()
        )


def test_argmax_is_the_first_of_ties_and_of_nan(host) -> None:
    rng = np.random.default_rng(7)
    x = rng.integers(0, 3, (50, 45)).astype(np.float32)
    x[10:20] = -np.inf
    check(network(Value("f32", (1, 1, 45)), ArgMax()), x, host())
    x[::2, 7] = x[::3, 40] = np.nan  # inf - inf within a network
    check(network(Value("f32", (1, 1, 45)), ArgMax()), x, host())


def test_a_batch_is_its_examples_one_by_one_and_may_be_empty(host, random) -> None:
    source = random(3)
    graph = source.graph()
    x = source.inputs(graph, 257)
    executor = Executor(graph, launcher=host())
    whole = executor.run(x)
    assert np.array_equal(whole[:5], np.concatenate([executor.run(x[k : k + 1]) for k in range(5)]))
    value = graph.values[graph.output]
    assert executor.run(x[:0]).shape == executor.trace(x[:0])[graph.output].shape == (0, *value.array_shape)


def test_threads_that_share_an_executor_get_their_own_answers(host, random) -> None:
    source = random(6)
    graph = source.graph()
    x = source.inputs(graph, 24)
    executor, expected = Executor(graph, launcher=host()), reference.Executor(graph).run(x)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: executor.run(x[k : k + 2]), list(range(0, 24, 2)) * 5))
    assert np.array_equal(np.concatenate(found), np.concatenate([expected] * 5))


def test_affine_maps_keep_denormals(host) -> None:
    scale, bias = np.float32([1e-38, -1e-45, 1e-40]), np.float32([1e-42, 0.0, -3e-39])
    x = np.float32([[0.25, 1.0, 1.0], [-1e-3, 3.0, 0.0]])
    graph = network(Value("f32", (1, 1, 3)), Affine(scale, bias))
    assert (np.abs(reference.Executor(graph).run(x)) < np.finfo(np.float32).tiny).all()
    check(graph, x, host())


def test_more_batch_sizes_than_are_kept_and_back_again(host, random) -> None:
    source = random(4)
    graph = source.graph()
    x = source.inputs(graph, MOST_RUNS + 3)
    executor, expected = Executor(graph, launcher=host()), reference.Executor(graph).run(x)
    for batch in (*range(1, MOST_RUNS + 4), 1, 2):
        assert np.array_equal(executor.run(x[:batch]), expected[:batch])


def test_a_batch_too_large_for_one_part_runs_in_several(host, random, monkeypatch) -> None:
    source = random(5)
    graph = source.graph()
    monkeypatch.setattr(
        "core.deploy.cuda.backend.MOST_NUMBERS", 2 * max(np.prod(v.shape) for v in graph.values.values())
    )
    x = source.inputs(graph, 7)
    assert np.array_equal(Executor(graph, launcher=host()).run(x), reference.Executor(graph).run(x))


def kernels(graph: Graph, batch: int, capability: tuple[int, int]) -> list[str]:
    steps = plan(graph, tensor_cores=has_bit_tensor_cores(capability)).steps
    return [step.choose(batch * step.rows) for step in steps if isinstance(step, SumStep)]


@pytest.mark.parametrize(
    ("capability", "has"), [((8, 0), True), ((8, 9), True), ((9, 0), True), ((10, 0), False), ((12, 0), False)]
)
def test_bit_tensor_cores_are_used_where_they_are_instructions(capability, has, host) -> None:
    rng = np.random.default_rng(0)
    after = Threshold(np.zeros(128, np.int32), bits(rng, 128))
    layers = BinLinear(bits(rng, 128, 1, 1, 256)), after, BinLinear(bits(rng, 10, 1, 1, 128))
    graph = network(Value("f32", (1, 1, 256)), Binarize(np.zeros(256, np.float32)), *layers)
    large = "bits_linear_mma16" if has else "bits_linear_tile"
    assert kernels(graph, 100, capability) == [large, "bits_linear_tile"]
    assert kernels(graph, 1, capability) == ["bits_linear_few1"] * 2
    assert kernels(graph, 7, capability) == ["bits_linear_few8"] * 2
    check(graph, signs(rng, (9, 256)), host(capability))


def test_values_share_memory_once_they_are_read(host) -> None:
    rng = np.random.default_rng(0)
    layer, after = BinLinear(bits(rng, 64, 1, 1, 64)), Threshold(np.zeros(64, np.int32), bits(rng, 64))
    graph = network(Value("f32", (1, 1, 64)), Binarize(np.zeros(64, np.float32)), *[layer, after] * 9)
    sizes = []

    class Counting(type(host())):
        def allocate(self, size: int):
            sizes.append(size)
            return super().allocate(size)

    launcher = host()
    launcher.__class__ = Counting
    x = signs(rng, (100, 64))
    assert np.array_equal(Executor(graph, launcher=launcher).run(x), reference.Executor(graph).run(x))
    assert sizes[-1] <= 100 * 64 * 4 + 2 * (100 * 8 + 256)  # the input, and two values of bits at a time


def test_groups_beyond_a_grid_are_refused_with_the_way_out() -> None:
    groups = 65_536
    layer = BinConv2d(np.ones((groups, 1, 1, 1), np.uint32), groups=groups)
    graph = network(Value("f32", (1, 2, groups)), Binarize(np.zeros(groups, np.float32)), layer)
    with pytest.raises(FormError, match="65535 groups .*native"):
        plan(graph)


def test_the_host_refuses_what_is_no_kernel_or_no_struct_of_it(host) -> None:
    with pytest.raises(DeviceError, match="no such kernel"):
        host().launch(Launch("no_kernel", (1, 1, 1), 0, record(SUMS)))
    with pytest.raises(DeviceError, match="relu.*another size"):
        host().launch(Launch("relu", (1, 1, 1), 0, record(SUMS)))
    host().launch(Launch("relu", (1, 1, 1), 0, record(MOVES)))


def mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return x ^ x >> np.uint32(16)


def test_the_kernels_that_measure_rates_do_the_work_they_are_counted_for(host) -> None:
    threads, turns, seed = np.arange(256, dtype=np.uint32), 3, 5
    words = mixed(seed + 6 * threads[:, None] + np.arange(6, dtype=np.uint32)).reshape(8, 8, 4, 6)  # warp, g, q, word
    rows = np.concatenate([words[..., [0, 2]], words[..., [1, 3]]], axis=1)  # rows g and g + 8; words q and q + 4
    columns = words[..., [4, 5]]
    for name, both in (("rate_mma_and", np.bitwise_and), ("rate_mma_xor", np.bitwise_xor)):
        sums = np.bitwise_count(both(rows[:, :, None], columns[:, None])).sum(axis=(-2, -1), dtype=np.int64)
        lanes = sums.reshape(8, 2, 8, 4, 2).sum(axis=(1, 4)).reshape(256)  # rows g, g + 8; columns 2 q, 2 q + 1
        assert np.array_equal(counted(host(), name, turns=turns, seed=seed), lanes * turns * 8), name
    chains = mixed(seed + 8 * threads[:, None] + np.arange(8, dtype=np.uint32))
    steps = np.arange(turns, dtype=np.uint32)
    pops = sum(np.bitwise_count(chains ^ a).sum(1, dtype=np.int64) for t in steps for a in (t, ~(t * np.uint32(3))))
    assert np.array_equal(counted(host(), "rate_popc", turns=turns, seed=seed), pops)


def test_rates_are_work_over_the_clock_s_seconds(host) -> None:
    found = rates(host(), blocks=2, turns=1, repeats=2, clock=lambda call: (call(), 0.5)[1])
    assert {name: rate.operations for name, rate in found.items()} == {name: 2 * w / 0.5 for name, w in WORK.items()}
