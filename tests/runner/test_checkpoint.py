"""Checkpoints: a cell killed anywhere and run again is the undisturbed cell; what cannot be continued is refused."""

import dataclasses
import hashlib
import io
import sys
import textwrap
import time

import pytest
import torch

import methods
from studies.compare import _parse, main
from studies.runner import checkpoint as checkpoint_module
from studies.runner.checkpoint import Checkpoint, CheckpointRefused
from studies.runner.config import resolve
from studies.runner.execute import examine, execute
from studies.runner.measure import measure
from studies.runner.records import StorageError, Store
from studies.runner.request import ConfigErrors, request

ALWAYS = 1e-9  # seconds: a checkpoint whenever the losses are read

PLUGIN = '''
    """Methods that die, or prepare something; otherwise they are ste."""

    import dataclasses, os, signal
    from pathlib import Path

    import torch

    from core.interface import Prepared
    from methods import make, register


    @register("dying")
    def dying(*, folder: str = "", times: int = 0):
        """Kills its worker `times` times, at a fourth of its steps, at two fourths, ..."""

        def objective(loss, context):
            deaths = len(list(Path(folder).glob("death-*")))
            if deaths < times and context.progress > (deaths + 1) / 4:
                (Path(folder) / f"death-{deaths}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return loss

        return dataclasses.replace(make("ste"), objective=objective)


    @register("starting-elsewhere")
    def starting_elsewhere(*, folder: str = ""):
        """Starts from its own point, a fifth of the budget spent; counts how often it prepares."""

        def prepare(given):
            with torch.no_grad():
                for parameter in given.model.parameters():
                    parameter.copy_(torch.rand(parameter.shape, generator=given.rng) - 0.5)
            (Path(folder) / f"prepared-{len(list(Path(folder).glob('prepared-*')))}").touch()
            return Prepared(steps=given.budget.steps // 5, passes=1, facts={"moved": 2})

        return dataclasses.replace(make("ste"), prepare=prepare)


    @register("with-a-head")
    def with_a_head(*, folder: str = ""):
        """Trains a scale beside the network, with a solver of its own."""

        def prepare(given):
            head = torch.nn.Linear(1, 1, bias=False)
            with torch.no_grad():
                head.weight.fill_(torch.rand((), generator=given.rng).item())
            (Path(folder) / f"prepared-{len(list(Path(folder).glob('prepared-*')))}").touch()
            return Prepared(modules={"head": head}, solvers=[torch.optim.Adam(head.parameters(), lr=0.05)])

        def objective(loss, context):
            return loss * context.modules["head"](loss.reshape(1, 1)).squeeze().abs()

        return dataclasses.replace(make("ste"), prepare=prepare, objective=objective)
'''
PLUGGED = ("dying", "starting-elsewhere", "with-a-head")


@pytest.fixture
def dying(tmp_path, monkeypatch):
    """A distribution with the methods above."""
    folder = tmp_path / "site"
    info = folder / "dying_methods-0.1.dist-info"
    info.mkdir(parents=True)
    (folder / "dying_methods.py").write_text(textwrap.dedent(PLUGIN))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dying-methods\nVersion: 0.1\n")
    entries = "\n".join(f"{name} = dying_methods" for name in PLUGGED)
    (info / "entry_points.txt").write_text(f"[bitrelax.methods]\n{entries}\n")
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in PLUGGED:
        methods._FACTORIES.pop(name, None)
    sys.modules.pop("dying_methods", None)


@pytest.fixture
def long(cell):
    """long(method, ...): a cell of 85 steps an epoch, so that losses are read, and checkpoints written, inside one."""
    return lambda *arguments, **keywords: dataclasses.replace(cell(*arguments, **keywords), batch=4)


class Killed(BaseException):
    """In place of SIGKILL: passes every `except Exception`."""


@pytest.fixture
def killed(monkeypatch):
    """killed(n, act): run `act` until its nth checkpoint is written; the process then ends, as far as it can tell."""

    def until(count, act):
        saved, original = [], Checkpoint.save

        def save(self, content):
            original(self, content)
            saved.append(1)
            if len(saved) == count:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Checkpoint, "save", save)
            act()

    return until


