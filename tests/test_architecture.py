"""What the folders promise: one direction of imports, no cycles, few late imports, short modules, all declared."""

import ast
import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("core", "solvers", "methods", "studies")  # each may import itself and those before it
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
TOP = {
    "core", "solvers", "methods", "studies", "tests", "results", "docs", ".ci", "pyproject.toml", "constraints.txt",
    "setup.py", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", ".gitignore", ".pre-commit-config.yaml",
}  # fmt: skip
OPTIONAL = {"PIL", "cupy", "cupy_backends"}  # packages of extras, importable late anywhere
UNPINNED = {"nvidia-cuda-nvrtc"}  # a build of torch for CUDA asks for a version of its own
# functions besides a command's `main` that import late, and why
LATE = {
    ("studies/__init__.py", "load"): "every command imports this package, and --help must not wait for pandas",
    (
        "core/deploy/backends.py",
        "_cupy",
    ): "what runs packed networks on a GPU is not waited for where none is asked for",
    ("solvers/sdp/conic.py", "reference"): "cvxpy takes a second to import, and no other function needs it",
}
LONGEST_MODULE = 300
LONGEST_METHOD_FILE = 60
KIT = {"__init__.py", "conformance.py"}  # the files of methods/ that are no method
COMMANDS = {
    "study": "python3.11 -m venv .venv && .venv/bin/pip install -c constraints.txt -e . "
    "&& .venv/bin/python -m studies.compare",
    "test": "python3.11 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[test]' "
    "&& .venv/bin/python -m pytest -q",
}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path): path for path in FILES}


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Modules an import names; `from package import module` names the module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0 and node.module, "relative imports hide the direction"
    submodules = [f"{node.module}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else node.module for name in submodules]


def imports(root: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    return (node for node in ast.walk(root) if isinstance(node, (ast.Import, ast.ImportFrom)))


def for_types_only(module: ast.Module) -> set[ast.AST]:
    """The imports under `if TYPE_CHECKING`, which never run."""
    guards = (n for n in module.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    return {node for guard in guards for node in imports(guard)}


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_imports_go_one_way(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = {*LAYERS[layer + 1 :], "tests", "results"}
    wrong = [name for node in imports(tree(path)) for name in imported(node) if name.split(".")[0] in above]
    assert not wrong, f"{ids(path)} imports {wrong}, from above it in {' <- '.join(LAYERS)}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {}
    for name, path in MODULES.items():
        module = tree(path)
        run = [node for node in imports(module) if node not in for_types_only(module)]
        graph[name] = {found for node in run for found in imported(node) if found in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_late_imports_are_optional_packages_or_in_a_command(path: Path) -> None:
    module, name = tree(path), ids(path)
    command = path.name == "__main__.py" or (path.parent == ROOT / "studies" and path.name != "__init__.py")
    for function in ast.walk(module):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if (command and function.name == "main" and function in module.body) or (name, function.name) in LATE:
            continue
        late = {found.split(".")[0] for node in imports(function) for found in imported(node)} - OPTIONAL
        assert not late, f"{name}: {function.name} imports {sorted(late)}; import them at the top of the module"


def test_every_exception_for_late_imports_is_still_used() -> None:
    for (name, function), _reason in LATE.items():
        found = [n for n in tree(ROOT / name).body if isinstance(n, ast.FunctionDef) and n.name == function]
        assert found and list(imports(found[0])), f"{name}: {function} has no late import; take it off the list"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_modules_are_short_and_say_what_they_are(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST_MODULE, f"{ids(path)} has {lines} lines; one idea a module"
    assert ast.get_docstring(tree(path)) or not path.read_text().strip(), f"{ids(path)} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_public_functions_and_classes_have_docstrings(path: Path) -> None:
    public = (n for n in tree(path).body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)))
    bare = [n.name for n in public if not n.name.startswith("_") and not ast.get_docstring(n)]
    assert not bare, f"{ids(path)}: {bare} have no docstring"


@pytest.mark.parametrize("path", [p for p in (ROOT / "methods").glob("*.py") if p.name not in KIT], ids=ids)
def test_method_is_one_short_file_that_registers_its_name(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_METHOD_FILE
    assert f'@register("{path.stem.replace("_", "-")}")' in path.read_text()


def test_nothing_else_lies_at_the_top() -> None:
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split() if not line.startswith("#")]
    seen = {p.name for p in ROOT.iterdir() if not any(fnmatch(p.name, pattern) for pattern in [*ignored, ".git"])}
    assert seen == TOP


def test_tests_are_no_package_and_nobody_imports_them() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
    for path in (ROOT / "tests").rglob("*.py"):
        found = {name.split(".")[0] for node in imports(tree(path)) for name in imported(node)}
        assert "tests" not in found, f"{ids(path)} imports tests"


def test_packages_are_listed_marked_and_typed() -> None:
    listed = project()["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(dotted(path) for path in FILES if path.name == "__init__.py")
    for layer in LAYERS:
        assert (ROOT / layer / "py.typed").exists()
        assert 'BELONGS_TO = "bitrelax"' in (ROOT / layer / "__init__.py").read_text()


def test_every_requirement_is_pinned_without_local_versions() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = dict(re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines)  # a "+cpu" would not match
    meta = project()["project"]
    asked = [*meta["dependencies"], *(r for extra in meta["optional-dependencies"].values() for r in extra)]
    asked_names = {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in asked} - {"bitrelax"}
    assert asked_names - UNPINNED <= {normal(name) for name in pins}
    assert pins["torch"] == "2.13.0"


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_gives_the_command_that_ci_runs(name: str) -> None:
    text = (ROOT / "README.md").read_text()
    found = re.findall(rf"<!-- command: {name} -->\n```\w*\n(.*?)\n```", text, re.S)
    assert found == [COMMANDS[name]]
    assert f"readme_command {name}" in (ROOT / ".ci" / "run").read_text()


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
