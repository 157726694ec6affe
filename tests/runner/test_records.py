"""The store: whole files or none, damage found and set aside, a full or forbidden folder told in words."""

import errno
import json
import os
import random
import subprocess
import sys
import textwrap

import pytest
import torch

from studies.runner import records
from studies.runner.records import StorageError, Store, checksum

CONFIG = {"study": "test", "problem": "digits", "method": "ste", "seed": 0}
STAMP = {"schema": 1, "key": "ab12", "status": "finished", "reason": None, "config": CONFIG, "provenance": {}}
RECORD = {**STAMP, "value": 0.1, "nothing": None, "curve": [{"epoch": 1}]}
STATE = {"model": {"w": torch.arange(3.0)}, "statistics": {"mode": [{"norm.mean": torch.ones(2).double()}]}}


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "out")
    made.prepare(1)
    return made


def _files(store):
    return sorted(str(p.relative_to(store.out)) for p in store.out.rglob("*") if p.is_file())


def test_a_record_and_its_state_come_back_as_written(store):
    written = store.write(RECORD, STATE)
    assert store.read_all() == [written] == [store.read("ab12")]
    assert {name: written[name] for name in RECORD} == RECORD
    assert written["states"]["file"] == "states/ab12.pt"
    back = store.state(written)
    assert torch.equal(back["model"]["w"], STATE["model"]["w"])
    assert torch.equal(back["statistics"]["mode"][0]["norm.mean"], torch.ones(2).double())
    assert store.warnings == []
    assert _files(store) == ["records/ab12.json", "states/ab12.pt"]


def test_a_record_without_state_says_so(store):
    written = store.write(RECORD, None)
    assert written["states"] is None
    with pytest.raises(StorageError, match="record ab12 kept no state; run its cell again without --no-states"):
        store.state(written)


def test_a_flipped_bit_in_a_state_is_found(store):
    written = store.write(RECORD, STATE)
    path = store.states / "ab12.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageError, match="ab12.pt is damaged"):
        store.state(written)


def test_records_come_sorted_by_key(store):
    for name in ("c", "a", "b"):
        store.write({**RECORD, "key": name}, None)
    assert [record["key"] for record in store.read_all()] == ["a", "b", "c"]


def test_a_record_cut_anywhere_is_set_aside(store):
    store.write(RECORD, None)
    path = store.records / "ab12.json"
    whole = path.read_bytes()
    last = len(whole.rstrip())  # without its final newline it is still whole
    for length in range(last):
        path.write_bytes(whole[:length])
        assert store.read_all() == []
        assert not path.exists()
    assert len(list(store.quarantine.iterdir())) == last


def test_any_flipped_bit_of_a_record_is_found_or_changes_nothing(store):
    written = store.write(RECORD, None)
    path = store.records / "ab12.json"
    whole = path.read_bytes()
    chance = random.Random(0)
    for place in range(len(whole)):
        flipped = bytes([whole[place] ^ (1 << chance.randrange(8))])
        path.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        found = store.read("ab12")
        assert found is None or found == written


def test_a_record_under_another_name_is_set_aside(store):
    store.write(RECORD, None)
    (store.records / "ab12.json").rename(store.records / "ff.json")
    assert store.read_all() == []
    assert "ff.json: it is the record of ab12" in store.warnings[0]


def test_all_damage_is_told_in_one_warning(store):
    for name in ("a", "b", "c"):
        store.write({**RECORD, "key": name}, None)
    (store.records / "a.json").write_text("{")
    (store.records / "b.json").write_text((store.records / "b.json").read_text().replace("0.1", "0.2"))
    assert [record["key"] for record in store.read_all()] == ["c"]
    (warning,) = store.warnings
    assert warning.startswith(f"2 damaged records set aside in {store.quarantine} (a.json: not JSON; it was cut short")
    assert "b.json: its checksum differs" in warning and "\n" not in warning
    assert len(list(store.quarantine.iterdir())) == 2
    assert [record["key"] for record in store.read_all()] == ["c"]
    assert len(store.warnings) == 1


@pytest.mark.parametrize("absent", ["status", "reason", "config", "provenance", "states", "config.problem"])
def test_a_whole_record_without_what_readers_need_is_set_aside(store, absent):
    whole = {**RECORD, "states": None}
    lacking = {k: v for k, v in whole.items() if k != absent}
    if absent == "config.problem":
        lacking["config"] = {k: v for k, v in CONFIG.items() if k != "problem"}
    path = store.records / "ab12.json"
    path.write_text(json.dumps({**lacking, "checksum": checksum(lacking)}))
    assert store.read("ab12") is None
    assert store.read_all() == []
    assert f"ab12.json: it has no {absent}" in store.warnings[0] and not path.exists()