def _run(cells, out, *, every=ALWAYS, backend="serial"):
    class Silent:
        started = finished = warning = staticmethod(lambda *_: None)

    store = Store(out)
    verdicts = examine(cells, store, None, reuse_stale=False, keep_states=True)
    return execute(
        verdicts,
        store,
        data_dir=None,
        backend=backend,
        workers=2,
        keep_states=True,
        checkpoint_every=every,
        reporter=Silent(),
    )


def _checkpoint(chosen, path, *, every=ALWAYS, **sources):
    given = examine([chosen], Store(path.parent / "none"), None, reuse_stale=False, keep_states=False)[0].provenance
    return Checkpoint(path, every, chosen.config(), given.as_dict() | sources)


# after step 20, in the middle of the first epoch; at its end; in the second; at the very end, before prediction
@pytest.mark.parametrize("count", [1, 5, 7, 10])
def test_a_cell_killed_and_run_again_ends_bit_for_bit_as_if_undisturbed(long, killed, numbers, tmp_path, count):
    chosen = long("bayesbinn")
    (whole,) = _run([chosen], tmp_path / "whole", every=0.0)
    killed(count, lambda: _run([chosen], tmp_path / "out"))
    assert len(list((tmp_path / "out" / "checkpoints").iterdir())) == 1
    (again,) = _run([chosen], tmp_path / "out")
    assert numbers(again) == numbers(whole)  # the hash of the state included
    assert (whole["machine"]["continued"], again["machine"]["continued"]) == (0, 1)
    assert list((tmp_path / "out" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("method", methods.LISTED_FIRST)
def test_every_method_is_continued_bit_for_bit(long, killed, numbers, tmp_path, method):
    chosen = long(method)
    (whole,) = _run([chosen], tmp_path / "whole", every=0.0)
    killed(7, lambda: _run([chosen], tmp_path / "out"))
    (again,) = _run([chosen], tmp_path / "out")
    assert whole["status"] == "finished" and numbers(again) == numbers(whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", methods.LISTED_FIRST)
def test_a_cell_on_a_gpu_is_continued_bit_for_bit_and_not_on_a_cpu(long, killed, numbers, tmp_path, method):
    chosen = dataclasses.replace(long(method), device="cuda")
    (whole,) = _run([chosen], tmp_path / "whole", every=0.0)
    killed(7, lambda: _run([chosen], tmp_path / "out"))
    (path,) = (tmp_path / "out" / "checkpoints").iterdir()
    with pytest.raises(CheckpointRefused, match="was written on cuda, this cell runs on cpu"):
        _checkpoint(long(method), path).load()
    (again,) = _run([chosen], tmp_path / "out")
    assert numbers(again) == numbers(whole)


def test_a_cell_killed_again_and_again_goes_on_from_the_last_checkpoint(long, killed, numbers, tmp_path):
    chosen = long()
    (whole,) = _run([chosen], tmp_path / "whole", every=0.0)
    for _ in range(4):
        killed(2, lambda: _run([chosen], tmp_path / "out"))  # two steps on each time: a restart would never end
    (again,) = _run([chosen], tmp_path / "out")
    assert numbers(again) == numbers(whole) and again["machine"]["continued"] == 4
    seconds = again["seconds"]
    assert 0 < seconds["before"] < seconds["total"] and seconds["train"] < seconds["total"]
    times = [point["seconds"] for point in again["curve"]]
    assert times == sorted(times) and times[-1] <= seconds["train"]


def test_a_worker_killed_by_the_system_costs_no_more_than_what_came_after_its_checkpoint(
    dying, long, numbers, tmp_path
):
    calm = long("dying", folder=str(tmp_path), times=2)
    (again,) = _run([calm], tmp_path / "out", backend="processes")
    assert len(list(tmp_path.glob("death-*"))) == 2
    assert again["machine"]["continued"] == 2
    (whole,) = _run([calm], tmp_path / "whole")  # it has died often enough
    assert numbers(again) == numbers(whole)


@pytest.mark.parametrize(("method", "preparations"), [("starting-elsewhere", 1), ("with-a-head", 2)])
def test_what_prepare_did_is_done_again_only_where_it_built_something(
    dying, long, killed, numbers, tmp_path, method, preparations
):
    chosen = long(method, folder=str(tmp_path))
    killed(3, lambda: _run([chosen], tmp_path / "out"))
    (again,) = _run([chosen], tmp_path / "out")
    assert len(list(tmp_path.glob("prepared-*"))) == preparations
    (whole,) = _run([chosen], tmp_path / "whole", every=0.0)
    assert whole["status"] == "finished" and numbers(again) == numbers(whole)
    told = {"starting-elsewhere": {"moved": 2}}.get(method)  # what it found is kept, though it is not done again
    assert again.get("facts") == whole.get("facts") == told


def test_a_continued_cell_that_diverges_says_so_in_the_same_words(plugin, long, killed, numbers, tmp_path):
    chosen = long("diverging", at=0.505)  # at step 87 of 170; checkpoints after 20, 40, 60, 80 and 85
    (whole,) = _run([chosen], tmp_path / "whole", every=0.0)
    killed(5, lambda: _run([chosen], tmp_path / "out"))
    (again,) = _run([chosen], tmp_path / "out")
    assert numbers(again) == numbers(whole)
    assert again["reason"] == "loss not finite at step 87; last finite loss 0.25"


def test_a_short_cell_writes_no_checkpoint(long, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "save", None)
    for every in (600.0, 0.0):
        (record,) = _run([long()], tmp_path / str(every), every=every)
        assert record["status"] == "finished"
        assert not (tmp_path / str(every) / "checkpoints").exists()


def test_checkpoints_come_every_so_many_seconds(monkeypatch, tmp_path):
    now = [100.0]
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: now[0])
    kept = Checkpoint(tmp_path / "c" / "a.pt", 60.0, {}, {"device_type": "cpu"})
    due = []
    for _ in range(20):
        now[0] += 10.0
        due.append(kept.due())
        if due[-1]:
            kept.save({})
    assert [i for i, yes in enumerate(due, 1) if yes] == [6, 12, 18]


def test_a_cell_that_fails_keeps_its_checkpoint_for_the_next_try(long, tmp_path, monkeypatch, numbers):
    chosen = long()

    def broken(*_):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr("studies.runner.measure._predict", broken)
        (failed,) = _run([chosen], tmp_path / "out")
    assert failed["reason"] == "RuntimeError: no memory"
    (again,) = _run([chosen], tmp_path / "out")
    assert again["status"] == "finished" and again["machine"]["continued"] == 1
    assert list((tmp_path / "out" / "checkpoints").iterdir()) == []


def test_a_checkpoint_left_beside_a_finished_record_is_cleared(long, killed, tmp_path):
    chosen = long()
    (record,) = _run([chosen], tmp_path / "whole")
    out = tmp_path / "out"
    killed(1, lambda: _run([chosen], out))
    waiting = examine([chosen], Store(out), None, reuse_stale=False, keep_states=False)  # the record comes after this
    Store(out).write({k: v for k, v in record.items() if k not in ("states", "checksum")}, None)

    class Silent:
        started = finished = warning = staticmethod(lambda *_: None)

    options = {"data_dir": None, "backend": "serial", "workers": 1, "keep_states": False, "reporter": Silent()}
    execute(waiting, Store(out), **options)
    assert list((out / "checkpoints").iterdir()) == []


@pytest.fixture
def kept(long, killed, tmp_path):
    """(cell, path): a cell, and the checkpoint it left when it was killed."""
    chosen, path = long("ste"), tmp_path / "kept.pt"
    killed(3, lambda: measure(chosen, None, _checkpoint(chosen, path)))
    return chosen, path


def _refusal(chosen, path, **sources):
    """The message of a refused checkpoint; the file must be what it was."""
    before = path.read_bytes()
    body, state = measure(chosen, None, _checkpoint(chosen, path, **sources))
    assert body["status"] == "failed" and state == {} and body["curve"] == []
    assert path.read_bytes() == before
    assert str(path) in body["reason"] and "\n" not in body["reason"]
    assert body["reason"].endswith("or take the file away to start the cell anew")
    return body["reason"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hyperparameters": {"lr": 0.5}}, "hyperparameters.lr 0.003 -> 0.5"),
        ({"network": {"widths": [8]}}, "network.widths [16] -> [8]"),
        ({"batch": 8}, "batch 4 -> 8"),
        ({"budget": {"epochs": 9}}, "budget.epochs 2 -> 9"),
        ({"seed": 7}, "seed 0 -> 7"),
        ({"schedule": "linear", "seed": 7}, "seed 0 -> 7 (and 1 more)"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_with_the_first_that_differs(kept, change, told):
    chosen, path = kept
    config = chosen.config()
    if "hyperparameters" in change:
        told = told.replace("0.003", str(config["hyperparameters"]["lr"]))
    merged = {k: {**config[k], **v} if isinstance(v, dict) else v for k, v in change.items()}
    reason = _refusal(dataclasses.replace(chosen, **merged), path)
    assert f"is of another cell: {told}; continue it under what it was written with" in reason


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"torch_version": "2.99"}, "torch 2.13.0 -> 2.99"),
        ({"core_source": "0" * 64}, "core/ changed"),
        ({"device_type": "cuda"}, "was written on cpu, this cell runs on cuda; continue it with --device cpu"),
    ],
)
def test_a_checkpoint_of_other_sources_or_device_is_refused(kept, source, told):
    assert told in _refusal(*kept, **source)


