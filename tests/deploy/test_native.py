"""The native engine against NumPy: every node of random networks from the same inputs, fused or not, at every level."""

import dataclasses
import gc
import os
import signal
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from core import extension
from core.deploy import reference
from core.deploy.form import FormError, Graph, Input, Node, Value
from core.deploy.native import Executor, chosen_level, levels
from core.deploy.operations import OPERATIONS, Add, Affine, ArgMax, Binarize, Flatten, Threshold, ToF32
from core.deploy.packing import pack
from core.deploy.sums import BinConv2d, BinLinear, IntLinear

if extension.module() is None:
    pytest.skip("the native extension is not built here", allow_module_level=True)

LEVELS = levels()
SUMS_OF_REALS = {"F32BinLinear", "F32Linear", "F32BinConv2d", "F32Conv2d"}
GRAPHS = 60  # a level and a batch size


def bound(operation, arrays, values, made) -> np.ndarray:
    """How far two orders of summation can be apart: (n - 1) half-ulps each of the sum of magnitudes, n terms."""
    weights = operation.weights
    signless = (
        np.abs(weights) if not operation.packed else pack(np.ones((*weights.shape[:3], _channels(operation, values))))
    )
    magnitudes = reference.compute(dataclasses.replace(operation, weights=signless), [np.abs(arrays[0])], values, made)
    terms = weights[0].size * (1 if not operation.packed else 32)
    return 2 * terms * 2.0**-24 * magnitudes.astype(np.float64)


def _channels(operation, values) -> int:
    return values[0].channels // getattr(operation, "groups", 1)


def assert_every_node_is_what_numpy_makes_of_its_inputs(
    graph: Graph, x: np.ndarray, traced: dict[str, np.ndarray]
) -> None:
    made = {"input": reference.arranged(x, graph.input), **traced}
    for node, values, value in graph.steps():
        arrays = [made[name] for name in node.inputs]
        expected = reference.compute(node.operation, arrays, values, value)
        got, name = made[node.name], type(node.operation).__name__
        assert got.dtype == expected.dtype and got.shape == (len(x), *value.array_shape), f"{node.name} ({name})"
        if name in SUMS_OF_REALS:
            apart = np.abs(got.astype(np.float64) - expected)
            assert (apart <= bound(node.operation, arrays, values, value)).all(), f"{node.name} ({name})"
        else:
            assert np.array_equal(got, expected), f"{node.name} ({name})"


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("level", LEVELS)
def test_every_node_is_what_numpy_makes_of_its_inputs_and_fusing_changes_no_bit(networks, level, batch):
    for seed in range(batch * 1000, batch * 1000 + GRAPHS):
        graph = networks.random_graph(seed)
        x, executor = networks.inputs_of(graph, batch, seed), Executor(graph, level=level)
        traced = executor.trace(x)
        assert_every_node_is_what_numpy_makes_of_its_inputs(graph, x, traced)
        assert np.array_equal(executor.run(x), traced[graph.output]), f"fused, seed {seed}"


def test_the_random_networks_hold_every_operation(networks):
    graphs = [networks.random_graph(1000 * batch + seed) for batch in (0, 1, 3) for seed in range(GRAPHS)]
    assert {type(node.operation).__name__ for graph in graphs for node in graph.nodes} == set(OPERATIONS)


@pytest.mark.parametrize("level", LEVELS)
def test_a_batch_of_many_chunks_is_its_examples_one_by_one(networks, level):
    for seed in range(20):
        graph = networks.random_graph(seed, channels=40)
        x, executor = networks.inputs_of(graph, 257, seed), Executor(graph, level=level)
        together, pick = executor.run(x), [0, 1, 63, 64, 255, 256]
        assert np.array_equal(together[pick], np.concatenate([executor.run(x[i : i + 1]) for i in pick])), seed


def test_levels_agree_on_integers_and_on_signed_real_sums(networks):
    # a product with -1 or +1 rounds nothing and every level adds in the order of the taps
    for seed in range(3000, 3060):
        graph = networks.random_graph(seed)
        if any(type(node.operation).__name__ in ("F32Linear", "F32Conv2d") for node in graph.nodes):
            continue
        x = networks.inputs_of(graph, 2, seed)
        first, *others = [Executor(graph, level=level).run(x) for level in LEVELS]
        assert all(np.array_equal(first, other) for other in others), seed


