"""Runs of whole plans: nothing is lost, nothing is done twice, whoever dies."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from studies.runner import records as records_module
from studies.runner.execute import examine, execute
from studies.runner.records import StorageError, Store

GRID = [("ste", 0), ("ste", 1), ("bayesbinn", 0), ("full-precision", 0)]


def _by_key(records, numbers):
    return {record["key"]: numbers(record) for record in records}


def test_serial_and_processes_write_the_same_records(cell, run, numbers, tmp_path):
    cells = [cell(method, seed=seed) for method, seed in GRID]
    alone, _, _ = run(cells, tmp_path / "a", backend="serial")
    together, reporter, _ = run(cells, tmp_path / "b", backend="processes", workers=2)
    assert _by_key(alone, numbers) == _by_key(together, numbers)  # states' hashes included
    assert [record["config"] for record in together] == [c.config() for c in cells]
    assert sorted(c.label() for c, _ in reporter.ended) == sorted(c.label() for c in cells)


def test_a_rerun_computes_only_what_is_missing_or_changed(cell, run, tmp_path):
    first, _, store = run([cell(seed=s) for s in (0, 1)], tmp_path)
    second, reporter, _ = run([cell(seed=0), cell(seed=1, lr=0.5), cell(seed=2)], tmp_path)
    assert [(c.seed, status) for c, status in reporter.ended] == [(1, "finished"), (2, "finished")]
    assert second[0] == first[0]
    assert {record["key"] for record in store.read_all()} == {r["key"] for r in first + second}


def test_workers_and_folders_do_not_change_what_is_cached(cell, run, tmp_path):
    run([cell()], tmp_path / "a", backend="processes", workers=2)
    (tmp_path / "a").rename(tmp_path / "b")
    _, reporter, _ = run([cell()], tmp_path / "b", backend="serial", workers=1, keep_states=False)
    assert reporter.begun == []


def test_without_states_none_is_kept(cell, run, tmp_path):
    (record,), _, store = run([cell()], tmp_path, keep_states=False)
    assert record["states"] is None
    assert list(store.states.iterdir()) == []


def test_a_stale_record_is_returned_marked(cell, run, tmp_path, monkeypatch):
    (old,), _, _ = run([cell()], tmp_path)
    monkeypatch.setattr("studies.runner.provenance.source_hash", lambda folder: "other sources")
    (kept,), reporter, store = run([cell()], tmp_path, reuse_stale=True)
    assert kept == {**old, "stale": True} and reporter.begun == []
    assert store.read_all() == [old]


def test_damaged_records_are_set_aside_and_run_again_with_one_warning(cell, run, numbers, tmp_path):
    cells = [cell(seed=s) for s in range(3)]
    before, _, store = run(cells, tmp_path)
    cut, flipped = (store.records / f"{record['key']}.json" for record in before[:2])
    cut.write_bytes(cut.read_bytes()[:100])
    content = bytearray(flipped.read_bytes())
    content[content.index(b"accuracy") + 12] ^= 1
    flipped.write_bytes(content)
    after, reporter, store = run(cells, tmp_path)
    assert sorted(c.seed for c, _ in reporter.ended) == [0, 1]
    (warning,) = store.warnings
    assert warning.startswith("2 damaged records set aside")
    assert _by_key(after, numbers) == _by_key(before, numbers)


def test_one_cell_that_fails_does_not_stop_the_others(plugin, cell, run, tmp_path):
    cells = [cell(), cell("raising"), cell("diverging"), cell("choosy"), cell(problem="mnist"), cell(seed=1)]
    records, _, _ = run(cells, tmp_path, data_dir=tmp_path)
    expected = ["finished", "failed", "diverged", "skipped", "unavailable", "finished"]
    assert [record["status"] for record in records] == expected
    _, again, _ = run(cells, tmp_path, data_dir=tmp_path)
    assert [status for _, status in again.ended] == ["failed", "unavailable"]


def test_a_failed_cell_is_run_again_and_its_record_replaced(plugin, cell, run, tmp_path):
    chosen = cell("raising", folder=str(tmp_path))
    run([chosen], tmp_path / "out")
    (tmp_path / "repaired").touch()
    (record,), _, store = run([chosen], tmp_path / "out")
    assert record["status"] == "finished" and store.read_all() == [record]


def test_a_worker_that_dies_once_costs_exactly_one_repeat(plugin, cell, run, tmp_path):
    killer = cell("killing", folder=str(tmp_path), times=1)
    cells = [cell(), killer, cell(seed=1), cell("bop")]
    records, reporter, _ = run(cells, tmp_path / "out", backend="processes", workers=2)
    assert [record["status"] for record in records] == ["finished"] * 4
    assert sorted(c.label() for c in reporter.begun) == sorted(c.label() for c in [*cells, killer])
    assert len(list(tmp_path.glob("run-*"))) == 2


def test_a_cell_that_always_kills_its_worker_is_recorded_as_crashed(plugin, cell, run, tmp_path):
    cells = [cell("killing", folder=str(tmp_path), times=99), cell(), cell(seed=1)]
    records, reporter, _ = run(cells, tmp_path / "out", backend="processes", workers=2)
    assert [record["status"] for record in records] == ["crashed", "finished", "finished"]
    assert records[0]["reason"] == "worker died (signal 9) 3 times"
    assert reporter.warnings == ["breast-cancer / killing / seed 0: worker died (signal 9) 3 times"]
    assert len(list(tmp_path.glob("run-*"))) == 3
    _, again, _ = run(cells, tmp_path / "out", backend="processes")
    assert again.begun == []


def test_a_cell_that_another_run_finished_meanwhile_is_taken_from_there(cell, run, tmp_path):
    store = Store(tmp_path)
    verdicts = examine([cell()], store, None, reuse_stale=False, keep_states=False)
    (there,), _, _ = run([cell()], tmp_path)
    from_worker = _execute(verdicts, store)
    assert from_worker == [there]


@pytest.mark.parametrize("backend", ["serial", "processes"])
def test_a_folder_that_refuses_ends_the_run_in_words(cell, run, tmp_path, backend):
    store = Store(tmp_path)
    verdicts = examine([cell()], store, None, reuse_stale=False, keep_states=False)
    store.prepare(1)
    path = store.records / f"{verdicts[0].key}.json"
    path.mkdir()  # a folder where the record should go: reading and replacing it fail, also for root
    with pytest.raises(StorageError, match="Is a directory"):
        _execute(verdicts, store, backend=backend)


def test_too_little_room_for_the_states_is_told_before_a_cell_starts(cell, run, tmp_path, monkeypatch):
    usage = records_module.shutil.disk_usage(tmp_path)._replace(free=50_000_000)
    monkeypatch.setattr(records_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"1 cells need about \d+\.\d MB, 50\.0 MB are free"):
        run([cell(widths=(2048, 2048, 2048))], tmp_path)
    run([cell()], tmp_path)


def test_ctrl_c_keeps_what_is_finished(plugin, cell, run, tmp_path):
    class Impatient:
        def __init__(self):
            self.ended = []

        def started(self, cell): ...

        def warning(self, text): ...

        def finished(self, cell, record):
            self.ended.append(record["key"])
            signal.raise_signal(signal.SIGINT)

    store, impatient = Store(tmp_path), Impatient()
    verdicts = examine([cell(), cell("slow", seconds=600.0)], store, None, reuse_stale=False, keep_states=False)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _execute(verdicts, store, backend="processes", reporter=impatient)
    assert time.monotonic() - started < 60
    assert [record["key"] for record in store.read_all()] == impatient.ended
    _, rerun, _ = run([cell()], tmp_path)
    assert rerun.begun == []


RUNNER = """
    import os, random, signal, sys, time
    sys.path.insert(0, {plugin!r})
    from pathlib import Path
    from studies.runner.cells import Cell
    from studies.runner.execute import examine, execute
    from studies.runner.records import Store

    class Telling:
        def started(self, cell): ...
        def warning(self, text): ...
        def finished(self, cell, record): print("finished", flush=True)

    cells = [Cell(**config) for config in {configs!r}]

    def run(backend):
        store = Store(Path({out!r}))
        verdicts = examine(cells, store, None, reuse_stale=False, keep_states=False)
        execute(verdicts, store, data_dir=None, backend=backend, workers=2, keep_states=True, reporter=Telling())
