"""Progress: one line a finished cell, failures by reason, and a time left that follows from what has finished."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from studies.runner.cells import Cell
from studies.runner.progress import Reporting, outcome


def _cell(problem="digits", method="ste", seed=0):
    return Cell("compare", problem, method, seed, {"name": "mlp"}, {}, {"epochs": 1}, 32, "cosine")


def _finished(accuracy=0.983, seconds=1.2):
    prediction = {"prediction": "mode", "metrics": {"test": {"accuracy": accuracy}}}
    return {"status": "finished", "reason": None, "predictions": [prediction], "seconds": {"total": seconds}}


def _diverged(reason="loss not finite at step 3; last finite loss 2.5"):
    return {"status": "diverged", "reason": reason, "predictions": [], "seconds": {"total": 1.0}}


class _Clock:
    now = 0.0

    def __call__(self):
        return self.now


def _reporting(cells, *, done=0, workers=1, terminal=False, width=120):
    out, err, clock = io.StringIO(), io.StringIO(), _Clock()
    console = Console(file=out, force_terminal=terminal, width=width, _environ={"TERM": "xterm"})
    errors = Console(file=err)
    return Reporting(cells, done=done, workers=workers, console=console, errors=errors, clock=clock), out, err, clock


def _run(reporting, clock, cell, seconds, record=None):
    reporting.started(cell)
    clock.now += seconds
    reporting.finished(cell, record or _finished(seconds=seconds))


def test_finished_cell_is_one_line_with_count_accuracy_seconds_and_time_left():
    cells = [_cell(seed=seed) for seed in (3, 4)]
    reporting, out, _, clock = _reporting(cells, done=10)
    with reporting:
        _run(reporting, clock, cells[0], 14.0)
    assert out.getvalue() == "11/12 digits / ste / seed 3  accuracy 0.983   14.0 s  ETA 14 s\n"


def test_failed_cell_is_one_line_with_status_and_reason():
    reporting, out, _, clock = _reporting([_cell()])
    _run(reporting, clock, _cell(), 1.0, _diverged("loss not finite [bold] at step 3"))
    assert out.getvalue() == "1/1 digits / ste / seed 0  diverged: loss not finite [bold] at step 3  ETA 0 s\n"


def test_accuracy_that_is_null_is_shown_as_none():
    assert outcome(_finished(accuracy=None)) == "accuracy   –      1.2 s"


def test_cells_that_differ_in_settings_alone_are_each_counted():
    cells = [replace(_cell(), hyperparameters={"lr": lr}) for lr in (0.1, 0.2, 0.3)]
    reporting, out, _, clock = _reporting(cells)
    for cell in cells:
        _run(reporting, clock, cell, 1.0)
    assert reporting.total == reporting.done == 3 and out.getvalue().count("digits / ste / seed 0") == 3


def test_time_left_counts_each_waiting_cell_as_its_own_kind():
    slow, fast = _cell(method="bop"), _cell(method="ste")
    cells = [slow, fast, _cell(method="bop", seed=1), _cell(method="ste", seed=1), _cell(method="ste", seed=2)]
    reporting, _, _, clock = _reporting(cells)
    assert reporting.eta() is None
    _run(reporting, clock, slow, 10.0)
    assert reporting.eta() == pytest.approx(10 + 3 * 10)  # ste not seen yet: as the problem's others
    _run(reporting, clock, fast, 1.0)
    assert reporting.eta() == pytest.approx(10 + 2 * 1)


def test_time_left_of_a_problem_not_seen_yet_is_that_of_all():
    cells = [_cell(), _cell(problem="moons")]
    reporting, _, _, clock = _reporting(cells)
    _run(reporting, clock, cells[0], 4.0)
    assert reporting.eta() == pytest.approx(4.0)


def test_time_left_is_shared_by_workers_and_shrinks_while_cells_run():
    cells = [_cell(seed=seed) for seed in range(5)]
    reporting, _, _, clock = _reporting(cells, workers=2)
    _run(reporting, clock, cells[0], 8.0)
    assert reporting.eta() == pytest.approx(4 * 8 / 2)
    reporting.started(cells[1])
    clock.now += 6.0
    assert reporting.eta() == pytest.approx((3 * 8 + 2) / 2)
    clock.now += 60.0  # longer than expected: never less than nothing left
    assert reporting.eta() == pytest.approx(3 * 8 / 2)


def test_terminal_keeps_one_live_line_and_only_failures_stay():
    cells = [_cell(seed=0), _cell(seed=1)]
    reporting, out, _, clock = _reporting(cells, terminal=True)
    with reporting:
        _run(reporting, clock, cells[0], 1.0)
        _run(reporting, clock, cells[1], 1.0, _diverged())
    lines = out.getvalue().split("\n")
    assert any("2/2 digits / ste / seed 1  diverged: loss not finite" in line for line in lines)
    assert not any(line.startswith("1/2 digits / ste / seed 0") for line in lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_live_line_keeps_count_and_time_left_at_every_width(width):
    cells = [_cell(problem="a-problem-with-a-long-name", method="a-method-with-a-long-name", seed=s) for s in range(9)]
    reporting, out, _, clock = _reporting(cells, terminal=True, width=width)
    with reporting:
        _run(reporting, clock, cells[0], 2.0)
    assert "1/9" in out.getvalue() and "ETA 16 s" in out.getvalue()


def test_warning_goes_to_standard_error():
    reporting, out, err, _ = _reporting([])
    reporting.warning("1 damaged [record] set aside")
    assert (out.getvalue(), err.getvalue()) == ("", "warning: 1 damaged [record] set aside\n")