def test_a_checkpoint_of_another_schema_is_refused(kept, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "SCHEMA", 2)
    assert "has schema 1, this version reads 2; continue it with the version that wrote it" in _refusal(*kept)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_refused(kept, damage):
    chosen, path = kept
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-1], "flipped": content, "empty": b""}[damage])
    assert "is no whole checkpoint: its checksum differs. Checkpoints lie in OUT/checkpoints" in _refusal(chosen, path)
    with pytest.raises(CheckpointRefused):
        _checkpoint(chosen, path).load()


def test_a_file_that_would_run_code_is_refused_and_does_not(kept, tmp_path):
    chosen, path = kept

    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    packed = io.BytesIO()
    torch.save({"schema": 1, "run": Bomb()}, packed)
    path.write_bytes(hashlib.sha256(packed.getvalue()).digest() + packed.getvalue())
    assert "cannot be read by torch" in _refusal(chosen, path)
    assert not (tmp_path / "ran").exists()


def test_no_file_is_no_checkpoint(long, tmp_path):
    assert _checkpoint(long(), tmp_path / "absent.pt").load() is None


def test_what_is_loaded_is_what_was_saved(long, tmp_path):
    one = _checkpoint(long(), tmp_path / "c" / "a.pt")
    one.save({"curve": [{"epoch": 1, "loss": 0.1}], "tensor": torch.arange(3), "deep": {"list": [1, None, "a"]}})
    back = one.load()
    assert torch.equal(back.pop("tensor"), torch.arange(3))
    assert back["curve"] == [{"epoch": 1, "loss": 0.1}] and back["deep"] == {"list": [1, None, "a"]}
    assert back["config"] == long().config() and back["schema"] == 1
    one.remove()
    one.remove()
    assert one.load() is None


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(long, killed, numbers, tmp_path, monkeypatch):
    chosen, out = long(), tmp_path / "out"
    killed(1, lambda: _run([chosen], out))
    (path,) = (out / "checkpoints").iterdir()
    before, time_before = path.read_bytes(), time.time()

    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("studies.runner.records.os.replace", full)
        with pytest.raises(StorageError, match="No space left on device\nmake room"):
            _run([chosen], out)
    assert path.read_bytes() == before and path.stat().st_mtime <= time_before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    (again,) = _run([chosen], out)
    (whole,) = _run([chosen], tmp_path / "whole", every=0.0)
    assert numbers(again) == numbers(whole)


