"""The speed study: what it times, its ratios, its files, its refusals."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from core import extension, native
from core.prefetch import Prefetched
from core.readings import Draw
from studies import speed
from studies.speeding import report, steps
from studies.speeding.steps import DEFAULT_ADAM, Entry


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What a quick run leaves: its folder, and what it printed."""
    out = tmp_path_factory.mktemp("speed")
    words = ["--quick", "--out", str(out), "--json", str(out / "rows.json")]
    done = subprocess.run([sys.executable, "-m", "studies.speed", *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_quick_run_writes_rows_with_ratios_of_one_run_and_memory(written):
    out, printed = written
    rows = json.loads((out / "rows.json").read_text())
    assert all(tuple(row) == report.COLUMNS for row in rows)
    ms = {(row["method"], row["path"]): row["ms"] for row in rows}
    fastest = min(value for (method, _), value in ms.items() if method == "ste")
    for row in rows:
        assert row["ms"] > 0 and row["peak_mb"] > 0
        assert math.isclose(row["ratio_to_ste"], row["ms"] / fastest, rel_tol=1e-6)
        assert math.isclose(row["ratio_to_full_precision"], row["ms"] / ms[DEFAULT_ADAM, "torch"], rel_tol=1e-6)
        assert f"| {row['network']} | {row['method']} | {row['path']} | {row['ms']:.2f} |" in printed
    paths = {"torch", "eager"} | ({"native"} if extension.info().path == "native" else set())
    assert {path for method, path in ms if method == "ste"} == paths
    assert str(extension.info()) in printed


def test_quick_run_draws_the_figure_and_names_the_machine(written):
    out, _ = written
    assert (out / "speed.png").stat().st_size > 5_000 and (out / "speed.pdf").stat().st_size > 1_000
    facts = json.loads((out / "machine.json").read_text())
    assert facts["native"] == str(extension.info()) and facts["cpu"] and facts["torch"] == torch.__version__
    assert list(pd.read_csv(out / "speed.csv").columns) == [*report.COLUMNS, "ratio_to_fused_adam"]


def test_paths_of_one_method_take_the_same_draws_and_differ_by_rounding_alone():
    if extension.info().path != "native":
        pytest.skip("the native extension is not built here")
    runs = [steps.started(Entry("784-256-10, tiny", "bayesbinn", path)) for path in ("native", "torch")]
    for run, path in zip(runs, ("native", "torch"), strict=True):
        steps.advance(run, path, 3)
    ours, twin = ([p.detach() for p in run.model.parameters()] for run in runs)
    assert max((a - b).abs().max().item() for a, b in zip(ours, twin, strict=True)) < 1e-2
    assert any(not torch.equal(a, b) for a, b in zip(ours, twin, strict=True))  # two codes did run
    assert max((a.abs() - 5).abs().max().item() for a in ours) > 0.05  # and moved the parameters from +-5


def test_the_rows_in_the_documents_are_those_of_the_committed_run():
    root = Path(__file__).parents[2]
    written = (root / "docs" / "performance.md").read_text()
    assert report.table(pd.read_csv(root / "results" / "speed" / "speed.csv")) in written
    facts = json.loads((root / "results" / "speed" / "machine.json").read_text())
    assert f"`{' '.join(facts['command'])}`" in written


@pytest.mark.parametrize(
    ("goal", "method", "path", "denominator"),
    [
        ("STE / full precision, default Adam", "ste", "native", (DEFAULT_ADAM, "torch")),
        ("BayesBiNN / fastest STE", "bayesbinn", "native", ("ste", "native")),
        ("low rank 4, momentum / fastest STE", "lowrank-sdp", "native", ("ste", "native")),
        ("BLRNet / full precision, fused Adam", "blrnet", "native", ("full-precision", "torch")),
        ("BayesBiNN without the extension / eager STE", "bayesbinn", "torch", ("ste", "eager")),
    ],
)
def test_measured_ratios_and_verdicts_on_goals_are_those_of_the_committed_run(goal, method, path, denominator):
    root = Path(__file__).parents[2]
    rows = pd.read_csv(root / "results" / "speed" / "speed.csv")
    ms = rows[rows["network"] == "784-512-512-10"].set_index(["method", "path"])["ms"]
    ratio = ms[method, path] / ms[denominator]
    lines = (root / "docs" / "performance.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {goal} |")]
    _, _, _, bound, measured, verdict, _ = (cell.strip() for cell in line.split("|"))
    assert measured.split()[0] == f"{ratio:.2f}"
    assert verdict.startswith("reached" if ratio <= float(bound) else "**not reached**")


def test_methods_with_kernels_have_two_paths():
    if extension.info().path != "native":
        pytest.skip("the native extension is not built here")
    found = {(e.method, e.path) for e in steps.entries("784-256-10", ["blrnet", "lowrank-sdp", "gaussian-vi"])}
    fused = {(method, path) for method in ("blrnet", "lowrank-sdp") for path in ("native", "torch")}
    assert found == fused | {("gaussian-vi", "torch")}


def test_eager_ste_draws_for_itself_and_the_fused_one_does_not():
    read = {path: steps._method(Entry("784-256-10", "ste", path)).train(0.0).weights for path in ("eager", "native")}
    assert isinstance(read["eager"], Draw) and isinstance(read["native"], Prefetched)


def test_medians_are_over_rounds_without_the_first(monkeypatch):
    entry = Entry("784-256-10", "ste", "torch")
    seconds = iter([9.0, 9.0, 0.0, 1.0, 0.0, 3.0, 0.0, 2.0])  # for each round: one step unread, then the timed ones
    monkeypatch.setattr(steps, "started", lambda entry: None)
    monkeypatch.setattr(steps, "advance", lambda run, path, n: next(seconds))
    assert steps.timed([entry], rounds=3, steps=4) == {entry: 2.0 / 4 * 1e3}


def test_torch_only_ends_with_its_block():
    if extension.info().path != "native":
        pytest.skip("the native extension is not built here")
    with pytest.raises(ZeroDivisionError), extension.twins_only():
        assert not native.serves(torch.zeros(1))
        raise ZeroDivisionError
    assert native.serves(torch.zeros(1))


@pytest.mark.parametrize(("option", "value"), [("--networks", "alexnet"), ("--methods", "ste,adam")])
def test_unknown_names_are_refused_with_those_available(option, value, capsys, tmp_path):
    assert speed.main([option, value, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert f"unknown {option[2:-1]} {value.split(',')[-1]!r}; available: " in message
    assert not (tmp_path / "out").exists()
