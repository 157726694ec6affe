"""What was asked for: the command line overrides the file, the file the defaults; errors are all told, with origin."""

from pathlib import Path

import pytest

from studies.compare import METHODS, PROBLEMS, _parse
from studies.runner.request import request

FORM = "write SECTION.KEY=VALUE, for example --set ste.lr=0.003 or --set network.name=lenet"


def _asked(*words):
    return request(_parse(words), methods=METHODS, problems=PROBLEMS)


def _file(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return str(path)


def test_no_arguments_ask_for_the_default_study():
    asked = _asked()
    assert asked.errors == []
    assert (asked.problems, asked.methods) == (("digits", "breast-cancer"), METHODS)
    assert (asked.seeds, asked.budget, asked.cells) == ((0, 1, 2, 3, 4, 5), None, 96)
    assert (asked.out, asked.data_dir, asked.backend, asked.device) == (
        Path("results/compare"),
        None,
        "processes",
        "cpu",
    )
    assert asked.workers >= 1


def test_seeds_are_a_count_or_a_list():
    assert _asked("--seeds", "3").seeds == (0, 1, 2)
    assert _asked("--seeds", "3,").seeds == (3,)
    assert _asked("--seeds", "0, 7,2").seeds == (0, 7, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds must be a count from 1 to 10000, or a list of seeds (got 0)"),
        (["--seeds", "x"], "--seeds must be a whole number of at least 0 (got x)"),
        (["--seeds=-1,2"], "--seeds must be a whole number of at least 0 (got -1,2)"),
        (["--seeds", "1,2,1"], "--seeds names 1 twice; each may stand once (got 1,2,1)"),
        (["--methods", "ste,bop,ste"], "--methods names ste twice; each may stand once (got ste,bop,ste)"),
        (["--methods", ","], "--methods must be names with commas between them, or a list of names in a file (got ,)"),
        (["--epochs", "0"], "--epochs must be a whole number of at least 1 (got 0)"),
        (["--steps", "1.5"], "--steps must be a whole number of at least 1 (got 1.5)"),
        (["--workers", "many"], "--workers must be a whole number of at least 1 (got many)"),
        (["--backend", "proceses"], "--backend must be processes or serial (got proceses)"),
        (["--device", "tpu"], "--device must be cpu or cuda (got tpu)"),
        (["--out", ""], "--out must be the name of a folder (got '')"),
        (["--set", "ste.lr"], f"--set ste.lr: {FORM}"),
        (["--set", "lr=3"], f"--set lr=3: {FORM}"),
        (
            ["--set", "compare.epochs=3"],
            "--set compare.epochs=3: 'epochs' is an option of the command; write --epochs 3",
        ),
    ],
)
def test_unreadable_option_is_told_as_it_was_typed(words, message):
    assert _asked(*words).errors == [message]


def test_file_makes_the_same_grid_as_the_command_line(tmp_path):
    text = """
    [compare]
    methods = ["ste", "bop"]
    problems = ["moons"]
    seeds = [3, 4]
    steps = 20
    out = "here"
    data-dir = "there"
    backend = "serial"
    workers = 3
    device = "cpu"
    """
    typed = "--methods ste,bop --problems moons --seeds 3,4 --steps 20 --out here --data-dir there --backend serial"
    assert _asked("--config", _file(tmp_path, text)) == _asked(*typed.split(), "--workers", "3", "--device", "cpu")


def test_command_line_overrides_the_file_and_both_remember_their_origin(tmp_path):
    path = _file(tmp_path, "[compare]\nseeds = 2\nepochs = 5\n[ste]\nlr = 0.1\nclip = 2\n")
    asked = _asked("--config", path, "--steps", "7", "--set", "ste.lr=0.2")
    assert (asked.seeds, asked.budget) == ((0, 1), {"steps": 7})
    assert [(s.path, s.value, s.origin) for s in asked.settings] == [
        ("ste.lr", 0.1, "study.toml"),
        ("ste.clip", 2, "study.toml"),
        ("ste.lr", "0.2", "--set"),
    ]


def test_all_errors_of_a_file_are_told_with_key_path_nearest_key_and_allowed_keys(tmp_path):
    path = _file(tmp_path, 'seeds = 6\n[compare]\nmethod = ["ste"]\nepochs = 0\nworkers = "two"\nbackend = 3\n')
    top, unknown, *impossible = _asked("--config", path).errors
    assert top == f"seeds (in {path}) stands outside a section; put it under [compare]"
    assert unknown == (
        "compare.method: unknown key, from study.toml. Did you mean 'methods'? "
        "Allowed: methods, problems, seeds, epochs, steps, out, data-dir, backend, workers, device, checkpoint-every"
    )
    assert impossible == [
        "compare.epochs must be a whole number of at least 1 (got 0, from study.toml)",
        "compare.workers must be a whole number of at least 1 (got two, from study.toml)",
        "compare.backend must be processes or serial (got 3, from study.toml)",
    ]


def test_epochs_and_steps_in_one_file_exclude_each_other(tmp_path):
    path = _file(tmp_path, "[compare]\nepochs = 1\nsteps = 1\n")
    assert _asked("--config", path).errors == ["compare.epochs and compare.steps exclude each other; give one"]


def test_file_that_is_absent_or_no_toml_is_named(tmp_path):
    absent = tmp_path / "absent.toml"
    assert _asked("--config", str(absent)).errors == [f"--config {absent}: No such file or directory"]
    (error,) = _asked("--config", _file(tmp_path, "[compare\n")).errors
    assert error.startswith(f"{tmp_path / 'study.toml'}: not a TOML file: ") and "line 1" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epoch", "3"], "unknown argument '--epoch'. Did you mean --epochs?"),
        (["--method=ste"], "unknown argument '--method=ste'. Did you mean --methods?"),
        (["digits"], "unknown argument 'digits'."),
        (["--epochs", "1", "--steps", "1"], "argument --steps: not allowed with argument --epochs"),
    ],
)
def test_unknown_option_has_the_nearest_one_and_exit_code_2(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        _parse(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