"""
KILLS = """
    from studies.runner.measure import measure

    measure(cells[0], None)  # imports what it imports
    began = time.perf_counter()
    examine(cells, Store(Path("nowhere")), None, reuse_stale=False, keep_states=False)
    measure(cells[0], None)
    took = time.perf_counter() - began
    chance = random.Random(0)
    for _ in range(12):
        if len(list(Path({out!r}, "records").glob("*.json"))) >= len(cells) // 3:
            break  # enough are finished; the rest is for the kills to come
        if not (runner := os.fork()):
            run("serial")
            os._exit(0)
        time.sleep(chance.uniform(0.0, 4 * took))
        os.kill(runner, signal.SIGKILL)
        os.waitpid(runner, 0)
"""


def _run_apart(plugin, out, cells, what):
    """A process that defines `run(backend)` for the cells, then does `what`."""
    code = textwrap.dedent(RUNNER) + textwrap.dedent(what)
    code = code.format(plugin=str(plugin), out=str(out), configs=[c.config() for c in cells])
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_runner_killed_at_any_moment_and_started_again_ends_as_if_undisturbed(plugin, cell, run, numbers, tmp_path):
    cells = [cell("slow", seed=seed, epochs=1, seconds=0.01) for seed in range(24)]
    out = tmp_path / "killed"
    with _run_apart(plugin, out, cells, KILLS) as killer:
        assert killer.wait() == 0
    after_kills = Store(out).read_all()
    assert 0 < len(after_kills) < len(cells)
    with _run_apart(plugin, out, cells, 'run("processes")') as runner:
        runner.stdout.readline()  # killed after the first new record, with a cell in every worker
        runner.kill()
    _orphans_end(out)
    assert len(Store(out).read_all()) > len(after_kills)
    resumed, reporter, store = run(cells, out, backend="processes")
    undisturbed, _, _ = run(cells, tmp_path / "undisturbed", backend="processes")
    assert reporter.ended and store.warnings == []
    assert _by_key(resumed, numbers) == _by_key(undisturbed, numbers)
    files = [sorted(p.relative_to(top) for p in top.rglob("*")) for top in (out, tmp_path / "undisturbed")]
    assert files[0] == files[1]  # no leftovers
    for record in resumed:
        assert torch.is_tensor(next(iter(store.state(record)["model"].values())))


def _orphans_end(out, seconds=30.0):
    """Wait until nothing in the folder changes any more: workers of a killed runner end by themselves."""
    before, deadline = None, time.monotonic() + seconds
    while (now := sorted(p.name for p in out.rglob("*"))) != before or any(map(_being_written, now)):
        assert time.monotonic() < deadline
        before = now
        time.sleep(0.3)


def _being_written(name):
    """Whether this is the temporary file of a process that lives: one held up by the disk changes nothing for long."""
    return name.endswith(".tmp") and records_module._alive(int(name.removesuffix(".tmp").rsplit("@", 1)[1]))


class _Silent:
    def started(self, cell): ...

    def finished(self, cell, record): ...

    def warning(self, text): ...


def _execute(verdicts, store, *, backend="serial", reporter=None):
    reporter = _Silent() if reporter is None else reporter
    return execute(verdicts, store, data_dir=None, backend=backend, workers=2, keep_states=True, reporter=reporter)
