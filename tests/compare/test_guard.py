"""The start-up guard: a foreign package of our name is told of by its folder, before anything is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from studies.guard import check_imports

ROOT = Path(__file__).parents[2]


def _compare_from(folder, *flags):
    command = [sys.executable, *flags, "-m", "studies.compare", "--dry-run", "--seeds", "1", "--out", "out"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_own_packages_pass_the_guard():
    assert check_imports() is None


@pytest.mark.parametrize("name", ["core", "solvers", "methods"])
def test_foreign_package_in_the_working_folder_is_named_with_exit_code_2(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise SystemExit('the foreign package was imported')\n")
    done = _compare_from(tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"another package named '{name}' at {tmp_path / name} is in the way of bitrelax's at {ROOT / name}; "
        "run from another folder or use python -P\n"
    )


def test_folder_without_init_shadows_too_and_is_named(tmp_path):
    (tmp_path / "core").mkdir()
    done = _compare_from(tmp_path)
    assert done.returncode == 2
    assert f"another package named 'core' at {tmp_path / 'core'} is in the way" in done.stderr


def test_single_file_module_shadows_too_and_is_named(tmp_path):
    (tmp_path / "methods.py").write_text("raise SystemExit('the foreign module was imported')\n")
    done = _compare_from(tmp_path)
    assert done.returncode == 2
    assert f"another package named 'methods' at {tmp_path / 'methods.py'} is in the way" in done.stderr


@pytest.mark.parametrize("command", ["tune", "plot", "new_method"])
def test_every_command_names_a_foreign_package(tmp_path, command):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "__init__.py").write_text("raise SystemExit('the foreign package was imported')\n")
    words = [sys.executable, "-m", f"studies.{command}", "x"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"another package named 'methods' at {tmp_path / 'methods'} is in the way")


def test_importing_studies_beside_a_foreign_package_is_an_import_error(tmp_path):
    (tmp_path / "core.py").write_text("")
    words = [sys.executable, "-c", "import studies"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "ForeignPackage: another package named 'core'" in done.stderr


def test_advice_to_use_safe_path_works(tmp_path):
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("")
    done = _compare_from(tmp_path, "-P")
    assert done.returncode == 0, done.stderr
    assert "16 missing" in done.stdout
