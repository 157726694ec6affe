"""What the bench would run on a GPU, run on the kernels' host build: recordings, exactness, a row for every goal."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.deploy import reference
from core.deploy.cuda.host import HostLauncher, built
from core.deploy.cuda.launcher import DeviceError
from core.deploy.operations import MaxPoolBits
from studies.deploying.bench import cuda, cuda_exact, cuda_peers, graphs, recorded
from studies.deploying.bench.goals import Bench, Missing


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    try:
        return HostLauncher(built(tmp_path_factory.mktemp("kernels")))
    except DeviceError as error:
        pytest.skip(str(error))


def read(launcher, memory, shape, dtype):
    array = np.empty(shape, dtype)
    launcher.read(memory, 0, array)
    return array


@pytest.mark.parametrize("sums", ["auto", "tile", "mma"])
@pytest.mark.parametrize("batch", [1, 20])
def test_a_recorded_layer_makes_the_bits_of_its_random_input(launcher, sums, batch):
    graph = graphs.layer(70, 100, np.random.default_rng(0))
    recording = recorded.record(launcher, graph, batch, copies=2, sums=sums, layer=True)
    recording.replay()
    linear, sign = (node.operation for node in graph.nodes[1:])
    for source, output in zip(recording.inputs, recording.outputs, strict=True):
        x = read(launcher, source, (batch, 1, 4), np.uint32)
        assert abs(np.bitwise_count(x).sum() / (100 * batch) - 0.5) < 5 * 0.5 / np.sqrt(100 * batch)
        sums_of = 100 - 2 * np.bitwise_count(x ^ linear.weights.reshape(70, 4)).sum(2).astype(np.int32)
        flip = np.unpackbits(sign.flip.view(np.uint8), bitorder="little")[:70]
        bits = np.unpackbits(read(launcher, output, (batch, 3), np.uint32).view(np.uint8), axis=1, bitorder="little")
        assert np.array_equal(bits[:, :70], (sums_of >= sign.at) != flip)
        assert not bits[:, 70:].any()


def test_copies_of_a_recording_share_no_memory_and_touch_what_is_counted(launcher):
    sizes = []

    class Counting:
        capability, write, capture = launcher.capability, launcher.write, launcher.capture

        def allocate(self, size):
            sizes.append(size)
            return launcher.allocate(size)

    graph = graphs.layer(64, 128, np.random.default_rng(0))
    recording = recorded.record(Counting(), graph, 4, copies=3, layer=True)
    assert len({memory.address for memory in recording.held}) == len(sizes) == len(recording.held)
    assert sum(sizes) == 3 * recorded.touched(graph, 4, layer=True)
    # weights alone are 64 x 128 bits; what packs the input is no part of a layer
    assert 64 * 128 / 8 < recorded.touched(graph, 4, layer=True) < recorded.touched(graph, 4)


def test_a_recorded_network_is_the_network(launcher):
    graph = graphs.convolutions(40, 6, 2, np.random.default_rng(0))
    recording = recorded.record(launcher, graph, 3)
    recording.replay()
    x = read(launcher, recording.inputs[0], (3, 40, 6, 6), np.float32)
    value = graph.values[graph.output]
    found = read(launcher, recording.outputs[0], (3, *value.array_shape), np.uint32)
    assert np.array_equal(found, reference.Executor(graph).run(x))


def test_random_shapes_agree_on_the_host_build_and_every_kind_is_among_them(launcher):
    count, wrong = cuda_exact.mismatches(launcher, 30)
    assert (count, wrong) == (30, [])
    assert cuda_exact.SHAPES >= 200
    drawn = [graph for graph, _ in cuda_exact.cases(60)]
    sums = [node.operation for graph in drawn for node in graph.nodes if hasattr(node.operation, "groups")]
    assert {s.groups for s in sums} == {1, 2, 4} and {s.stride for s in sums} == {s.dilation for s in sums} == {1, 2}
    assert {s.pad for s in sums} == {"zero", "minus", "plus"} and {s.weights.shape[1] for s in sums} == {1, 2, 3}
    assert any(isinstance(node.operation, MaxPoolBits) for graph in drawn for node in graph.nodes)


def test_a_kernel_that_is_left_out_is_found(launcher):
    class Forgetful:
        capability = launcher.capability
        allocate, write, read, capture = launcher.allocate, launcher.write, launcher.read, launcher.capture
        synchronise = launcher.synchronise

        def launch(self, call):
            if "bits" not in call.kernel:
                launcher.launch(call)

    count, wrong = cuda_exact.mismatches(Forgetful(), 12)
    assert len(wrong) == count == 12


@pytest.fixture(scope="module")
def pretended(launcher):
    """Sections over the host build, with peers and clocks that are pretended."""
    monkeypatch = pytest.MonkeyPatch()

    class Peer:
        def sampler(self, replays):
            return lambda: 2e-3

    def product(kind, *shape):
        if kind == "fp8":
            raise Missing("no fp8 here")
        return Peer()

    def sampler(self, recording):
        recording.replay()
        return lambda: 1e-3

    monkeypatch.setattr(cuda, "CupyLauncher", lambda: launcher)
    monkeypatch.setattr(cuda.Device, "_sampler", sampler)
    monkeypatch.setattr(cuda.Device, "_seconds", lambda self, call: (call(), 1e-3)[1])
    monkeypatch.setattr(cuda, "TURNS", 2)
    monkeypatch.setattr(cuda, "MOST_COPIES", 2)
    monkeypatch.setattr(cuda, "WIDTHS", (64, 96, 10))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=1))
    monkeypatch.setattr(cuda_peers, "product", product)
    monkeypatch.setattr(cuda_peers, "mlp", lambda *_: Peer())
    monkeypatch.setattr(cuda_peers, "convolutions", lambda *_: Peer())
    monkeypatch.setattr(cuda_peers, "copied_bytes_a_second", lambda: 1e12)
    try:
        return [row for section in cuda.sections() for row in section.rows(Bench(1, 1e-4, True, None))]
    finally:
        monkeypatch.undo()


def test_every_goal_of_the_gpu_is_measured_or_says_why_not(pretended):
    assert {row.id for row in pretended} == {goal.id for goal in cuda.GOALS}
    open_rows = {row.id: row.detail for row in pretended if row.holds is None}
    rates = {row.id for row in pretended if row.goal == "published" and row.measured}
    assert rates == {"G0 and", "G0 xor", "G0 popc"}
    assert set(open_rows) - rates == {"G0 wgmma", "G3", "G2 fp8"}
    assert "no fp8 here" in open_rows["G2 fp8"] and "no wgmma kernel" in open_rows["G3"]
    assert pretended[0].id.startswith("G0")  # rates first: the shares are of them


def test_ratios_and_shares_are_of_what_was_timed(pretended):
    found = {row.id: row for row in pretended}
    assert found["G2 bf16"].measured == pytest.approx(2) and not found["G2 bf16"].holds
    assert found["G4 small"].measured == pytest.approx(2) and found["G5 mlp"].measured == pytest.approx(1000)
    # both took 1 ms: a rate of 8 mma of 16 x 8 x 256 by 8 x 8 warps in 2 turns, and a product of 256^3
    assert found["G2 limit"].measured == pytest.approx(256**3 / (16 * 8 * 256 * 8 * 2 * 8 * 8))
    assert found["G6"].measured == 0 and found["G6"].holds


def test_a_sample_lasts_and_copies_rotate_over_more_than_a_cache():
    asked = []

    def of(replays):
        asked.append(replays)
        return lambda: 1e-4

    cuda._lasting(of, copies=2)
    assert asked[-1] == 100  # 2 copies of 0.1 ms: 100 replays are 20 ms
    assert cuda._copies(4096 * 4096 // 8) == 200 and cuda._copies(1 << 30) == 1 and cuda._copies(1) == cuda.MOST_COPIES


def test_what_goes_wrong_on_a_device_is_the_reason_of_its_rows_alone(launcher, monkeypatch, capsys):
    def lost(*_):
        raise RuntimeError("the device was lost")

    monkeypatch.setattr(cuda, "CupyLauncher", lambda: launcher)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lost)
    rates, exactness = cuda.sections()[:2]
    bench = Bench(1, 1e-4, True, None)
    rows = rates.rows(bench)
    assert all(row.holds is None and "RuntimeError: the device was lost" in row.detail for row in rows)
    assert "Traceback" in capsys.readouterr().err
    assert exactness.rows(bench)[0].holds
