"""Plain JSON data within limits, and its fields by type: what a file may say, whoever wrote it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

LONGEST_JSON = 1 << 24
MOST_MARKS = 1 << 20  # commas, colons and brackets: a bound on how many objects the JSON becomes
DEEPEST_JSON = 32
LONGEST_NAME = 40  # letters of a name in an error


class FileError(ValueError):
    """Bytes that are no packed network, or a form that no file can hold; the message says where and what to do."""


def written(data: dict[str, Any]) -> bytes:
    """`data` as JSON: ASCII, sorted, without spaces. Raises FileError for what `read` would refuse or change."""
    for name, item in data.items():
        check_plain(item, name)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    _check_size(text)
    return text


def _check_size(text: bytes) -> None:
    """Raises FileError for JSON so large that what it becomes would be too."""
    if len(text) > LONGEST_JSON:
        raise FileError(f"the JSON has {len(text)} bytes; at most {LONGEST_JSON} are read (shorten the facts)")
    marks = sum(text.count(mark) for mark in (b",", b":", b"[", b"{"))
    if marks > MOST_MARKS:
        raise FileError(f"the JSON has {marks} commas, colons and brackets; at most {MOST_MARKS} are read")


def read(text: bytes) -> Any:
    """The data of JSON in UTF-8. Raises FileError for whatever is no plain JSON, or beyond the limits."""
    _check_size(text)
    try:
        data = json.loads(
            text.decode(),
            object_pairs_hook=_without_twins,
            parse_int=_whole,
            parse_constant=_refuse,
        )
    except FileError:
        raise
    except RecursionError:
        raise FileError(f"the JSON is nested deeper than {DEEPEST_JSON}") from None
    except ValueError as error:  # no UTF-8, or no JSON
        raise FileError(f"the JSON cannot be read: {error}") from None
    check_plain(data, "the JSON")
    return data


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, item in pairs:
        if name in data:
            raise FileError(f"the JSON has field {shown(name)} twice in one object")
        data[name] = item
    return data


def _whole(digits: str) -> int:
    if len(digits) > 20:
        raise FileError(f"the JSON has a whole number of {len(digits)} digits; 20 are read")
    return int(digits)


def _refuse(name: str) -> NoReturn:
    raise FileError(f"the JSON has {name}, which is no number")


def check_plain(data: Any, where: str, depth: int = 1) -> None:
    """Raises FileError unless `data` is JSON that reads back as it is: str keys, no tuples, finite numbers, UTF-8."""
    if depth > DEEPEST_JSON:
        raise FileError(f"{where} is nested deeper than {DEEPEST_JSON}")
    if type(data) is dict:
        for name, item in data.items():
            if type(name) is not str:
                raise FileError(f"{where} has the name {shown(name)}; names are strings")
            _check_text(name, where)
            check_plain(item, f"{where}.{name[:LONGEST_NAME]}", depth + 1)
    elif type(data) is list:
        for item in data:
            check_plain(item, where, depth + 1)
    else:
        _check_leaf(data, where)


def _check_leaf(data: Any, where: str) -> None:
    if type(data) is str:
        _check_text(data, where)
    elif type(data) is float:
        if not math.isfinite(data):
            raise FileError(f"{where} has {data}; numbers are finite (a string can say so)")
    elif type(data) is int:
        if abs(data) >= 1 << 63:
            raise FileError(f"{where} has a whole number beyond 64 bits")
    elif data is not None and type(data) is not bool:
        raise FileError(
            f"{where} has a {type(data).__name__} and must be plain JSON data: dict, list, str, int, float, bool, None"
        )


def _check_text(text: str, where: str) -> None:
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise FileError(f"{where} has half of a surrogate pair, which is no text ({shown(text)})")


def record(data: object, where: str, *names: str) -> dict[str, Any]:
    """`data`, which must be a JSON object with exactly these fields."""
    if not isinstance(data, dict):
        raise FileError(f"{where} must be an object with {', '.join(names)} (got {shown(data)})")
    if wrong := sorted(set(names).symmetric_difference(data)):
        what = "is missing" if wrong[0] in names else f"is unknown, beside {', '.join(names) or 'none'}"
        raise FileError(f"{where}: field {shown(wrong[0])} {what}")
    return data


def typed(data: Mapping[str, Any], name: str, kind: type, where: str = "the file") -> Any:
    """The field `name` of `data`, which must be of exactly this type: true is no number, 1.0 is no whole one."""
    if type(data[name]) is not kind:
        raise FileError(f"{where}: {name} must be {_WORDS[kind]} (got {shown(data[name])})")
    return data[name]


def whole_numbers(data: Mapping[str, Any], name: str, where: str) -> list[int]:
    """The field `name` of `data`, which must be a list of whole numbers."""
    numbers: list[int] = typed(data, name, list, where)
    if any(type(number) is not int for number in numbers):
        raise FileError(f"{where}: {name} must be a list of whole numbers (got {shown(numbers)})")
    return numbers


def shown(data: object) -> str:
    """`data` in the words of an error, cut where it is long."""
    text = repr(data)
    return text if len(text) <= 60 else f"{text[:57]}..."


_WORDS = {int: "a whole number", str: "a string", list: "a list", dict: "an object"}
