"""The command as a process of its own: how fast it answers, its workers, and Ctrl-C."""

import os
import re
import resource
import signal
import subprocess
import sys

import pytest
import torch

from studies.compare import main

COMPARE = [sys.executable, "-m", "studies.compare"]


@pytest.fixture
def in_process(monkeypatch):
    """The command in this process and without figures, where a second process would only cost time."""
    monkeypatch.setattr("studies.analysis.output.figures.draw", lambda *frames, **title: [])
    threads = torch.get_num_threads()
    yield lambda *words: main(words)
    torch.set_num_threads(threads)  # a cell leaves one thread and no denormals; other tests need theirs
    torch.set_flush_denormal(False)


def _run(folder, *words, timeout=120):
    return subprocess.run([*COMPARE, *words], cwd=folder, capture_output=True, text=True, timeout=timeout)


def test_help_and_plan_line_import_none_of_the_heavy_packages():
    # 0.3 s for --help and 1 s for the plan line hold on any machine as long as these are not imported before them
    code = (
        "import sys; import studies.compare as c; c._parse([]);"
        "r = c.request(c._parse([]), methods=c.METHODS, problems=c.PROBLEMS); c._plan_line(r);"
        "heavy = {'torch', 'numpy', 'pandas', 'scipy', 'sklearn', 'matplotlib', 'rich', 'core', 'methods'};"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("\n", "", 0)


def test_help_takes_under_three_tenths_of_a_second(tmp_path):
    # of processor time, which other work on the machine does not lengthen; an import of torch alone takes over 1 s
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = _run(tmp_path, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "--require-all" in done.stdout
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 0.3


def test_workers_and_serial_make_the_same_table(tmp_path, in_process):
    words = ["--problems", "breast-cancer", "--methods", "ste,bayesbinn", "--seeds", "2", "--epochs", "2"]
    apart = _run(tmp_path, *words, "--workers", "2", "--out", "apart")
    assert apart.returncode == 0, apart.stderr
    assert "= 4 cells; 2 workers; apart\n" in apart.stdout
    assert in_process(*words, "--backend", "serial", "--out", str(tmp_path / "alone")) == 0
    tables = [(tmp_path / out / "table.csv").read_text() for out in ("apart", "alone")]
    assert _untimed(tables[0]) == _untimed(tables[1])


@pytest.mark.timeout(900)
def test_the_default_study_twice_gives_equal_tables(tmp_path):
    for out in ("first", "second"):
        done = _run(tmp_path, "--out", out, timeout=400)
        assert done.returncode == 0, done.stderr
    tables = [(tmp_path / out / "table.csv").read_text() for out in ("first", "second")]
    assert _untimed(tables[0]) == _untimed(tables[1])
    assert tables[0].count("\n") > 100


def test_interrupt_saves_finished_cells_and_the_same_command_continues(tmp_path, in_process, capsys):
    words = ["--problems", "breast-cancer", "--methods", "ste", "--seeds", "12", "--epochs", "40", "--no-states"]
    command = subprocess.Popen(
        [*COMPARE, *words, "--workers", "2", "--out", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in command.stdout:
        if re.match(r" *2/12 ", line):
            break
    os.killpg(command.pid, signal.SIGINT)  # the whole group, as a terminal does
    _, err = command.communicate(timeout=60)
    assert command.returncode == 130
    saved = re.fullmatch(r"(\d+) of 12 cells saved; the same command continues\n", err)
    assert saved, err
    kept = {path.name: path.read_bytes() for path in (tmp_path / "out" / "records").glob("*.json")}
    # each of two workers may have written one record that the command had not yet heard of
    assert 2 <= int(saved[1]) <= len(kept) <= int(saved[1]) + 2 < 12
    assert in_process(*words, "--backend", "serial", "--out", str(tmp_path / "out")) == 0
    assert f"{len(kept)} cached, {12 - len(kept)} to run" in capsys.readouterr().out
    after = {path.name: path.read_bytes() for path in (tmp_path / "out" / "records").glob("*.json")}
    assert len(after) == 12 and after.items() >= kept.items()


def _untimed(table):
    return [line for line in table.splitlines() if not re.search(r"second|memory", line)]
