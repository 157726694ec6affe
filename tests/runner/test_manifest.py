"""The manifest: where, when, and with what results were made."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from studies.runner import machine
from studies.runner.manifest import checkout, manifest, versions


def test_a_manifest_names_command_times_and_versions():
    began = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    made = manifest(
        ["python", "-m", "studies.compare", "--out", "my results"],
        started=began,
        workers=2,
        backend="processes",
    )
    json.dumps(made, allow_nan=False)
    assert made["command"] == "python -m studies.compare --out 'my results'"
    assert made["started"] == "2026-01-02T03:04:05+00:00" < made["ended"]
    assert (made["workers"], made["threads_per_worker"]) == (2, 1)
    assert made["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(versions()[name] for name in ("bitrelax", "torch", "numpy", "pandas"))


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "a.py").write_text("x = 1\n")
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "a.py"], [*who, "commit", "-q", "--no-verify", "-m", "one"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


def test_a_checkout_is_known_by_commit_and_whether_it_was_edited(repository):
    head = subprocess.run(["git", "-C", str(repository), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert checkout(repository) == {"commit": head.stdout.strip(), "dirty": False}
    (repository / "a.py").write_text("x = 2\n")
    assert checkout(repository)["dirty"] is True


def test_a_copy_installed_inside_another_checkout_claims_no_commit(repository):
    inside = repository / ".venv"
    inside.mkdir()
    assert checkout(inside) == {"commit": None, "dirty": None}


def test_a_machine_without_git_is_no_error(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert checkout(repository) == {"commit": None, "dirty": None}


def test_facts_of_the_machine_are_those_of_the_system():
    facts = machine.facts()
    json.dumps(facts, allow_nan=False)
    assert 1 <= facts["cores"] <= os.cpu_count()
    assert facts["cpu"] and facts["memory_mb"] > 100 and facts["load"] >= 0


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="only Linux counts the peak anew")
def test_peak_memory_is_that_since_the_last_reset():
    size = 200
    machine.reset_peak_memory()
    before = machine.peak_memory_mb()
    block = bytearray(size * 2**20)
    # other allocations of the moment are far below a tenth of the block
    assert machine.peak_memory_mb() - before > 0.9 * size
    del block
    machine.reset_peak_memory()
    assert machine.peak_memory_mb() - before < 0.1 * size