def test_how_often_is_no_part_of_a_cell():
    def planned(*words):
        return resolve(request(_parse([*words]), methods=("ste",), problems=("digits",)))

    assert planned().checkpoint_every == 600.0
    for word, seconds in (("0", 0.0), ("2.5", 2.5), ("1e3", 1000.0)):
        plan = planned("--checkpoint-every", word)
        assert plan.checkpoint_every == seconds and plan.cells == planned().cells


@pytest.mark.parametrize("word", ["-1", "nan", "inf", "soon", ""])
def test_an_impossible_interval_is_refused(word):
    with pytest.raises(ConfigErrors, match=r"--checkpoint-every must be a number of seconds, 0 for never \(got "):
        resolve(request(_parse([f"--checkpoint-every={word}"]), methods=("ste",), problems=("digits",)))


@pytest.fixture
def command(tmp_path, monkeypatch):
    """command(*words) -> exit code of the study of one cell of 85 steps an epoch, out of tmp_path/out; no figures."""
    monkeypatch.setattr("studies.analysis.output.figures.draw", lambda *frames, **title: [])
    words = ["--problems", "breast-cancer", "--methods", "ste", "--seeds", "1", "--epochs", "2", "--backend", "serial"]
    words += ["--set", "network.widths=16", "--set", "problem.batch=4", "--out", str(tmp_path / "out")]
    threads = torch.get_num_threads()
    yield lambda *more: main([*words, *more])
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def elsewhere(command, killed, tmp_path):
    """The checkpoint of a killed run of the command, moved out of its folder."""
    killed(5, lambda: command("--checkpoint-every", "1e-9", "--debug"))
    (path,) = (tmp_path / "out" / "checkpoints").iterdir()
    return path.rename(tmp_path / "elsewhere.pt")


