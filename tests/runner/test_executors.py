"""Executors: every task ends exactly once, whatever its worker does. The jobs live in a module of their own, which
workers import by name.
"""

import importlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from studies.runner.executors import STRIKES, Died, processes, serial

JOBS = """
    import os, signal, sys, time
    from pathlib import Path


    def square(n):
        return n * n


    def threads(_):
        return os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS")


    def interrupt(n):
        os.kill(os.getpid(), signal.SIGINT)
        return n


    def fail(n):
        if n == 2:
            raise KeyError(f"task {n}")
        return n


    def logged(folder, n):
        (Path(folder) / f"{n}-{time.time_ns()}").touch()
        return len(list(Path(folder).glob(f"{n}-*")))


    def die_once(task):
        folder, n = task
        if logged(folder, n) == 1 and n == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return n


    def always_die(task):
        folder, n = task
        logged(folder, n)
        if n == 1:
            os._exit(7)
        return n


    def die_beside_others(task):
        folder, n = task
        running = Path(folder) / f"running-{n}"
        running.touch()
        others = len(list(Path(folder).glob("running-*"))) - 1
        first = logged(folder, n) == 1
        time.sleep(0.05)
        if n < 2 and first:
            running.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        running.unlink()
        return others, first


    def sleep_and_tell(path):
        Path(path).write_text(str(os.getpid()))
        time.sleep(600)


    def die_after_answer(n):
        import threading
        threading.Timer(0.05, os._exit, (1,)).start()
        return n
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """The module of jobs, importable here and in every worker (they are handed this process's sys.path)."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "executor_jobs.py").write_text(textwrap.dedent(JOBS))
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("executor_jobs", None)
    yield importlib.import_module("executor_jobs")
    sys.modules.pop("executor_jobs", None)


def test_both_executors_give_every_task_its_result(jobs):
    tasks = list(range(7))
    expected = {n: n * n for n in tasks}
    assert dict(serial(jobs.square, tasks)) == expected
    assert dict(processes(jobs.square, tasks, workers=3)) == expected


def test_no_task_is_no_work(jobs):
    assert list(processes(jobs.square, [], workers=2)) == []


def test_started_is_told_of_each_task_before_its_result(jobs):
    events = []
    for task, _ in processes(jobs.square, [1, 2, 3], workers=2, started=lambda n: events.append(("started", n))):
        events.append(("ended", task))
    for n in (1, 2, 3):
        assert events.index(("started", n)) < events.index(("ended", n))


def test_numerical_libraries_get_one_thread_in_a_worker_and_this_process_keeps_its_own(jobs):
    before = os.environ.get("OMP_NUM_THREADS")
    assert list(processes(jobs.threads, [0], workers=1)) == [(0, ("1", "1"))]
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_a_worker_leaves_interrupts_to_its_parent(jobs):
    assert list(processes(jobs.interrupt, [5], workers=1)) == [(5, 5)]


def test_zero_workers_are_refused(jobs):
    with pytest.raises(ValueError, match=r"workers must be >= 1 \(got 0\)"):
        list(processes(jobs.square, [1], workers=0))


def test_an_exception_in_a_worker_is_raised_here_with_its_traceback(jobs):
    with pytest.raises(KeyError, match="task 2") as caught:
        list(processes(jobs.fail, [1, 2, 3], workers=1))
    assert "in fail" in "".join(caught.value.__notes__)


def test_a_death_costs_one_repeat_and_no_other_task(jobs, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    tasks = [(str(log), n) for n in range(6)]
    results = list(processes(jobs.die_once, tasks, workers=2))
    assert sorted(n for _, n in results) == list(range(6))
    runs = [path.name.split("-")[0] for path in log.iterdir()]
    assert sorted(runs) == ["0", "1", "1", "2", "3", "4", "5"]


def test_a_task_that_always_kills_is_given_up_after_three_deaths_while_others_finish(jobs, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    results = dict(processes(jobs.always_die, [(str(log), n) for n in range(5)], workers=2))
    died = results.pop((str(log), 1))
    assert isinstance(died, Died)
    assert str(died) == "worker died (exit status 7) 3 times"
    assert sorted(results.values()) == [0, 2, 3, 4]
    assert len(list(log.glob("1-*"))) == STRIKES


def test_a_repeated_task_runs_alone(jobs, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    results = dict(processes(jobs.die_beside_others, [(str(log), n) for n in range(8)], workers=3))
    repeated = [results[(str(log), n)] for n in (0, 1)]
    assert repeated == [(0, False), (0, False)]


def test_a_worker_that_dies_idle_costs_no_task_a_strike(jobs):
    started = []
    results = []
    for task, result in processes(jobs.die_after_answer, [1, 2, 3], workers=1, started=started.append):
        results.append((task, result))
        time.sleep(0.3)  # long enough for the worker to be gone before it is given the next task
    assert results == [(1, 1), (2, 2), (3, 3)]
    assert started == [1, 2, 3]


def test_ctrl_c_ends_workers_at_work(jobs, tmp_path):
    tasks = [str(tmp_path / f"pid{n}") for n in range(2)]
    outcomes = processes(jobs.sleep_and_tell, tasks, workers=2)

    def press_ctrl_c():
        _eventually(lambda: all(Path(t).exists() and Path(t).read_text() for t in tasks))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_ctrl_c).start()
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)
    pids = [int(Path(task).read_text()) for task in tasks]
    assert not any(_runs(pid) for pid in pids)


def test_workers_at_work_end_when_their_parent_is_killed(jobs, tmp_path):
    told = [tmp_path / "pid0", tmp_path / "pid1"]
    code = (
        f"import sys; sys.path.insert(0, {jobs.__file__.rpartition('/')[0]!r})\n"
        "import executor_jobs\n"
        "from studies.runner.executors import processes\n"
        f"list(processes(executor_jobs.sleep_and_tell, {[str(t) for t in told]!r}, workers=2))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        pids = [int(_eventually(lambda t=t: t.exists() and t.read_text())) for t in told]
    finally:
        parent.kill()
        parent.wait()
    _eventually(lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    """Whether the process exists and is not a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _eventually(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)
    return value
