"""The registry: method name -> factory. A factory's keyword-only signature is its configuration schema.

Built-ins are the files beside this one that register a factory (file name = method name, `_` for `-`); other packages
add theirs through the entry-point group `bitrelax.methods`. Listing imports none of them, nor torch.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from core.interface import Method

BELONGS_TO = "bitrelax"
GROUP = "bitrelax.methods"
LISTED_FIRST = (
    *("full-precision", "ste", "bop", "bayesbinn", "bayesbinn-published"),
    *("blrnet", "blrnet-propagate", "gaussian-vi", "lowrank-sdp", "lowrank-sdp-published"),
)
RESERVED = ("network", "problem", "compare", "conformance")  # sections of a configuration, and our own module
LONGEST_NAME = 40  # a column of every table

F = TypeVar("F", bound="Callable[..., Method]")
_FACTORIES: dict[str, Callable[..., Method]] = {}


class MethodError(ValueError):
    """A method that cannot be had; the message says which, why and what to do."""


class UnknownMethod(MethodError):
    """No method has this name."""


class UnknownHyperparameter(MethodError, TypeError):
    """The method's factory has no such keyword."""


class DuplicateMethod(MethodError):
    """Two modules or distributions want one name."""


class BrokenMethod(MethodError):
    """A file of ours that should define a method, but does not load or registers another name."""


class BrokenPlugin(MethodError):
    """An entry point that does not load, registers another name, or wants a name it may not have."""


@dataclass(frozen=True)
class Origin:
    """Where a method comes from: what a cell's key hashes. distribution is None for files of this project.

    version: the distribution's for plugins; else the module's VERSION, "1" where it declares none.
    """

    module: str
    version: str
    source_path: Path | None
    distribution: str | None


def register(name: str) -> Callable[[F], F]:
    """Decorator: the factory below is the method `name`.

    Raises DuplicateMethod when another factory has the name, MethodError for a name or signature that cannot serve.
    """

    def keep(factory: F) -> F:
        check_name(name)
        _check_signature(name, factory)
        _check_free(name, factory)
        _FACTORIES[name] = factory
        return factory

    return keep


def names() -> tuple[str, ...]:
    """Every method that can be asked for by name: the entries of a default study first, then the others sorted."""
    plugins = {name for name, offers in _plugins().items() if _refusal(name, offers) is None}
    known = {*_builtins(), *plugins, *_FACTORIES}
    first = [name for name in LISTED_FIRST if name in known]
    return (*first, *sorted(known.difference(first)))


def load(name: str) -> Callable[..., Method]:
    """The factory of `name`, its module imported. Raises UnknownMethod, BrokenMethod, BrokenPlugin, DuplicateMethod."""
    if name in _builtins():
        _load_builtin(name)
    elif offers := _plugins().get(name):
        _load_plugin(name, offers)
    if name not in _FACTORIES:
        raise UnknownMethod(_unknown(name))
    return _FACTORIES[name]


def make(name: str, **hyperparameters: object) -> Method:
    """The method `name` with these hyperparameters, defaults for the others.

    Raises UnknownHyperparameter, besides what `load` raises; the factory raises ValueError for impossible values.
    """
    factory = load(name)
    allowed = list(inspect.signature(factory).parameters)
    for key in hyperparameters:
        if key not in allowed:
            raise UnknownHyperparameter(f"{name} has no hyperparameter {key!r}.{_nearest(key, allowed)}")
    return factory(**hyperparameters)


def signature(name: str) -> Mapping[str, inspect.Parameter]:
    """The hyperparameters of `name` with their annotations as types and their defaults, in the factory's order."""
    factory = load(name)
    try:
        return inspect.signature(factory, eval_str=True).parameters
    except NameError as error:
        raise MethodError(f"method {name!r}: an annotation of its factory cannot be read: {error}") from error


def origin(name: str) -> Origin:
    """Module, version, source file and distribution of `name`; imports it."""
    module = sys.modules[load(name).__module__]
    path = Path(module.__file__) if module.__file__ else None
    dist = _plugins()[name][0].dist if name not in _builtins() and name in _plugins() else None
    version = dist.version if dist else str(getattr(module, "VERSION", "1"))
    return Origin(module.__name__, version, path, dist.name if dist else None)