def test_a_record_of_another_schema_is_left_alone(store):
    other = {**RECORD, "schema": 2, "states": None}
    path = store.records / "ab12.json"
    path.write_text(json.dumps({**other, "checksum": checksum(other)}))
    assert store.read_all() == []
    assert path.exists() and store.warnings == []


def test_a_folder_that_was_never_written_holds_no_records(tmp_path):
    assert Store(tmp_path / "absent").read_all() == []
    assert not (tmp_path / "absent").exists()


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        Store(tmp_path / "file" / "out").prepare(1)
    assert f"cannot write to the output folder {tmp_path / 'file' / 'out'}: Not a directory" in str(caught.value)
    assert "choose another with --out DIR" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_may_not_be_written_is_named(tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="cannot write to the output folder .*: Permission denied"):
        Store(tmp_path / "out").prepare(1)


def test_too_little_space_is_told_before_anything_runs(store, monkeypatch):
    free = 150_000_000
    usage = records.shutil.disk_usage(store.out)._replace(free=free)
    monkeypatch.setattr(records.shutil, "disk_usage", lambda path: usage)
    store.prepare(3, free // 3)
    with pytest.raises(StorageError) as caught:
        store.prepare(60, 10_000_000)
    assert "60 cells need about 600.0 MB, 150.0 MB are free" in str(caught.value)
    assert str(store.out) in str(caught.value) and "--no-states" in str(caught.value)


@pytest.mark.parametrize("state", [None, STATE], ids=["record", "state"])
def test_a_full_disk_leaves_what_was_there_and_no_temporary_file(store, monkeypatch, state):
    store.write(RECORD, None)
    before = {name: (store.out / name).read_bytes() for name in _files(store)}

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(StorageError) as caught:
        store.write({**RECORD, "value": 0.2}, state)
    assert "No space left on device" in str(caught.value)
    assert "the same command continues" in str(caught.value)
    assert {name: (store.out / name).read_bytes() for name in _files(store)} == before


def test_a_write_that_the_system_cuts_short_is_a_storage_error(store):
    """A real one: the process may not write files beyond 4 KiB, and the state is larger."""
    code = f"""
        import resource, torch
        from pathlib import Path
        from studies.runner.records import StorageError, Store
        store = Store(Path({str(store.out)!r}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            store.write({RECORD!r}, {{"model": {{"w": torch.zeros(5000)}}}})
        except StorageError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert "ab12.pt" in done.stdout and "File too large" in done.stdout
    assert _files(store) == []


def test_a_writer_killed_at_any_moment_leaves_whole_files(store):
    code = f"""
        import os, random, signal, sys, time, torch
        from pathlib import Path
        from studies.runner.records import Store

        def write_forever():
            store, n = Store(Path({str(store.out)!r})), 0
            while True:
                n += 1
                record = {{**{RECORD!r}, "key": f"k{{n % 3}}", "value": n, "padding": "x" * 20000}}
                store.write(record, {{"n": torch.full((5000,), n)}})

        chance = random.Random(0)
        for _ in sys.stdin:
            if not (writer := os.fork()):
                write_forever()
            time.sleep(chance.uniform(0.005, 0.1))
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            print("killed", flush=True)
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code)]
    seen = 0
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killer:
        for _ in range(20):
            killer.stdin.write("again\n")
            killer.stdin.flush()
            assert killer.stdout.readline() == "killed\n"
            seen += len(store.read_all())
            assert store.warnings == []
            for path in store.states.glob("*.pt"):
                assert torch.load(path, weights_only=True)["n"].unique().numel() == 1
    assert seen > 0
    store.prepare(1)
    assert not [name for name in _files(store) if name.endswith(".tmp")]


def test_only_temporary_files_of_dead_processes_are_cleared(store):
    host = os.uname().nodename
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "dead": f".a.json@{host}@{dead.pid}.tmp",
        "alive": f".b.json@{host}@{os.getppid()}.tmp",
        "elsewhere": f".c.json@{host}-other@1.tmp",
        "old": f".d.json@{host}-other@2.tmp",
    }
    for name in names.values():
        (store.records / name).write_text("half")
    os.utime(store.records / names["old"], (0, 0))
    store.prepare(1)
    left = {path.name for path in store.records.iterdir()}
    assert left == {names["alive"], names["elsewhere"]}
