"""The bench of deployment: its rows, files and refusals, its clock, its peers; no time is asserted."""

import json
import math
import random
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from core import extension
from core.deploy import native, reference
from studies.deploying import bench
from studies.deploying.bench import (
    clock,
    command,
    compute_engine,
    cuda,
    exact,
    graphs,
    kernels,
    networks,
    peers,
    products,
    roof,
    startup,
    table,
    verdicts,
)
from studies.deploying.bench.goals import Bench, Case, Failed, Goal, Measured, Missing, Row, Section
from studies.deploying.command_line import without_paths

needs_kernels = pytest.mark.skipif(extension.module() is None, reason="the native extension is not built here")
KEYS = ("id", "measured", "goal", "holds", "unit", "detail")
ANSWER = '{"seconds": [0.0017183860000002937, 0.0017004690000010925, 0.0018326959999992454], "bytes": 20832}\n'
GREETING = '{"versions": {"larq-compute-engine": "0.16.0", "larq": "0.13.3", "tensorflow-cpu": "2.16.2"}}\n'


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What a quick run leaves: its folder, and the goals."""
    out = tmp_path_factory.mktemp("bench")
    assert bench.run(out, out / "goals.json", "cpu", True, None) == 0
    return out, json.loads((out / "goals.json").read_text())


# ---------------------------------------------------------------------------------------------------- a quick run


@needs_kernels
def test_every_goal_of_cpu_and_gpu_has_rows(quick):
    _, goals = quick
    assert all(tuple(row) == KEYS for row in goals)
    assert len({row["id"] for row in goals}) == len(goals)
    assert {row["id"].split()[0] for row in goals} == {
        *(f"C{n}" for n in range(1, 11)),
        *(f"G{n}" for n in range(7)),
        "X1",
        "X2",
        "X3",
    }


@needs_kernels
def test_a_quick_run_measures_and_judges_nothing(quick):
    _, goals = quick
    assert all(row["holds"] is None for row in goals)
    assert sum(row["measured"] is not None for row in goals) > 15


@needs_kernels
def test_rows_of_a_quick_run_say_that_their_sizes_are_others(quick):
    _, goals = quick
    assert all(row["detail"].startswith("QUICK") for row in goals if row["id"][0] == "C")


@needs_kernels
def test_what_needs_a_peer_or_a_device_is_not_measured_and_says_what_is_missing(quick):
    _, goals = quick
    open_rows = {row["id"]: row["detail"] for row in goals if row["holds"] is None}
    assert {"C3 128 best", "C3 128 default", "C3 256 best", "C3 256 default", "C6 larq", "C10 install"} <= set(
        open_rows
    )
    assert all("--peer-python" in open_rows[name] for name in ("C3 128 best", "C6 larq"))
    assert all("--device cuda" in detail for name, detail in open_rows.items() if name[0] == "G")


@needs_kernels
def test_files_of_a_run_agree_and_name_its_making(quick):
    out, goals = quick
    written = json.loads((out / "bench.json").read_text())
    assert written["goals"] == goals
    facts = written["manifest"]
    assert facts["command"].startswith("python -m studies.deploy") and set(facts["source"]) == {"commit", "dirty"}
    assert facts["machine"]["cpu"] and "GHz" in facts["limit"]
    assert {"busy_cores_before", "busy_cores_after", "load_before"} <= set(facts)
    page = (out / "bench.md").read_text()
    assert all(f"| {row['id']} |" in page for row in goals)
    assert facts["command"] in page


@needs_kernels
def test_timings_are_positive_and_shares_are_those_of_the_limit_beside_them(quick):
    out, _ = quick
    timings = pd.read_csv(out / "bench.csv")
    assert tuple(timings.columns) == table.COLUMNS
    assert (timings["seconds"] > 0).all()
    products_of = timings[timings["kind"] == "product"]
    assert {f"ours {level}" for level in kernels.levels()} <= set(products_of["contender"])
    assert any(name.startswith(peers.INT8) for name in products_of["contender"])
    rate = products_of["operations"] / products_of["seconds"] / (products_of["clock_ghz"] * 1e9)
    assert np.allclose(rate, products_of["operations_a_cycle"])
    limits = products_of.assign(limit=rate / products_of["fraction"]).groupby("case")["limit"]
    assert np.allclose(limits.max(), limits.min())  # one limit a case, the same for all contenders


@needs_kernels
def test_the_figure_is_drawn(quick):
    out, _ = quick
    assert (out / "share.png").read_bytes().startswith(b"\x89PNG") and (out / "share.png").stat().st_size > 20_000
    assert (out / "share.pdf").stat().st_size > 5_000


# ---------------------------------------------------------------------------------------------------------- goals


@pytest.mark.parametrize(
    ("value", "least", "also", "holds"),
    [
        (2.0, True, True, True),
        (1.999, True, True, False),
        (2.0, False, True, True),
        (2.001, False, True, False),
        (3.0, True, False, False),
        (math.nan, True, True, False),
        (math.nan, False, True, False),
    ],
)
def test_a_goal_is_reached_at_its_target_and_needs_what_else_it_asks(value, least, also, holds):
    row = Goal("C1", "what", 2.0, least=least).row(Measured(value, "detail", also))
    assert row.holds is holds and row.goal == (">= 2" if least else "<= 2")
    assert row.measured == (None if math.isnan(value) else value) and row.detail == "what: detail"


@pytest.mark.parametrize("reason", [Missing("no such device"), Failed("it fell over")])
def test_what_is_not_measured_neither_holds_nor_fails(reason):
    row = Goal("C1", "what", 2.0).row(reason)
    assert row.holds is None and row.measured is None and str(reason) in row.detail


def test_a_section_that_cannot_measure_gives_its_reason_to_every_goal():
    def nothing(_bench):
        raise Missing("no kernels")

    goals = (Goal("C1 a", "a", 1), Goal("C1 b", "b", 2, least=False))
    rows = Section(goals, nothing).rows(Bench(1, 1e-4, False, None))
    assert [(row.id, row.measured, row.holds) for row in rows] == [("C1 a", None, None), ("C1 b", None, None)]
    assert all("no kernels" in row.detail for row in rows)


def test_summary_and_order_of_rows():
    found = [("G1", None, None), ("C10 a", 1.0, True), ("C2 b", 1.0, False)]
    rows = verdicts.complete([Row(name, measured, ">= 1", holds, "x", "") for name, measured, holds in found])
    assert [row.id for row in rows] == ["C2", "C2 b", "C10", "C10 a", "G1"]
    assert table.summary(rows) == "goals: 1 hold, 1 do not, 1 not measured"
    unjudged = [replace(row, measured=1.0, holds=None) for row in rows]
    assert table.summary(unjudged) == "goals: 0 hold, 0 do not, 0 not measured, 3 measured and not judged"


@pytest.mark.parametrize(
    ("marks", "holds"),
    [((True, True), True), ((True, None), None), ((None, False), False), ((True, False), False), ((None, None), None)],
)
def test_a_goal_holds_where_all_its_parts_hold_and_fails_where_one_fails(marks, holds):
    parts = [Row(f"C1 {place}", 2.0, ">= 1", mark, "x", "") for place, mark in enumerate(marks)]
    assert verdicts.verdict("C1", parts).holds is holds


def test_a_goal_measures_its_worst_part_relative_to_what_the_part_wants():
    parts = [
        Row("C10 more", 6.0, ">= 3", True, "x", ""),
        Row("C10 less", 4.0, "<= 6", True, "us", ""),
        Row("C10 open", None, ">= 9", None, "x", "no device"),
    ]
    found = verdicts.verdict("C10", parts)
    assert found.measured == pytest.approx(1.5) and found.goal == ">= 1" and "C10 less" in found.detail
    assert verdicts.verdict("C10", parts[2:]).measured is None


def test_a_number_to_be_published_neither_holds_nor_fails():
    row = Goal("G0 a", "rate", None, "Pop/s").row(Measured(0.2, "best of 5"))
    assert (row.measured, row.goal, row.holds) == (0.2, "published", None) and "published" in row.detail
    assert verdicts.verdict("G0", [row]).holds is None and verdicts.verdict("G0", [row]).measured is None


@pytest.mark.parametrize(
    "error",
    [subprocess.TimeoutExpired("pip", 600), subprocess.CalledProcessError(1, "pip", stderr="no compiler for it")],
)
def test_an_installation_that_fails_does_not_hold(error, monkeypatch):
    def fails(words, **_):
        if "pip" in words:
            raise error

    monkeypatch.setattr(startup, "_copied", lambda folder: None)
    monkeypatch.setattr(subprocess, "run", fails)
    row = next(goal for goal in startup.GOALS if goal.id == "C10 install").row(startup.installed())
    assert row.holds is False and row.measured is None


@pytest.mark.parametrize("faster", [peers.FP32, f"{peers.FP32} frozen"])
def test_a_network_is_judged_against_the_fastest_form_of_torch(faster):
    medians = {"ours": 1.0, peers.FP32: 30.0, f"{peers.FP32} frozen": 30.0} | {faster: 20.0}
    found = networks._beside(medians)
    assert found.value == 20 and f"{faster} 2e+07 us" in found.detail and "3e+07 us" in found.detail


# ---------------------------------------------------------------------------------------------------------- clock


def test_every_round_runs_each_contender_once_in_an_order_of_its_own():
    order = []
    seconds = {"a": iter([5.0, 1.0, 2.0]), "b": iter([7.0, 9.0, 8.0])}
    samplers = {name: lambda name=name: (order.append(name), next(seconds[name]))[1] for name in seconds}
    assert clock.interleaved(samplers, rounds=3) == {"a": 2.0, "b": 8.0}
    rounds = [tuple(order[i : i + 2]) for i in (0, 2, 4)]
    assert all(sorted(names) == ["a", "b"] for names in rounds) and len(set(rounds)) == 2


@pytest.mark.parametrize("each", [1e-6, 3e-4, 2.0])
def test_a_sample_lasts_as_long_as_asked_and_is_of_one_run(each):
    now, rng = [0.0], random.Random(0)

    def run():
        now[0] += each * rng.uniform(0.9, 1.1)

    sampler = clock.repeated(run, least=0.01, clock=lambda: now[0])
    before = now[0]
    found = sampler()
    assert 0.9 * each <= found <= 1.1 * each
    assert now[0] - before >= 0.01 * 0.8  # the count was chosen on other runs, at most a tenth slower or faster


def test_seconds_are_of_this_process_alone():
    assert clock.repeated(lambda: None, least=1e-4)() < 1e-3  # a run that does nothing takes next to nothing
    busy = clock.busy_cores(0.05)
    assert busy is None or busy >= 0


# ---------------------------------------------------------------------------------------------------------- peers


def test_forms_of_a_float_product_and_of_int8_make_the_same_product():
    runs = peers.linear(20, 24, 64, torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(20, 64, generator=rng), torch.randn(24, 64, generator=rng)
    exact = F.linear(x, w)
    for name in [name for name in runs if name.startswith(peers.FP32)]:
        assert torch.allclose(runs[name](), exact, atol=1e-4)
    # both factors are rounded to multiples of 0.05: 64 products, each off by at most 0.025 (|x| + |w|) + 0.025^2
    bound = 0.025 * (x.abs().sum(1)[:, None] + w.abs().sum(1)) + 64 * 0.025**2 + 1e-3
    dynamic = [runs[name]() for name in runs if "dynamic" in name]
    assert dynamic and all(bool(((found - exact).abs() <= bound).all()) for found in dynamic)
    assert any("static" in name for name in runs) and runs[f"{peers.INT8} _int_mm"]().dtype == torch.int32


def test_int8_and_float_convolutions_have_the_shape_of_the_layer():
    runs = peers.convolution(32, 8, 2, torch.Generator().manual_seed(0))
    found = {name: run() for name, run in runs.items()}
    assert {tuple(y.shape) for y in found.values()} == {(2, 32, 8, 8)}
    assert found[f"{peers.FP32} channels_last"].is_contiguous(memory_format=torch.channels_last)
    assert sum(name.startswith(peers.INT8) for name in found) >= 1


@pytest.mark.parametrize(
    "runs", [peers.mlp((20, 16, 10), 3, torch.Generator()), peers.binarynet(2, torch.Generator(), width=16)]
)
def test_the_frozen_network_is_the_same_network(runs):
    plain, frozen = runs[peers.FP32](), runs[f"{peers.FP32} frozen"]()
    assert plain.shape[1] == 10 and torch.allclose(plain, frozen, atol=1e-4)


def test_the_peer_is_its_fastest_form():
    medians = {"torch int8 a": 3.0, "torch int8 b": 2.0, "torch fp32 mm": 1.0}
    assert peers.fastest(medians, peers.INT8) == "torch int8 b" and peers.best(medians, peers.INT8) == 2.0


# ----------------------------------------------------------------------------------------------------------- ours


@needs_kernels
@pytest.mark.parametrize("shape", [(1, 10, 33), (5, 40, 100), (20, 64, 256)])
def test_every_level_makes_the_bits_that_numpy_makes(shape):
    for level in kernels.levels():
        product = kernels.product(level, *shape)
        count = np.bitwise_count(product.x[:, None] ^ product.weights).sum(-1)
        expected = (count <= product.most) != product.flip
        packed = np.packbits(np.pad(expected, ((0, 0), (0, -shape[1] % 32))), axis=1, bitorder="little")
        assert np.array_equal(product(), packed.view(np.uint32)), level


def test_packed_bits_have_no_pad_bits():
    found = graphs.bits((50, 3, 3, 37), np.random.default_rng(0))
    assert found.shape == (50, 3, 3, 2) and not (found[..., 1] >> np.uint32(5)).any()
    ones = np.bitwise_count(found).sum() / (50 * 9 * 37)
    assert abs(ones - 0.5) < 5 * 0.5 / math.sqrt(50 * 9 * 37)


@pytest.mark.parametrize(
    "graph",
    [
        graphs.convolutions(32, 6, 3, np.random.default_rng(0)),
        graphs.convolutions(32, 6, 1, np.random.default_rng(0), pool=True),
        graphs.mlp((64, 128, 96, 10), np.random.default_rng(0)),
    ],
    ids=["convolutions", "pooled", "mlp"],
)
def test_bits_stay_random_through_the_layers_that_are_timed(graph):
    x = np.random.default_rng(1).normal(size=(16, *graph.input.raw_shape)).astype(np.float32)
    traced = reference.Executor(graph).trace(x)
    for node, _, value in graph.steps():
        if value.kind == "bits":
            share = np.bitwise_count(traced[node.name]).sum() / (16 * math.prod(value.shape))
            assert 0.2 < share < 0.85, node.name  # neither zeros nor ones; a pooling makes ones likelier


# ----------------------------------------------------------------------------------------------------------- larq


def test_a_recorded_answer_of_larq_is_read():
    found = compute_engine.parsed(ANSWER)
    assert found.size == 20832 and len(found.seconds) == 3 and min(found.seconds) == 0.0017004690000010925


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"error": "KeyError: \'bogus\'"}', "KeyError: 'bogus'"),
        ("WARNING:tensorflow: hello", "hello"),
        ('{"seconds": [0.0], "bytes": 1}', "0.0"),
        ('{"seconds": "fast", "bytes": 1}', "fast"),
        ("[]", "[]"),
    ],
)
def test_what_is_no_answer_of_larq_is_the_reason_of_its_rows(line, said):
    with pytest.raises(Failed, match=re.escape(said)):
        compute_engine.parsed(line)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A child that answers as recorded, and fails on the case `bogus`."""
    script = tmp_path / "child.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        print({GREETING!r}, end="", flush=True)
        for line in sys.stdin:
            if line.startswith("quit"):
                break
            bad = line.startswith("bogus")
            print('{{"error": "KeyError: bogus"}}' if bad else {ANSWER.strip()!r}, flush=True)
        """)
    )
    monkeypatch.setattr(compute_engine, "SCRIPT", script)


def test_larq_is_asked_between_our_runs_and_its_median_counts(recorded):
    with compute_engine.started(sys.executable) as peer:
        assert str(peer) == "larq-compute-engine 0.16.0, larq 0.13.3, tensorflow-cpu 2.16.2"
        assert peer.sampler("conv 128 32", "indirect", least=0.01)() == 0.0017183860000002937
        assert peer.size("binarynet") == 20832
        with pytest.raises(Failed, match="bogus"):
            peer.sampler("bogus", "indirect", least=0.01)
        with pytest.raises(Failed, match="has ended"):
            peer.ask("quit", "default", 1)
    assert peer.process.returncode is not None  # it does not outlive the block


def test_an_interpreter_without_larq_or_that_is_none_is_a_reason(tmp_path):
    with compute_engine.started(None) as peer:
        assert isinstance(peer, Missing)
    with compute_engine.started(str(tmp_path / "python")) as peer:
        assert isinstance(peer, Missing) and "No such file" in str(peer) and str(tmp_path) not in str(peer)
    with compute_engine.started(sys.executable) as peer:
        assert isinstance(peer, Failed) and "No module named 'larq'" in str(peer)
        assert sys.executable not in str(peer) and str(compute_engine.SCRIPT) not in str(peer)


# ------------------------------------------------------------------------------------------- device, import, usage


def test_without_a_device_the_rows_stay_open_and_the_exit_code_says_so(tmp_path, capsys):
    if cuda.missing() is None:
        pytest.skip("there is a device here")
    assert bench.run(tmp_path, tmp_path / "goals.json", "cuda", True, None) == 1
    reason = cuda.missing()
    assert reason in capsys.readouterr().err
    goals = json.loads((tmp_path / "goals.json").read_text())
    assert {row["id"].split()[0] for row in goals} == {f"G{n}" for n in range(7)}
    assert all(row["holds"] is None and row["measured"] is None and reason in row["detail"] for row in goals)
    assert [path.name for path in tmp_path.iterdir()] == ["goals.json"]  # an earlier record is not written over


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--peer-python", "/opt/peers/bin/python"], ["--peer-python", "PYTHON"]),
        (["--peer-python=peers/bin/python"], ["--peer-python=PYTHON"]),
        (["--json", "/home/me/goals.json", "--out=/home/me/out"], ["--json", "goals.json", "--out=out"]),
        (["--bench", "--out", "results/deploy", "--quick"], ["--bench", "--out", "results/deploy", "--quick"]),
        (["--where", "network.activation=sign"], ["--where", "network.activation=sign"]),
    ],
)
def test_no_path_of_this_machine_gets_into_a_record(words, kept):
    assert without_paths(words) == kept


def test_threads_of_torch_are_as_before_also_after_a_failure(tmp_path, monkeypatch):
    def fails(quick, peer_python):
        assert torch.get_num_threads() == 1
        raise RuntimeError("no measurement")

    before = torch.get_num_threads()
    monkeypatch.setattr(command, "_on_cpu", fails)
    torch.set_num_threads(3)
    try:
        with pytest.raises(RuntimeError, match="no measurement"):
            bench.run(tmp_path, None, "cpu", True, None)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["bench.json", "bench.csv", "bench.md", "share.png", "share.pdf", "goals.json"])
def test_places_are_tried_before_anything_is_measured_and_left_as_they_were(name, tmp_path, monkeypatch):
    def measured(*_):
        raise AssertionError("measured too early")

    monkeypatch.setattr(command, "_on_cpu", measured)
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match=name):
        bench.run(tmp_path, tmp_path / "goals.json", "cpu", True, None)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@needs_kernels
@pytest.mark.parametrize("place", range(len(extension.LEVELS)))
def test_the_level_of_the_environment_is_the_best_of_the_bench(place, monkeypatch):
    level = extension.LEVELS[place]
    if level not in native.levels():
        pytest.skip(f"this processor does not run level {level}")
    monkeypatch.setenv(native.LEVEL_VARIABLE, level)
    assert kernels.levels() == extension.LEVELS[: place + 1]
    found = roof.limit()
    assert found is None or found.level == place


def test_another_device_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cpu or cuda .got 'tpu'"):
        bench.run(tmp_path, None, "tpu", True, None)


def test_a_processor_without_counting_instructions_has_no_limit(monkeypatch):
    monkeypatch.delenv(native.LEVEL_VARIABLE, raising=False)
    portable = ModuleType("portable")
    portable.__dict__.update(best_packed_level=lambda: 0, packed_limits=lambda level: (3e9, 0.0))
    monkeypatch.setattr(extension, "module", lambda: portable)
    assert roof.limit() is None and "no limit was measured" in roof.told(None)


def test_an_import_that_brings_something_heavy_does_not_hold(monkeypatch):
    found = startup.imported(1)
    assert found.also and "heavy packages imported: none" in found.detail
    monkeypatch.setattr(startup, "HEAVY", ("numpy",))
    assert not startup.imported(1).also


@needs_kernels
def test_the_limit_is_that_of_the_rounds_and_the_share_is_of_it():
    slow = Bench(
        2, 1e-4, True, type("Limit", (), {"clock_ghz": lambda _: 2.0, "seconds_an_operation": lambda _: 1e-9})()
    )
    medians = slow.time(Case("product", "case", 1000.0), {"ours": lambda: 2e-6})
    assert medians == {"ours": 2e-6} and slow.fraction(Case("product", "case"), "ours") == pytest.approx(0.5)
    assert slow.timings[0].operations_a_cycle == pytest.approx(1000 / 2e-6 / 2e9)
    with pytest.raises(Missing, match="limit"):
        products.measure(Bench(1, 1e-4, True, None))


@needs_kernels
def test_a_single_bit_at_one_level_is_counted(monkeypatch):
    class Flips(native.Executor):
        def run(self, x):
            found = super().run(x)
            if self.level == "portable":
                found.view(np.uint32)[0, 0, 0, 0] ^= np.uint32(1)
            return found

    honest = exact.measure(Bench(1, 1e-4, True, None))
    assert (honest["X1"].value, honest["X3"].value) == (0, 0) and isinstance(honest["X2"], Missing)
    monkeypatch.setattr(exact, "Executor", Flips)
    found = exact.measure(Bench(1, 1e-4, True, None))
    assert found["X1"].value == 3 and found["X3"].value == 20  # one in every network and graph


def test_a_form_that_torch_refuses_is_left_out_and_a_peer_without_forms_is_missing():
    def refused():
        raise RuntimeError("no such engine on this processor")

    runs = peers._quiet({f"{peers.INT8} a": refused, f"{peers.FP32} b": lambda: 1})
    assert set(runs) == {f"{peers.FP32} b"}
    with pytest.raises(Missing, match="no form of torch int8"):
        peers.fastest({f"{peers.FP32} b": 1.0}, peers.INT8)


def test_a_difference_that_drowns_in_noise_is_no_time():
    noisy = Bench(1, 1e-4, False, None)
    with pytest.raises(Failed, match="case: ours drowns in noise"):
        noisy.time(Case("convolution", "case", 1.0), {"ours": lambda: -1e-6, "torch": lambda: 1e-3})
    assert not noisy.timings


def test_without_the_extension_every_row_but_the_import_says_so(monkeypatch):
    monkeypatch.setattr(extension, "_module", None)
    monkeypatch.setattr(extension, "_REASON", "no kernels in this test", raising=False)
    monkeypatch.setattr(extension, "info", extension.info.__wrapped__)  # it is cached
    sections = command._sections(Missing("no peer"))
    rows = [row for section in sections for row in section.rows(Bench(1, 1e-4, True, roof.limit()))]
    assert {row.id for row in rows if row.holds is not None} == {"C10 import"}
    assert all("no kernels in this test" in row.detail for row in rows if row.id not in ("C10 import", "C10 install"))
