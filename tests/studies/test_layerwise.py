"""The layerwise study: its cells, its tables against the records, its files, its refusals."""

import io
import itertools
import json

import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from studies import layerwise
from studies.layering import figure, study
from studies.layering.study import Asked
from studies.runner.progress import Reporting


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What a small run leaves: its folder, and its records."""
    out = tmp_path_factory.mktemp("layerwise")
    words = ["--problem", "digits", "--widths", "12", "--epochs", "2", "--ste-epochs", "1,3", "--seeds", "2"]
    assert layerwise.main([*words, "--out", str(out), "--debug"]) == 0
    return out, [json.loads(path.read_text()) for path in sorted((out / "records").glob("*.json"))]


def test_seeds_are_outermost_and_every_way_shares_its_budget():
    cells = study.cells(Asked(problem="digits", widths=(4, 3), epochs=7, ste_epochs=(1, 2), seeds=(5, 6)))
    assert [cell.seed for cell in cells] == [5] * 6 + [6] * 6
    for cell in cells:
        assert cell.network["widths"] == (4, 3)
        assert cell.budget["epochs"] == (7 if cell.method != "ste" else cell.budget["epochs"])
    assert [c.budget["epochs"] for c in cells[:6] if c.method == "ste"] == [1, 2]
    assert [c.hyperparameters["signs"] for c in cells[:6] if c.method == "layerwise-sdp"] == list(study.WAYS)


def test_tables_are_those_of_the_records(written):
    out, records = written
    networks = pd.read_csv(out / "networks.csv")
    assert len(networks) == 6 and (networks["seeds"] == 2).all()
    for row in networks.itertuples():
        own = [r for r in records if study.named(r) == row.network and r["config"]["budget"]["epochs"] == row.epochs]
        accuracies = [r["predictions"][0]["metrics"]["test"]["accuracy"] for r in own]
        assert row.accuracy == pytest.approx(sum(accuracies) / 2, rel=1e-5)  # six digits are written
    layers = pd.read_csv(out / "layers.csv")
    assert len(layers) == 3 * 2 * 2  # ways, layers, seeds
    certified = layers[layers["network"] == "layerwise-sdp"]
    assert (certified["bound"] <= certified["error"]).all() and (certified["proven"] == certified["neurons"]).all()
    assert layers[layers["network"] != "layerwise-sdp"]["bound"].isna().all()


def test_page_says_what_a_bound_is_about_and_what_ste_reaches_in_the_time(written):
    page = (written[0] / "layerwise.md").read_text()
    assert page.rstrip().endswith(study.SCOPE)
    said = [line for line in page.splitlines() if line.startswith("layerwise-sdp: ")]
    assert len(said) == 1 and "ste from scratch in" in said[0]
    assert (written[0] / "figures" / "layerwise.png").stat().st_size > 5_000
    command = json.loads((written[0] / "manifest.json").read_text())["command"]
    assert command.startswith("python -m studies.layerwise --problem digits")


def test_equal_time_is_the_shortest_run_that_took_as_long():
    table = pd.DataFrame(
        {
            "network": ["layerwise-sdp", *[study.SCRATCH] * 3],
            "epochs": [5, 5, 9, 20],
            "accuracy": [0.9, 0.91, 0.92, 0.93],
            "seconds": [10.0, 4.0, 11.0, 30.0],
        }
    )
    (line,) = study._at_equal_time(table)
    assert "in at least its seconds: 92.00 % in 11 s (9 epochs)" in line
    table["seconds"] = [100.0, 4.0, 11.0, 30.0]
    (line,) = study._at_equal_time(table)
    assert "in fewer seconds, the longest run here: 93.00 % in 30 s" in line


@pytest.mark.parametrize("words", [["--widths", "0"], ["--seeds", "none"], ["--ste-epochs", "5,-1"]])
def test_impossible_words_end_with_usage(words, capsys):
    with pytest.raises(SystemExit) as ended:
        layerwise.main(words)
    assert ended.value.code == 2
    assert "whole number from 1 on" in capsys.readouterr().err


def test_unknown_problem_is_named(tmp_path, capsys):
    assert layerwise.main(["--problem", "mnits", "--out", str(tmp_path)]) == 2
    assert "mnist" in capsys.readouterr().err


def test_lines_of_progress_tell_cells_of_one_method_apart():
    cells = study.cells(Asked(problem="digits", widths=(4,), epochs=7, ste_epochs=(1, 2), seeds=(0,)))
    said = io.StringIO()
    record = {"status": "failed", "reason": "stopped"}
    with Reporting(cells, done=0, workers=1, console=Console(file=said, width=200), errors=Console(file=said)) as told:
        for cell in cells:
            told.finished(cell, record)
    lines = [line.split("  ")[0].partition(" digits / ")[2] for line in said.getvalue().splitlines()]
    ways = [f"layerwise-sdp / seed 0 / signs {way}" for way in study.WAYS]
    assert lines == ["full-precision / seed 0", *ways, "ste / seed 0 / epochs 1", "ste / seed 0 / epochs 2"]


@pytest.mark.parametrize("seconds", [(17, 21, 25, 70, 140), (11, 19), (3, 900)])
def test_ticks_of_seconds_do_not_overprint(seconds):
    table = pd.DataFrame({"network": study.SCRATCH, "seconds": seconds, "accuracy": 0.9, "sd": 0.01})
    drawn = Figure(figsize=(10, 4.2), layout="constrained")
    axis = drawn.subplots(1, 2)[0]
    figure._accuracy(axis, table, {study.SCRATCH: (0.0, 0.0, 0.0)})
    drawn.canvas.draw()
    assert not [label for label in axis.get_xticklabels(which="minor") if label.get_text()]
    left, right = axis.bbox.intervalx
    boxes = [label.get_window_extent() for label in axis.get_xticklabels()]
    boxes = [box for box in boxes if left <= (box.x0 + box.x1) / 2 <= right]
    assert len(boxes) >= 2
    assert all(before.x1 < after.x0 for before, after in itertools.pairwise(boxes))