def test_the_command_continues_from_a_named_file(command, elsewhere, numbers, tmp_path, capsys):
    assert command("--resume", str(elsewhere)) == 0
    assert f"breast-cancer / ste / seed 0 continues from {elsewhere}\n" in capsys.readouterr().out
    (record,) = Store(tmp_path / "out").read_all()
    assert record["machine"]["continued"] == 1
    assert command("--out", str(tmp_path / "whole")) == 0
    (whole,) = Store(tmp_path / "whole").read_all()
    assert numbers(record) == numbers(whole)
    assert elsewhere.exists() and list((tmp_path / "out" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "ste.lr=0.5"], " -> 0.5; continue it under what it was written with"),
        (["--set", "network.widths=8"], "is of another cell: network.widths [16] -> [8]; continue"),
        (["--epochs", "3"], "is of another cell: budget.epochs 2 -> 3; continue"),
        (
            ["--seeds", "1,"],
            "is of breast-cancer / ste / seed 0, which is not asked for; ask for it with --seeds 0, "
            "--problems breast-cancer --methods ste",
        ),
        (["--resume", "no-such-file.pt"], "no-such-file.pt cannot be read: No such file or directory"),
    ],
)
def test_a_named_file_of_another_cell_is_refused_before_anything_runs(
    command, elsewhere, tmp_path, capsys, words, told
):
    before = elsewhere.read_bytes()
    assert command("--resume", str(elsewhere), *words) == 2
    said = capsys.readouterr().err
    assert said.startswith("--resume: checkpoint ") and told in said and said.count("\n") == 1
    assert elsewhere.read_bytes() == before
    assert Store(tmp_path / "out").read_all() == [] and list((tmp_path / "out" / "checkpoints").iterdir()) == []


def test_a_named_file_replaces_neither_a_record_nor_another_checkpoint(command, elsewhere, killed, tmp_path, capsys):
    out = tmp_path / "out"
    killed(1, lambda: command("--checkpoint-every", "1e-9", "--debug"))
    (own,) = (out / "checkpoints").iterdir()
    before = own.read_bytes()
    assert command("--resume", str(elsewhere)) == 2
    assert f"its cell has another one, {own}; take one of them away" in capsys.readouterr().err
    assert own.read_bytes() == before
    assert command() == 0
    capsys.readouterr()
    assert command("--resume", str(elsewhere)) == 2
    (record,) = (out / "records").iterdir()
    assert f"its cell has its record; delete {record} to run it again" in capsys.readouterr().err
