"""The registry over the methods of this checkout; plugins from other packages have a file of their own."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

import methods
from core.interface import Method

FOLDER = Path(methods.__file__).parent
KIT = {"__init__", "conformance"}


@pytest.fixture(autouse=True)
def unregister() -> Iterator[None]:
    """Takes back what a test registered."""
    yield
    for name, factory in list(methods._FACTORIES.items()):
        if factory.__module__ == __name__:
            del methods._FACTORIES[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second folder of method files, which the registry reads in place of ours."""
    monkeypatch.setattr(methods, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    return tmp_path


def nothing(*, lr: float = 1.0) -> Method:
    raise NotImplementedError


def test_every_file_with_a_factory_is_listed_and_no_other() -> None:
    assert set(methods.names()) == {f.stem.replace("_", "-") for f in FOLDER.glob("*.py") if f.stem not in KIT}


def test_entries_of_the_default_study_come_first_and_the_rest_sorted() -> None:
    for name in ("zebra", "aardvark"):
        methods.register(name)(nothing)
    first = methods.LISTED_FIRST
    assert methods.names()[: len(first)] == first
    rest = methods.names()[len(first) :]
    assert list(rest) == sorted(rest) and {"zebra", "aardvark"} <= set(rest)


def test_listing_imports_neither_torch_nor_a_method() -> None:
    code = (
        "import sys, methods; assert 'ste' in methods.names(); "
        "print([m for m in sys.modules if m == 'torch' or m.startswith(('methods.', 'core'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", methods.LISTED_FIRST)
def test_factory_is_found_in_the_file_of_its_name_and_makes_a_method(name: str) -> None:
    assert methods.load(name).__module__ == f"methods.{name.replace('-', '_')}"
    assert {f.name for f in fields(methods.make(name))} == {f.name for f in fields(Method)}


@pytest.mark.parametrize("name", methods.LISTED_FIRST)
def test_signature_is_the_schema_of_the_hyperparameters(name: str) -> None:
    schema = methods.signature(name)
    assert methods.make(name, **{key: p.default for key, p in schema.items()})
    for p in schema.values():
        assert (
            p.default in get_args(p.annotation)
            if get_origin(p.annotation) is Literal
            else type(p.default) is p.annotation
        )


def test_signature_reads_annotations_written_as_strings() -> None:
    def factory(*, lr: "float" = 1.0) -> "Method":
        raise NotImplementedError

    methods.register("stringly")(factory)
    assert methods.signature("stringly")["lr"].annotation is float


def test_annotation_that_cannot_be_read_is_named() -> None:
    def factory(*, lr: "Elsewhere" = 1.0) -> Method:
        raise NotImplementedError

    methods.register("unreadable")(factory)
    with pytest.raises(methods.MethodError, match="method 'unreadable': an annotation .* 'Elsewhere' is not defined"):
        methods.signature("unreadable")


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("bayesbin", "bayesbinn"), ("full_precision", "full-precision"), ("STE", None), ("adam", None), ("", None)],
)
def test_unknown_method_gets_the_nearest_name_and_the_list(asked: str, meant: str | None) -> None:
    with pytest.raises(methods.UnknownMethod) as caught:
        methods.make(asked)
    guess = f" Did you mean {meant!r}?" if meant else ""
    assert str(caught.value) == f"unknown method {asked!r}.{guess} Available: {', '.join(methods.names())}"


@pytest.mark.parametrize("name", methods.RESERVED)
def test_reserved_name_is_no_method_and_cannot_become_one(name: str) -> None:
    with pytest.raises(methods.UnknownMethod, match=f"unknown method '{name}'"):
        methods.load(name)
    with pytest.raises(methods.MethodError, match=f"method name '{name}' cannot be had"):
        methods.register(name)(nothing)


