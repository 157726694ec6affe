"""The command from end to end, in this process: exit codes, what it writes, one clear message for each bad input."""

import json

import pytest
import torch

import methods
from studies.compare import main

QUICK = ["--problems", "breast-cancer", "--methods", "ste,bop", "--seeds", "2", "--epochs", "1", "--backend", "serial"]


@pytest.fixture(autouse=True)
def _same_process_afterwards():
    """A cell leaves its process with one thread and without denormals; other tests need theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def out(tmp_path, monkeypatch):
    """An output folder without figures, which take seconds: one test draws them."""
    monkeypatch.setattr("studies.analysis.output.figures.draw", lambda *frames, **title: [])
    return tmp_path / "out"


def _records(out):
    return sorted((out / "records").glob("*.json"))


def test_small_study_writes_its_files_and_a_rerun_runs_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*QUICK, "--out", str(out)]) == 0
    first = capsys.readouterr()
    assert first.out.startswith(
        f"compare: 1 problem x 2 methods x 2 seeds = 4 cells; in this process; {out}\n1/4 breast-cancer / ste / seed 0"
    )
    assert first.out.endswith("the same command runs only what is missing\n")
    assert first.err == ""
    assert len(_records(out)) == 4 and len(list((out / "states").iterdir())) == 4
    for name in ("table.csv", "rows.parquet", "curves.parquet", "manifest.json"):
        assert (out / name).is_file() and name in first.out
    assert "figures/" in first.out and list((out / "figures").glob("*.png")) and list((out / "figures").glob("*.pdf"))
    table = (out / "table.csv").read_bytes()
    assert main([*QUICK, "--out", str(out)]) == 0
    assert "4 cached, 0 to run" in capsys.readouterr().out
    assert (out / "table.csv").read_bytes() == table


def test_rerun_runs_only_what_is_new(out, capsys):
    main([*QUICK, "--out", str(out), "--seeds", "1", "--no-states"])
    before = {path.name: path.stat().st_mtime_ns for path in _records(out)}
    assert not list((out / "states").iterdir())
    capsys.readouterr()
    assert main([*QUICK, "--out", str(out), "--no-states"]) == 0
    said = capsys.readouterr().out
    assert "2 cached, 2 to run" in said and "3/4 breast-cancer / ste / seed 1" in said and "1/4" not in said
    assert {p.name: p.stat().st_mtime_ns for p in _records(out)}.items() >= before.items()


def test_cells_without_their_states_run_again_when_states_are_wanted(out, capsys):
    main([*QUICK, "--out", str(out), "--seeds", "1", "--no-states"])
    assert main([*QUICK, "--out", str(out), "--seeds", "1", "--explain"]) == 0
    assert "seed 0  retry: it kept no state\n" in capsys.readouterr().out
    assert main([*QUICK, "--out", str(out), "--seeds", "1"]) == 0
    gone, altered = sorted((out / "states").iterdir())
    gone.unlink()
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")
    capsys.readouterr()
    assert main([*QUICK, "--out", str(out), "--seeds", "1", "--explain"]) == 0
    said = capsys.readouterr().out
    assert f"retry: states/{gone.name} is gone\n" in said and f"retry: states/{altered.name} is damaged\n" in said
    assert main([*QUICK, "--out", str(out), "--seeds", "1"]) == 0
    assert gone.exists()


def test_dry_run_and_explain_run_and_write_nothing(out, capsys):
    assert main([*QUICK, "--out", str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "breast-cancer / ste: 2 missing" in said and said.endswith("in all: 4 missing\n")
    assert main([*QUICK, "--out", str(out), "--explain"]) == 0
    assert "breast-cancer / bop / seed 1  missing: no record\n" in capsys.readouterr().out
    assert not out.exists()


def test_explain_says_what_changed(out, capsys):
    assert main([*QUICK, "--out", str(out)]) == 0
    capsys.readouterr()
    assert main([*QUICK, "--out", str(out), "--explain", "--set", "ste.lr=0.5"]) == 0
    said = capsys.readouterr().out
    assert "ste / seed 0  changed: " in said and "lr" in said and "0.5" in said
    assert "bop / seed 0  cached: finished\n" in said and said.endswith("in all: 2 cached, 2 changed\n")


def test_summary_prints_each_network_once_with_its_totals_and_runs_nothing(capsys, tmp_path):
    words = ["--summary", "--problems", "digits", "--methods", "full-precision,ste,bop", "--set", "network.name=lenet"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "digits: full-precision\n" in printed and "digits: ste, bop\n" in printed
    assert printed.count("total") == 2 and "% of MACs binary" in printed
    assert not (tmp_path / "out").exists()


def test_list_names_every_method_and_problem_with_defaults(capsys):
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    for name in methods.names():
        assert f"  {name}  " in said
        assert all(f"{key}={p.default}" in said for key, p in methods.signature(name).items())
    assert "digits" in said and "network=mlp (widths=128," in said and "batch=32, schedule=cosine, epochs=30;" in said


def test_configuration_error_is_exit_code_2_and_leaves_no_folder(out, capsys):
    assert main([*QUICK, "--out", str(out), "--set", "ste.rate=1", "--set", "bop.thresh=1"]) == 2
    said = capsys.readouterr()
    assert "ste.rate: unknown key" in said.err and "bop.thresh: unknown key" in said.err
    assert "Traceback" not in said.err
    assert not out.exists()


def test_debug_shows_the_traceback(out):
    with pytest.raises(Exception, match="ste.rate: unknown key"):
        main([*QUICK, "--out", str(out), "--set", "ste.rate=1", "--debug"])


def test_problem_without_data_is_unavailable_and_the_others_run(out, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("BITRELAX_DATA", raising=False)
    words = [
        *QUICK,
        "--seeds",
        "1",
        "--methods",
        "ste",
        "--problems",
        "mnist,breast-cancer",
        "--data-dir",
        str(tmp_path),
    ]
    assert main([*QUICK, *words, "--out", str(out)]) == 3
    said = capsys.readouterr()
    assert "warning: mnist: " in said.err and "train-images-idx3-ubyte" in said.err and "--require-all" in said.err
    assert "1 of 2 cells have no result:\n  mnist / ste / seed 0  unavailable: mnist: " in said.out
    table = (out / "table.csv").read_text()
    assert "breast-cancer" in table and "mnist" in table


def test_damaged_data_file_is_named_and_the_others_run(out, capsys, tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte").write_bytes(b"not what it should be")
    words = ["--problems", "mnist,breast-cancer", "--methods", "ste", "--seeds", "1", "--data-dir", str(tmp_path)]
    assert main([*QUICK, *words, "--out", str(out)]) == 3
    said = capsys.readouterr()
    assert f"warning: {folder / 'train-images-idx3-ubyte'}" in said.err
    assert "2/2 breast-cancer / ste / seed 0  accuracy" in said.out


def test_require_all_stops_before_anything_runs(out, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("BITRELAX_DATA", raising=False)
    words = [*QUICK, "--problems", "breast-cancer,mnist", "--data-dir", str(tmp_path), "--require-all"]
    assert main([*words, "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "train-images-idx3-ubyte" in said.err and str(tmp_path) in said.err
    assert not out.exists()


def test_diverged_cell_is_a_row_with_its_step_and_exit_code_3(out, capsys):
    words = ["--methods", "full-precision,ste", "--set", "full-precision.lr=1e38", "--seeds", "1"]
    assert main([*QUICK, *words, "--out", str(out)]) == 3
    said = capsys.readouterr().out
    assert "1/2 breast-cancer / full-precision / seed 0  diverged: loss not finite at step " in said
    assert "1 of 2 cells have no result:\n  breast-cancer / full-precision / seed 0  diverged: " in said
    assert main([*QUICK, *words, "--out", str(out)]) == 3  # cached, and still said
    assert "2 cached, 0 to run" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["truncated", "bit flipped"])
def test_damaged_record_is_set_aside_with_one_warning_and_run_again(out, capsys, damage):
    assert main([*QUICK, "--out", str(out)]) == 0
    victim = _records(out)[0]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content if damage == "bit flipped" else content[: len(content) // 2])
    capsys.readouterr()
    assert main([*QUICK, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err.count("warning: ") == 1 and victim.name in said.err.replace("\n", "")
    assert "3 cached, 1 to run" in said.out
    assert len(_records(out)) == 4 and len(list((out / "quarantine").iterdir())) == 1


def test_output_folder_that_cannot_be_is_exit_code_4(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([*QUICK, "--out", str(tmp_path / "file")]) == 4
    said = capsys.readouterr().err
    assert f"cannot write to the output folder {tmp_path / 'file'}" in said and "--out DIR" in said


def test_output_folder_without_space_is_exit_code_4_before_anything_runs(out, capsys, monkeypatch):
    full = type("Usage", (), {"total": 1, "used": 1, "free": 0})
    monkeypatch.setattr("studies.runner.records.shutil.disk_usage", lambda path: full)
    assert main([*QUICK, "--out", str(out)]) == 4
    said = capsys.readouterr().err
    assert "not enough space in the output folder" in said and "0.0 MB are free" in said
    assert not _records(out)


@pytest.fixture
def bad_plugin(tmp_path, monkeypatch):
    info = tmp_path / "site" / "bnn_bad-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bnn-bad\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[bitrelax.methods]\nbad = bnn_bad_module:bad\n")
    (tmp_path / "site" / "bnn_bad_module.py").write_text("import not_there\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return "plugin 'bad' from bnn-bad 0.1 failed to load: ModuleNotFoundError: No module named 'not_there'"


def test_broken_plugin_is_a_warning_and_an_error_only_by_name(out, capsys, bad_plugin):
    assert main([*QUICK, "--out", str(out), "--dry-run"]) == 0
    assert capsys.readouterr().err == f"warning: {bad_plugin}\n"
    assert main([*QUICK, "--out", str(out), "--methods", "ste,bad"]) == 2
    assert capsys.readouterr().err.endswith(f"{bad_plugin}\n")
    assert main(["--list"]) == 0
    assert bad_plugin in capsys.readouterr().err


def test_defect_is_one_line_and_debug_shows_it(out, capsys, monkeypatch):
    def defect(*arguments, **keywords):
        raise RuntimeError("the boards are bent")

    monkeypatch.setattr("studies.runner.session.execute", defect)
    assert main([*QUICK, "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith("RuntimeError: the boards are bent\n")
    with pytest.raises(RuntimeError, match="the boards are bent"):
        main([*QUICK, "--out", str(out), "--debug"])


def test_manifest_holds_the_command_as_typed(out):
    words = [*QUICK, "--seeds", "1", "--out", str(out)]
    assert main(words) == 0
    assert json.loads((out / "manifest.json").read_text())["command"] == " ".join(
        ["python", "-m", "studies.compare", *words]
    )
