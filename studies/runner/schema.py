"""Keyword arguments as a config schema: the keys of a section, their types, and how a given value is read as one.

The signature of a method's factory or of an architecture is the schema; nothing is declared twice.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import methods
from core.architectures import ARCHITECTURES
from studies.runner.request import Setting, nearest

ATOMS = {"int": int, "float": float, "bool": bool, "str": str}  # also as a module with postponed annotations has them


@dataclass(frozen=True)
class Key:
    """One key of a section: its name, type and default."""

    name: str
    annotation: Any
    default: Any


@dataclass(frozen=True)
class Chosen:
    """The values of a section, defaults filled in, and the settings that were given for it, by key."""

    values: dict[str, Any]
    given: dict[str, Setting]


def keys(parameters: Mapping[str, inspect.Parameter]) -> dict[str, Key]:
    """The keyword-only parameters of a signature as keys."""
    return {
        name: Key(name, p.annotation, p.default)
        for name, p in parameters.items()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


def method_keys(name: str) -> dict[str, Key]:
    """The hyperparameters of a method. Raises the registry's MethodError."""
    return keys(methods.signature(name))


def network_keys(name: str) -> dict[str, Key]:
    """The options of an architecture."""
    return keys(inspect.signature(ARCHITECTURES[name], eval_str=True).parameters)


def choose(schema: Mapping[str, Key], settings: list[Setting], owner: str, errors: list[str]) -> Chosen:
    """Defaults overridden by settings, the last one winning. Unknown keys and unreadable values go to `errors`.

    owner: what has these keys, for the message ("method ste", "architecture mlp").
    """
    chosen = Chosen({key.name: _atom(key.default, key.annotation) for key in schema.values()}, {})
    for setting in settings:
        if setting.key not in schema:
            allowed = ", ".join(schema) or "none"
            close = nearest(setting.key, list(schema))
            errors.append(f"{setting.path}: unknown key (from {setting.origin}).{close} Keys of {owner}: {allowed}")
            continue
        try:
            value = read(setting.value, schema[setting.key].annotation, typed=setting.typed)
        except ValueError as error:
            errors.append(f"{setting.path} {error} (got {spelt(setting)}, from {setting.origin})")
            continue
        chosen.values[setting.key] = value
        chosen.given[setting.key] = setting
    return chosen


def read(value: Any, annotation: Any, *, typed: bool) -> Any:
    """`value` as `annotation` asks: int, float, bool, str, tuple[T, ...], Literal, T | None.

    typed: text from a command line ("1e-3", "512,512", "none"); otherwise a value of a TOML file, whose own type must
    fit. Raises ValueError, to be put after the key's name: "must be a number".
    """
    annotation = ATOMS.get(annotation, annotation) if isinstance(annotation, str) else annotation
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _read_optional(value, inner, typed)
    if origin is Literal:
        if value not in inner:
            raise ValueError(f"must be one of {', '.join(map(str, inner))}")
        return value
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return _read_tuple(value, inner[0], typed)
    if isinstance(value, list) or (typed and "," in value and annotation is not str):
        raise ValueError(f"{_must_be(annotation)}, not a list: a run has one value; run again with the next")
    if annotation not in READERS:
        raise ValueError(f"is annotated {annotation}, which a config cannot give")
    return READERS[annotation](value, typed)


def spelt(setting: Setting) -> str:
    """The value as its user wrote it."""
    return setting.value if setting.typed and setting.value else repr(setting.value)


def _read_optional(value: Any, inner: tuple[Any, ...], typed: bool) -> Any:
    if type(None) in inner and typed and value.lower() == "none":
        return None
    rest = [t for t in inner if t is not type(None)]
    for choice in rest[:-1]:
        try:
            return read(value, choice, typed=typed)
        except ValueError:
            continue  # the next member of the union may fit; the last one speaks
    return read(value, rest[-1], typed=typed)


def _read_tuple(value: Any, inner: Any, typed: bool) -> tuple[Any, ...]:
    items = [item.strip() for item in value.split(",") if item.strip()] if typed else value
    if not isinstance(items, list) or not items:
        raise ValueError("must be a list such as [512, 512]" if not typed else "must be a list such as 512,512")
    try:
        return tuple(read(item, inner, typed=typed) for item in items)
    except ValueError as error:
        raise ValueError(f"is a list; each member {error}") from None


def _int(value: Any, typed: bool) -> int:
    if typed:
        try:
            return int(value)
        except ValueError:
            raise ValueError(_must_be(int)) from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(_must_be(int))
    return value


def _float(value: Any, typed: bool) -> float:
    try:
        number = float(value) if typed or (isinstance(value, (int, float)) and not isinstance(value, bool)) else None
    except (ValueError, OverflowError):
        number = None
    if number is None:
        raise ValueError(_must_be(float))
    if not math.isfinite(number):
        raise ValueError("must be finite")
    return number


def _bool(value: Any, typed: bool) -> bool:
    value = {"true": True, "false": False}.get(value.lower()) if typed else value
    if not isinstance(value, bool):
        raise ValueError(_must_be(bool))
    return value


def _str(value: Any, typed: bool) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(_must_be(str))
    return value


READERS: Mapping[Any, Any] = {int: _int, float: _float, bool: _bool, str: _str}
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _must_be(annotation: Any) -> str:
    return f"must be {WORDS.get(annotation, annotation)}"


def _atom(default: Any, annotation: Any) -> Any:
    # lr: float = 1 and lr: float = 1.0 are one default, so that they make one cell key
    return float(default) if annotation in (float, "float") and isinstance(default, int) else default