def test_unknown_hyperparameter_gets_the_nearest_keyword_and_the_list() -> None:
    with pytest.raises(TypeError) as caught:
        methods.make("ste", slope_windw=1.0)
    assert isinstance(caught.value, methods.UnknownHyperparameter)
    assert str(caught.value) == (
        "ste has no hyperparameter 'slope_windw'. Did you mean 'slope_window'? Allowed: lr, clip, init, slope_window"
    )


@pytest.mark.parametrize("name", ["Mine", "my_method", "1st", "mine-", "-mine", "my--method", "my method", "m" * 41])
def test_bad_name_is_refused_at_registration(name: str) -> None:
    with pytest.raises(methods.MethodError, match="must be lower-case words joined by '-'"):
        methods.register(name)(nothing)


def _positional(lr: float = 1.0) -> Method:
    raise NotImplementedError


def _required(*, lr: float) -> Method:
    raise NotImplementedError


def _open_ended(**lr: float) -> Method:
    raise NotImplementedError


@pytest.mark.parametrize("factory", [_positional, _required, _open_ended])
def test_factory_whose_signature_is_no_schema_is_refused(factory) -> None:
    with pytest.raises(methods.MethodError, match="'mine': parameter 'lr' .* keyword-only with a default"):
        methods.register("mine")(factory)


def test_second_module_cannot_take_a_name() -> None:
    def other(*, lr: float = 1.0) -> Method:
        raise NotImplementedError

    other.__module__ = "elsewhere"
    methods.register("mine")(nothing)
    with pytest.raises(methods.DuplicateMethod, match=f"'mine' is defined in {__name__} and again in elsewhere"):
        methods.register("mine")(other)
    assert methods.load("mine") is nothing


def test_built_in_name_cannot_be_taken_even_before_the_built_in_is_loaded() -> None:
    with pytest.raises(methods.DuplicateMethod, match=rf"'ste' is built in \(methods.ste\); {__name__} needs another"):
        methods.register("ste")(nothing)
    assert methods.load("ste").__module__ == "methods.ste"


def test_reloading_a_module_registers_it_again() -> None:
    module = importlib.import_module("methods.ste")
    importlib.reload(module)
    assert methods.load("ste") is module.ste


def test_origin_of_a_built_in_is_its_file_and_declared_version(monkeypatch) -> None:
    assert methods.origin("ste") == methods.Origin("methods.ste", "1", FOLDER / "ste.py", None)
    monkeypatch.setattr(sys.modules["methods.ste"], "VERSION", 2, raising=False)
    assert methods.origin("ste").version == "2"


def test_new_file_is_all_a_new_method_needs(folder) -> None:
    source = (FOLDER / "ste.py").read_text()
    (folder / "my_copy.py").write_text(source.replace('@register("ste")', '@register("my-copy")'))
    (folder / "notes.py").write_text("print('not a method: never imported')\nraise SystemExit\n")
    assert "my-copy" in methods.names() and "notes" not in methods.names()
    assert methods.make("my-copy", lr=0.5)
    assert methods.origin("my-copy").source_path == folder / "my_copy.py"
    del methods._FACTORIES["my-copy"], sys.modules["methods.my_copy"]


def test_file_that_fails_to_load_is_named_and_stops_no_other(folder) -> None:
    (folder / "half_done.py").write_text('from methods import register\n@register("half-done")\ndef f(:\n')
    (folder / "ste.py").write_text((FOLDER / "ste.py").read_text())
    assert "half-done" in methods.names()
    with pytest.raises(methods.BrokenMethod, match="methods/half_done.py failed to load: SyntaxError: .*line 3"):
        methods.load("half-done")
    assert methods.make("ste")


def test_file_that_registers_another_name_is_told(folder) -> None:
    text = 'from methods import register\n\n\n@register("other")\ndef f():\n    pass\n'
    (folder / "one.py").write_text(text)
    with pytest.raises(methods.BrokenMethod, match="methods/one.py registers no method 'one': found 'other' there"):
        methods.load("one")
    del methods._FACTORIES["other"], sys.modules["methods.one"]


def test_without_plugins_none_is_broken() -> None:
    assert methods.broken_plugins() == []