def broken_plugins() -> list[MethodError]:
    """Why each plugin that cannot be used cannot, for a warning; imports every plugin, and none stops another."""
    broken: list[MethodError] = []
    for name, offers in sorted(_plugins().items()):
        try:
            _load_plugin(name, offers)
        except MethodError as error:
            broken.append(error)
    return broken


def check_name(name: str) -> None:
    """A method may be called `name`: lower-case words joined by "-", not RESERVED. Raises MethodError."""
    if name in RESERVED:
        raise MethodError(f"method name {name!r} cannot be had (reserved: {', '.join(RESERVED)}); choose another")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > LONGEST_NAME:
        raise MethodError(
            f"method name {name!r} must be lower-case words joined by '-', at most {LONGEST_NAME} letters, "
            "such as 'my-method'"
        )


def _builtins() -> dict[str, str]:
    """Name -> module of every file here that registers something, by its text: nothing is imported."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return {_name(f.stem): f"{__name__}.{f.stem}" for f in files if re.search(r"^@register\(", f.read_text(), re.M)}


def _plugins() -> dict[str, list[EntryPoint]]:
    offers: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        offers.setdefault(entry.name, []).append(entry)
    return offers


def _load_builtin(name: str) -> None:
    module = _builtins()[name]
    try:
        import_module(module)
    except Exception as error:
        raise BrokenMethod(f"{_file(module)} failed to load: {type(error).__name__}: {error}") from error
    if name not in _FACTORIES:
        raise BrokenMethod(f"{_file(module)} registers no method {name!r}: {_renamed(module)}")


def _load_plugin(name: str, offers: Sequence[EntryPoint]) -> None:
    refusal = _refusal(name, offers)
    if refusal is not None:
        raise refusal
    (entry,) = offers
    try:
        entry.load()
    except (Exception, SystemExit) as error:  # a script without a main guard exits on import; it must not end ours
        raise BrokenPlugin(f"{_plugin(entry)} failed to load: {type(error).__name__}: {error}") from error
    if name not in _FACTORIES:
        raise BrokenPlugin(f"{_plugin(entry)} registers no method {name!r}: {_renamed(entry.module)}")


def _refusal(name: str, offers: Sequence[EntryPoint]) -> MethodError | None:
    """Why the entry points under one name are refused unread, if they are."""
    if name in RESERVED:
        return BrokenPlugin(f"{_plugin(offers[0])} is refused: the name {name!r} is reserved; it needs another name")
    if name in _builtins():
        return DuplicateMethod(
            f"{_plugin(offers[0])} is refused: {name!r} is built in ({_builtins()[name]}); it needs another name"
        )
    if len(offers) > 1:
        listed = " and ".join(f"{_distribution(e)} ({e.value})" for e in offers)
        return DuplicateMethod(f"method {name!r} is offered by {listed}: uninstall one of them")
    return None


def _check_signature(name: str, factory: Callable[..., Method]) -> None:
    for p in inspect.signature(factory).parameters.values():
        if p.kind is not p.KEYWORD_ONLY or p.default is p.empty:
            raise MethodError(
                f"method {name!r}: parameter {p.name!r} of its factory must be keyword-only with a default "
                "(the signature is the configuration schema)"
            )


def _check_free(name: str, factory: Callable[..., Method]) -> None:
    module = _builtins().get(name)
    if module is not None and factory.__module__ != module:
        raise DuplicateMethod(f"method {name!r} is built in ({module}); {factory.__module__} needs another name")
    known = _FACTORIES.get(name)
    if known is not None and known.__module__ != factory.__module__:  # the same module again is a reload
        raise DuplicateMethod(f"method {name!r} is defined in {known.__module__} and again in {factory.__module__}")


def _unknown(name: str) -> str:
    return f"unknown method {name!r}.{_nearest(name, names(), 'Available')}"


def _nearest(word: str, known: Sequence[str], listed_as: str = "Allowed") -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return f"{guess} {listed_as}: {', '.join(known) or 'none'}"


def _renamed(module: str) -> str:
    found = [name for name, factory in _FACTORIES.items() if factory.__module__ == module]
    listed = " and ".join(map(repr, found)) or "none"
    return f"found {listed} there; the registered name must be the one it is listed under"


def _plugin(entry: EntryPoint) -> str:
    return f"plugin {entry.name!r} from {_distribution(entry)}"


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def _name(stem: str) -> str:
    return stem.replace("_", "-")


def _file(module: str) -> str:
    return module.replace(".", "/") + ".py"
