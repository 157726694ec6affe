"""What the native engine refuses or keeps small: lying shapes, arrays that many nodes share, borders, float modes."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from core import extension
from core.deploy import Form, FormError, PackedNetwork, lowering_constants, lowering_layout, native, reference
from core.deploy.form import Graph, Input, Node, Value
from core.deploy.operations import Affine, AveragePool, Binarize, Threshold
from core.deploy.packing import pack
from core.deploy.sums import BinConv2d, BinLinear, F32BinLinear, F32Linear

if extension.module() is None:
    pytest.skip("the native extension is not built here", allow_module_level=True)

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
RESIDENT = Path("/proc/self/statm")


def in_a_row(operation, count: int, channels: int) -> Graph:
    nodes = [Node(f"n{k}", operation, (f"n{k - 1}" if k else "input",)) for k in range(count)]
    return Graph(Input((channels,), Value("f32", (1, 1, channels))), tuple(nodes), nodes[-1].name)


def test_shapes_whose_product_overflows_are_refused() -> None:
    program = native.kernels().PackedProgram(0, 1)
    source = program.buffer(2, 1, 1, 16, 0, 0, False)
    program.floats(source, program.buffer(3, 1, 1, 16, 0, 1, False))
    program.finish(0)
    x, y = np.empty((2**60, 0), np.uint8), np.empty((2**60, 0), np.float32)  # times 16 it is 0
    with pytest.raises(ValueError, match="wrong"):
        program.run(x, y)
    with pytest.raises(ValueError, match="wrong shape"):
        program.run_all(x, [y])
    with pytest.raises(ValueError, match="wrong shape"):
        program.seconds(x, [y])


@pytest.mark.skipif(not RESIDENT.exists(), reason="needs /proc to read the memory of this process")
def test_an_array_that_many_nodes_and_networks_use_is_held_once() -> None:
    weights = np.random.default_rng(0).standard_normal((512, 1, 1, 512), np.float32)  # 1 MiB
    form = Form(tuple(in_a_row(F32Linear(weights), 100, 512) for _ in range(2)))
    before = int(RESIDENT.read_text().split()[1])
    executors = native.executors(form), native.executors(form, threads=2)
    grown = (int(RESIDENT.read_text().split()[1]) - before) * PAGE
    assert len(executors) == 2 and grown < 64 << 20  # of 400 copies: 400 MiB


@pytest.mark.parametrize("fused", [False, True])
def test_nodes_that_share_arrays_are_what_numpy_makes_of_them(fused: bool) -> None:
    rng, channels = np.random.default_rng(1), 33
    drawn = pack(rng.integers(0, 2, (channels, 3, 3, channels)) * 2 - 1)
    at, flip = rng.integers(-9, 9, channels).astype(np.int32), pack(rng.integers(0, 2, channels) * 2 - 1)
    nodes = [Node("bits", Binarize(np.full(channels, 100.0, np.float32)), ("input",))]
    for k in range(6):  # three geometries, each twice
        padded = {"padding": 1} if k % 3 else {"padding": 2, "dilation": 2}
        sums = BinConv2d(drawn, pad=("zero", "minus", "plus")[k % 3], **padded)
        nodes.append(Node(f"sums{k}", sums, (nodes[-1].name,)))
        nodes.append(Node(f"bits{k}", Threshold(at, flip), (nodes[-1].name,)))
    graph = Graph(Input((channels, 6, 5), Value("u8", (6, 5, channels))), tuple(nodes), nodes[-1].name)
    x = rng.integers(0, 256, (3, channels, 6, 5), np.uint8)
    executor = native.Executor(graph)
    made = executor.run(x) if fused else executor.trace(x)[graph.output]
    assert np.array_equal(made, reference.Executor(graph).run(x))


def test_constants_beyond_the_bound_are_refused_by_node(monkeypatch) -> None:
    monkeypatch.setattr(lowering_constants, "LARGEST_BASE", 0)
    monkeypatch.setattr(lowering_constants, "LARGEST_GROWTH", 1)
    one_output = F32BinLinear(np.ones((1, 1, 1, 4), np.uint32))  # 16 bytes, 16 lanes of 2 bytes each
    graph = Graph(Input((128,), Value("f32", (1, 1, 128))), (Node("last", one_output, ("input",)),), "last")
    with pytest.raises(FormError, match=r"node 'last' \(F32BinLinear\): .* bytes of weights.* use backend='numpy'"):
        native.Executor(graph)


@pytest.mark.parametrize("at_once", [1, 2000])
def test_weights_laid_out_in_parts_are_those_laid_out_at_once(networks, monkeypatch, at_once: int) -> None:
    for seed in range(40):
        graph = networks.random_graph(seed, channels=70)
        x = networks.inputs_of(graph, 2, seed)
        whole = native.Executor(graph).run(x)
        with monkeypatch.context() as patch:
            patch.setattr(lowering_layout, "AT_ONCE", at_once)
            assert np.array_equal(native.Executor(graph).run(x), whole, equal_nan=True), seed


@pytest.mark.parametrize("lay", [lowering_layout.pixel_weights, lowering_layout.sign_weights])
def test_signs_are_unpacked_a_part_at_a_time(lay) -> None:
    packed = np.random.default_rng(4).integers(0, 1 << 32, (8192, 1, 1, 256), np.uint32)  # 8 MiB, 64 MiB as bytes
    tracemalloc.start()
    lowering_layout.row_weights(packed, lay, 1, 8192, (1, 1, 8192), False)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 6 * packed.nbytes  # the parts, the whole, and a part of 4 Mi weights as a few bytes each


def test_tables_of_borders_count_the_lanes_of_each_group() -> None:
    bits = Node("bits", Binarize(np.zeros(256, np.float32)), ("input",))
    sums = Node("sums", BinConv2d(np.ones((256, 64, 64, 1), np.uint32), padding=63, groups=256), ("bits",))
    graph = Graph(Input((256, 65, 65), Value("u8", (65, 65, 256))), (bits, sums), "sums")
    with pytest.raises(FormError, match=r"node 'sums' .*127 x 127 classes .* 256 outputs in 256 groups, each filled"):
        native.Executor(graph)


@pytest.mark.parametrize("pad", ["zero", "plus"])
def test_thresholds_at_the_ends_of_int32_are_met_by_all_or_none(pad: str) -> None:
    at = np.array([-(2**31), 2**31 - 1, -(2**31) + 1, 2**30, -(2**30)], np.int32)
    nodes = (
        Node("bits", Binarize(np.full(3, 99.0, np.float32)), ("input",)),
        Node("sums", BinConv2d(pack(np.ones((5, 3, 3, 3), np.int8)), padding=1, pad=pad), ("bits",)),
        Node("signs", Threshold(at, np.zeros(1, np.uint32)), ("sums",)),
    )
    graph = Graph(Input((3, 4, 4), Value("u8", (4, 4, 3))), nodes, "signs")
    x = np.random.default_rng(2).integers(0, 256, (2, 3, 4, 4), np.uint8)
    assert (native.Executor(graph).run(x) == 0b10101).all()


@pytest.mark.parametrize("level", native.levels())
def test_the_mean_of_minus_zeros_is_zero_to_the_bit_as_in_numpy(level: str) -> None:
    graph = Graph(Input((3, 3), Value("f32", (3, 3, 1))), (Node("mean", AveragePool(2, 2), ("input",)),), "mean")
    x = np.full((2, 3, 3), -0.0, np.float32)
    made = native.Executor(graph, level=level).run(x)
    assert np.array_equal(made.view(np.uint32), reference.Executor(graph).run(x).view(np.uint32))
    assert not np.signbit(made).any()


@pytest.fixture
def flushed():
    """The process flushes denormals, as training switches it on."""
    before = float(torch.tensor(1e-40) * 1.0) == 0.0
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    yield
    torch.set_flush_denormal(before)


@pytest.mark.parametrize("threads", [1, 3])
def test_denormals_are_numbers_where_the_process_flushes_them(flushed, threads: int) -> None:
    channels = 512
    small = np.full(2048, 0x200, np.uint32).view(np.float32)  # 2^-140, by its bits: this process makes it 0
    nodes = (
        Node("same", Affine(np.ones(channels, np.float32), np.full(channels, -0.0, np.float32)), ("input",)),
        Node("bits", Binarize(np.zeros(channels, np.float32)), ("same",)),
        Node("sums", BinLinear(np.full((2048, 1, 1, channels // 32), 2**32 - 1, np.uint32)), ("bits",)),
        Node("small", Affine(small, np.zeros(2048, np.float32)), ("sums",)),
    )
    graph = Graph(Input((channels,), Value("f32", (1, 1, channels))), nodes, "small")
    x = np.full((300, channels), 0x80000200, np.uint32).view(np.float32)  # -2^-140
    made = native.Executor(graph, threads=threads).run(x)
    assert (made.view(np.uint32) == 0x80000000 + channels * 0x200).all()
    assert small[0] * np.float32(2**100) == 0, "the mode of the process is as it was"


def test_an_extension_of_older_sources_counts_as_not_built() -> None:
    code = (
        "import sys, types, core._native as n\n"
        "n._kernels = sys.modules['core._native._kernels'] = types.ModuleType('core._native._kernels')\n"
        "from core import extension\n"
        "from core.deploy import info\n"
        "assert extension.module() is None and not extension.allowed()\n"
        "print(extension.info(), info())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("not built here (built from older sources; install bitrelax again)") == 2


def test_a_packed_network_runs_each_network_of_an_ensemble_on_shared_constants() -> None:
    rng = np.random.default_rng(3)
    shared = F32Linear(rng.standard_normal((4, 1, 1, 4), np.float32))
    network = PackedNetwork(Form(tuple(in_a_row(shared, count, 4) for count in (1, 2, 3))))
    x = rng.standard_normal((5, 4), np.float32)
    # sums of four products in another order: a few half-ulps of each layer's largest sum
    assert np.allclose(network.run(x, backend="native"), network.run(x, backend="numpy"), rtol=1e-5, atol=1e-5)
