"""The template command: what it writes works as it is, and it never overwrites."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import methods
from methods.conformance import CHECKS
from studies import new_method

NAME, STEM = "my-method", "my_method"
TRAINED = "their-method-with-as-long-a-name-as-goes"  # written once, imported and registered for this file
TRAINED_STEM = TRAINED.replace("-", "_")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    assert new_method.main([TRAINED, "--folder", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def imported(written: Path) -> Iterator[None]:
    spec = importlib.util.spec_from_file_location(TRAINED_STEM, written / f"{TRAINED_STEM}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield
    del methods._FACTORIES[TRAINED]


@pytest.mark.parametrize("law", CHECKS)
def test_written_method_passes_the_kit(imported, law) -> None:
    law(TRAINED)


def test_written_method_checks_its_values(imported) -> None:
    with pytest.raises(ValueError, match=r"cold must be in \(0, warm = 1.0\] \(got 2.0\)"):
        methods.make(TRAINED, cold=2.0)


def test_name_of_the_written_method_is_the_longest_there_is() -> None:
    assert len(TRAINED) == methods.LONGEST_NAME  # the layout of the template must not depend on the name


def test_written_method_is_a_short_file(written) -> None:
    assert len((written / f"{TRAINED_STEM}.py").read_text().splitlines()) < 60


def test_written_test_runs_every_check_on_the_method(written) -> None:
    test = (written / f"test_{TRAINED_STEM}.py").read_text()
    assert '@pytest.mark.parametrize("law", CHECKS)' in test
    assert f'law("{TRAINED}")' in test


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed (the dev extra has it)")
@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_written_files_pass_ruff_as_they_are(written, command) -> None:
    settings = ["--config", str(Path(__file__).parents[2] / "pyproject.toml"), "--no-cache"]
    # the project's import rules: core, methods and solvers are first-party names
    known = ["--config", "lint.isort.known-first-party=['core', 'methods', 'solvers']"] if command == ["check"] else []
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, *settings, *known, str(written)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_default_places_are_the_two_folders_of_the_checkout(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(new_method, "ROOT", tmp_path)
    method, test = new_method.write(NAME, None)
    assert method == tmp_path / "methods" / f"{STEM}.py"
    assert test == tmp_path / "tests" / "methods" / f"test_{STEM}.py"
    assert method.read_text() == new_method.METHOD.replace("NAME", NAME).replace("FUNCTION", STEM)
    assert test.exists()


def test_three_lines_say_what_to_do_next(tmp_path, capsys) -> None:
    assert new_method.main([NAME, "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert f'[project.entry-points."bitrelax.methods"] {NAME} = "{STEM}"' in lines[0]
    assert str(tmp_path / f"test_{STEM}.py") in lines[1]
    assert f"--methods ste,{NAME}" in lines[2]


@pytest.mark.parametrize("existing", [f"{STEM}.py", f"test_{STEM}.py"])
def test_existing_files_are_never_overwritten(tmp_path, capsys, existing) -> None:
    (tmp_path / existing).write_text("mine\n")
    assert new_method.main([NAME, "--folder", str(tmp_path)]) == 2
    assert f"{tmp_path / existing} exists already; nothing was written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine\n"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ste", "method 'ste' exists already"),
        ("network", "method name 'network' cannot be had (reserved: network, problem, compare, conformance)"),
        ("My_Method", "method name 'My_Method' must be lower-case words joined by '-'"),
        ("../evil", "must be lower-case words joined by '-'"),
        ("m" * 41, "at most 40 letters"),
        ("lambda", "method name 'lambda' is a Python keyword"),
    ],
)
def test_names_that_cannot_serve_are_refused_with_exit_code_2(tmp_path, capsys, name, says) -> None:
    assert new_method.main([name, "--folder", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("new_method: ") and says in error
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_one_message(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert new_method.main([NAME, "--folder", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("new_method: ") and str(tmp_path / "file") in error