def wide(rng: np.random.Generator) -> Graph:
    """Large enough for every step to be shared between threads."""
    sides, channels = Value("u8", (24, 24, 8)), 128
    signs = [rng.integers(0, 2, shape) * 2 - 1 for shape in ((channels, 3, 3, 8), (channels, 3, 3, channels))]
    at = [rng.integers(-20, 20, channels).astype(np.int32) for _ in range(2)]
    flip = pack(rng.integers(0, 2, channels) * 2 - 1)
    from_bits = rng.integers(0, 2, (512, 24, 24, channels)) * 2 - 1
    return Graph(
        Input((8, 24, 24), sides),
        (
            Node("binarize", Binarize(np.full(8, 127.0, np.float32)), ("input",)),
            Node("first", BinConv2d(pack(signs[0]), padding=1), ("binarize",)),
            Node("first.sign", Threshold(at[0], flip), ("first",)),
            Node("second", BinConv2d(pack(signs[1]), padding=1), ("first.sign",)),
            Node("second.sign", Threshold(at[1], flip), ("second",)),
            Node("flat", Flatten(), ("second.sign",)),
            Node("last", BinLinear(pack(from_bits).reshape(512, 1, 1, -1)), ("flat",)),
            Node("scaled", Affine(np.full(512, 0.1, np.float32), np.full(512, 0.3, np.float32)), ("last",)),
        ),
        "scaled",
    )


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_no_bit(threads):
    rng = np.random.default_rng(5)
    graph, x = wide(rng), rng.integers(0, 256, (9, 8, 24, 24), np.uint8)
    one, many = Executor(graph), Executor(graph, threads=threads)
    for batch in (1, 2, 9):
        for _ in range(2):
            assert np.array_equal(one.run(x[:batch]), many.run(x[:batch]))


