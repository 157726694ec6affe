"""Methods from other packages: three small distributions, built and installed by pip into an environment of their own.

One has a good method, one breaks in every way there is, one wants a name the second wants too.
"""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import methods
from studies.new_method import METHOD

GOOD = METHOD.replace("NAME", "theirs").replace("FUNCTION", "theirs")

SCRIPT = """
import json, torch
torch.set_num_threads(1)
import methods
from methods.conformance import check

def message(action):
    try:
        action()
    except methods.MethodError as error:
        return [type(error).__name__, str(error)]

asked = ["bad", "quits", "misnamed", "missing", "twice", "network", "ste", "theirs", "elsewhere"]
before = methods.names()
origin = methods.origin("theirs")
print(json.dumps({
    "names": before,
    "errors": {name: message(lambda: methods.load(name)) for name in asked},
    "again": message(lambda: methods.load("missing")),
    "broken": [str(error) for error in methods.broken_plugins()],
    "ste": methods.load("ste").__module__,
    "origin": [origin.module, origin.version, origin.source_path.name, origin.distribution],
    "findings": {f.check: f.status for f in check("theirs", lr=0.02)},
}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the registry and the kit say in an environment where the three distributions are installed."""
    folder = tmp_path_factory.mktemp("plugins")
    good = _package(folder, "bnn-theirs", "0.3", {"theirs": "bnn_theirs"}, {"bnn_theirs": GOOD})
    bad_entries = {
        "bad": "bnn_bad",
        "quits": "bnn_quits",
        "misnamed": "bnn_misnamed",
        "missing": "bnn_misnamed:no_such_factory",
        "twice": "bnn_misnamed",
        "network": "bnn_misnamed",
        "ste": "bnn_shadow",
    }
    bad_modules = {
        "bnn_bad": "import not_there\n",
        "bnn_quits": "raise SystemExit(1)\n",
        "bnn_misnamed": GOOD.replace('"theirs"', '"elsewhere"'),
        "bnn_shadow": GOOD.replace('"theirs"', '"ste"'),
    }
    bad = _package(folder, "bnn-bad", "0.1", bad_entries, bad_modules)
    other = _package(folder, "bnn-other", "2.0", {"twice": "bnn_other:twice"}, {"bnn_other": GOOD})
    python = _environment(folder / "venv")
    install = ["install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    _run(sys.executable, "-m", "pip", "--python", str(python), *install, str(good), str(bad), str(other))
    # away from the checkout, as a user of an installed package would be
    return json.loads(_run(str(python), "-c", SCRIPT, cwd=folder))


def test_plugin_passes_the_kit_where_it_is_installed(seen) -> None:
    assert set(seen["findings"].values()) <= {"passed", "skipped"}
    assert [check for check, status in seen["findings"].items() if status == "skipped"] in ([], ["runs_on_cuda"])


def test_good_plugins_are_listed_and_refused_ones_are_not(seen) -> None:
    theirs = ["bad", "misnamed", "missing", "quits", "theirs"]
    built_in = set(methods.names()).difference(methods.LISTED_FIRST)
    assert seen["names"] == [*methods.LISTED_FIRST, *sorted([*theirs, *built_in])]


def test_origin_of_a_plugin_is_its_distribution(seen) -> None:
    assert seen["origin"] == ["bnn_theirs", "0.3", "bnn_theirs.py", "bnn-theirs"]


def test_broken_plugin_is_named_with_distribution_version_and_error(seen) -> None:
    assert seen["errors"]["bad"] == [
        "BrokenPlugin",
        "plugin 'bad' from bnn-bad 0.1 failed to load: ModuleNotFoundError: No module named 'not_there'",
    ]


def test_plugin_that_exits_on_import_does_not_end_the_program(seen) -> None:
    assert seen["errors"]["quits"] == [
        "BrokenPlugin",
        "plugin 'quits' from bnn-bad 0.1 failed to load: SystemExit: 1",
    ]


def test_plugin_that_registers_another_name_is_told_which(seen) -> None:
    kind, text = seen["errors"]["misnamed"]
    assert kind == "BrokenPlugin"
    assert text.startswith("plugin 'misnamed' from bnn-bad 0.1 registers no method 'misnamed': found 'elsewhere' there")


def test_plugin_without_the_factory_it_names_is_told_every_time(seen) -> None:
    kind, text = seen["errors"]["missing"]
    assert kind == "BrokenPlugin"
    assert text.startswith("plugin 'missing' from bnn-bad 0.1 failed to load: AttributeError: ")
    assert seen["again"] == [kind, text]


def test_name_two_distributions_want_is_refused_naming_both(seen) -> None:
    kind, text = seen["errors"]["twice"]
    assert kind == "DuplicateMethod"
    assert "'twice' is offered by" in text and "uninstall one of them" in text
    assert "bnn-bad 0.1 (bnn_misnamed)" in text and "bnn-other 2.0 (bnn_other:twice)" in text


def test_plugin_that_shadows_a_built_in_is_refused_by_name_and_the_built_in_stays(seen) -> None:
    assert seen["errors"]["ste"] is None and seen["ste"] == "methods.ste"
    assert (
        "plugin 'ste' from bnn-bad 0.1 is refused: 'ste' is built in (methods.ste); it needs another name"
        in (seen["broken"])
    )


def test_plugin_with_a_reserved_name_is_refused(seen) -> None:
    assert seen["errors"]["network"] == [
        "BrokenPlugin",
        "plugin 'network' from bnn-bad 0.1 is refused: the name 'network' is reserved; it needs another name",
    ]


def test_all_that_is_wrong_with_plugins_is_listed_and_the_good_one_is_not(seen) -> None:
    named = [text.split("'")[1] for text in seen["broken"]]
    assert named == ["bad", "misnamed", "missing", "network", "quits", "ste", "twice"]


def _package(folder: Path, name: str, version: str, entries: dict[str, str], modules: dict[str, str]) -> Path:
    """The source of a distribution of top-level modules with entry points of our group."""
    root = folder / name
    root.mkdir()
    listed = "\n".join(f'{key} = "{value}"' for key, value in entries.items())
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n'
        f'[project.entry-points."{methods.GROUP}"]\n{listed}\n'
        f"[tool.setuptools]\npy-modules = {json.dumps(list(modules))}\n"
    )
    for module, source in modules.items():
        (root / f"{module}.py").write_text(source)
    return root


def _environment(folder: Path) -> Path:
    """The interpreter of a new environment that sees what is installed in the running one.

    --system-site-packages alone would show the base interpreter's packages, not those of the environment we run in.
    addsitedir, not a line with the path: so that .pth files there run, the one of an editable install included.
    """
    _run(sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", str(folder))
    running = sysconfig.get_paths()["purelib"]
    own = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(own) / "running.pth").write_text(f"import site; site.addsitedir({running!r})\n")
    return folder / "bin" / "python"


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