@pytest.mark.parametrize("threads", [1, 2])
def test_several_python_threads_may_call_one_executor(threads):
    rng = np.random.default_rng(6)
    graph, x = wide(rng), rng.integers(0, 256, (4, 8, 24, 24), np.uint8)
    executor = Executor(graph, threads=threads)
    expected, results = executor.run(x), [[] for _ in range(4)]

    def call(kept: list) -> None:
        kept.extend(executor.run(x) for _ in range(5))

    callers = [threading.Thread(target=call, args=(kept,)) for kept in results]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(len(kept) == 5 and all(np.array_equal(expected, made) for made in kept) for kept in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_runs_on_threads_of_its_own():
    rng = np.random.default_rng(8)
    graph, x = wide(rng), rng.integers(0, 256, (2, 8, 24, 24), np.uint8)
    executor = Executor(graph, threads=2)
    expected = executor.run(x)  # now the parent's second thread is there; a child has none of it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads: the point here
        child = os.fork()
    if child == 0:
        made = []
        callers = [threading.Thread(target=lambda: made.extend(executor.run(x) for _ in range(3))) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        os._exit(0 if len(made) == 6 and all(np.array_equal(each, expected) for each in made) else 1)
    end = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done == (child, 0)
    assert np.array_equal(executor.run(x), expected)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to count the threads of this process")
def test_networks_of_one_number_of_threads_share_them():
    rng = np.random.default_rng(9)
    graph, x = wide(rng), rng.integers(0, 256, (4, 8, 24, 24), np.uint8)
    before = len(os.listdir("/proc/self/task"))
    kept = [Executor(graph, threads=5) for _ in range(6)]
    expected = Executor(graph).run(x)
    assert all(np.array_equal(executor.run(x), expected) for executor in kept)
    assert len(os.listdir("/proc/self/task")) <= before + 4
    kept.clear()
    gc.collect()
    assert len(os.listdir("/proc/self/task")) <= before


def test_the_input_is_untouched_and_may_be_read_only(networks):
    graph = networks.random_graph(11)
    x = networks.inputs_of(graph, 3, 1)
    before = x.copy()
    x.flags.writeable = False
    Executor(graph).run(x)
    assert np.array_equal(x, before)


def test_an_output_may_be_the_input(networks):
    given = Input((3, 4, 5), Value("u8", (4, 5, 3)))
    graph = Graph(given, (Node("unused", Flatten(), ("input",)),), "input")
    x = networks.inputs_of(graph, 2)
    assert np.array_equal(Executor(graph).run(x), x.transpose(0, 2, 3, 1))


def test_the_largest_of_nan_is_the_first_nan_as_in_numpy():
    huge = Affine(np.full(3, 3e38, np.float32), np.zeros(3, np.float32))
    low = Affine(np.array([-3e38, 3e38, 3e38], np.float32), np.zeros(3, np.float32))
    nodes = [
        ("f", ToF32(), ("input",)),
        ("a", huge, ("f",)),
        ("b", low, ("f",)),
        ("s", Add(), ("a", "b")),
        ("o", ArgMax(), ("s",)),
    ]
    graph = Graph(Input((3,), Value("u8", (1, 1, 3))), tuple(Node(*node) for node in nodes), "o")
    x = np.array([[2, 0, 1], [0, 2, 2]], np.uint8)
    assert np.array_equal(Executor(graph).run(x), reference.Executor(graph).run(x))


def test_profile_names_each_step_and_its_kind():
    rng = np.random.default_rng(7)
    rows = Executor(wide(rng)).profile(rng.integers(0, 256, (2, 8, 24, 24), np.uint8))
    assert [(name, kind) for name, kind, _ in rows] == [
        ("input", "other"),
        ("binarize", "pack"),
        ("first", "sums"),
        ("second", "sums"),
        ("last", "sums"),
    ]
    assert all(seconds > 0 for _, _, seconds in rows)


def test_the_environment_variable_forces_a_level(monkeypatch):
    monkeypatch.setenv("BITRELAX_CPU_LEVEL", "portable")
    assert chosen_level() == "portable" and chosen_level(LEVELS[-1]) == LEVELS[-1]
    monkeypatch.setenv("BITRELAX_CPU_LEVEL", "avx1024")
    with pytest.raises(
        ValueError, match=r"BITRELAX_CPU_LEVEL='avx1024' is none of portable, avx2, avx512; here it may be"
    ):
        chosen_level()


def test_a_level_of_another_cpu_is_refused(monkeypatch):
    monkeypatch.setattr("core.deploy.native.levels", lambda: ("portable",))
    with pytest.raises(ValueError, match="level='avx512' is not one of this CPU; here it may be portable"):
        chosen_level("avx512")


def test_without_the_extension_the_reason_and_the_way_out_are_told(monkeypatch):
    monkeypatch.setattr("core.extension._module", None)
    monkeypatch.setattr("core.extension._REASON", "no compiler", raising=False)
    extension.info.cache_clear()
    try:
        graph = Graph(Input((3,), Value("u8", (1, 1, 3))), (Node("n", Flatten(), ("input",)),), "n")
        with pytest.raises(RuntimeError, match="backend='native': the native extension is not built.*backend='numpy'"):
            Executor(graph)
    finally:
        monkeypatch.undo()
        extension.info.cache_clear()


def test_too_many_border_classes_are_refused_by_number(monkeypatch):
    monkeypatch.setattr("core.deploy.lowering_layout.LARGEST_TABLE", 9 * 64 - 1)
    given = Input((7, 7), Value("u8", (7, 7, 1)))
    nodes = (
        Node("bits", Binarize(np.zeros(1, np.float32)), ("input",)),
        Node("sums", BinConv2d(np.ones((64, 3, 3, 1), np.uint32), padding=1), ("bits",)),
    )
    with pytest.raises(FormError, match=r"3 x 3 classes of borders times 64 outputs .* use backend='numpy'"):
        Executor(Graph(given, nodes, "sums"))


def test_activations_beyond_the_limit_are_refused_before_they_are_allocated():
    side = 1 << 11  # a border of 4096 on each side of one pixel of 48 words: 12 GiB
    weights = np.ones((1, 1, 1, 48), np.uint32)
    given = Input((8,), Value("u8", (1, 1, 8)))
    nodes = (
        Node("sums", IntLinear(np.ones((1536, 1, 1, 1), np.uint32)), ("input",)),
        Node("bits", Threshold(np.zeros(1536, np.int32), np.zeros(48, np.uint32)), ("sums",)),
        Node("wide", BinConv2d(weights, padding=4096, stride=side), ("bits",)),
    )
    with pytest.raises(ValueError, match="activations of one example beyond 4 GiB"):
        Executor(Graph(given, nodes, "wide"))
