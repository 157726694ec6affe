"""What was asked for: command line over TOML file over defaults, every value with its origin. Imports nothing heavy.

The names in a request are as typed; `studies.runner.config.resolve` checks them against the methods, networks and
problems there are. Errors are collected, so that one run tells all of them.
"""

from __future__ import annotations

import argparse
import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

BACKENDS = ("processes", "serial")
DEVICES = ("cpu", "cuda")
CHECKPOINT_EVERY = 600.0  # seconds between two checkpoints of a cell; 0: none
MOST_SEEDS = 10_000  # more in one run is a typing error
GRID = "compare"  # the section of a TOML file that holds the command's own options


class Stop(Exception):
    """The command cannot go on: a message for its user, and its exit code."""

    code: int


class ConfigErrors(Stop):
    """Everything that is wrong with a configuration, one message each."""

    code = 2

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = tuple(messages)


@dataclass(frozen=True)
class Setting:
    """One SECTION.KEY=VALUE. `typed`: the value is text from a command line, still to be read as its key's type."""

    section: str
    key: str
    value: Any
    origin: str
    typed: bool

    @property
    def path(self) -> str:
        """How the user names it: "ste.lr"."""
        return f"{self.section}.{self.key}"


@dataclass
class Request:
    """A grid of cells as asked for; `budget` None means each problem's own epochs. `errors` are those found so far."""

    methods: tuple[str, ...]
    problems: tuple[str, ...]
    seeds: tuple[int, ...] = tuple(range(6))
    budget: dict[str, int] | None = None
    out: Path = Path("results/compare")
    data_dir: Path | None = None
    backend: str = "processes"
    workers: int = field(default_factory=lambda: _cores())
    device: str = "cpu"
    checkpoint_every: float = CHECKPOINT_EVERY
    settings: list[Setting] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def cells(self) -> int:
        """How many cells the grid has."""
        return len(self.problems) * len(self.methods) * len(self.seeds)


def request(arguments: argparse.Namespace, *, methods: Sequence[str], problems: Sequence[str]) -> Request:
    """What command line and `--config` file ask for; `methods` and `problems` are the default grid.

    Never raises: what cannot be read is named in `errors`, with its origin, and keeps its default.
    """
    asked = Request(methods=tuple(methods), problems=tuple(problems))
    if arguments.config is not None:
        _take_file(asked, arguments.config)
    options = {name: getattr(arguments, name.replace("-", "_")) for name in OPTIONS}
    _take_options(asked, {name: value for name, value in options.items() if value is not None}, "--{}", "")
    for text in arguments.set:
        _take_set(asked, text)
    return asked


def nearest(word: str, words: Sequence[str]) -> str:
    """ "Did you mean 'bayesbinn'?" with a space before it, or nothing when no word is close."""
    close = get_close_matches(word, words, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def _take_file(asked: Request, path: Path) -> None:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        asked.errors.append(f"--config {path}: {error.strerror}")
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        asked.errors.append(f"{path}: not a TOML file: {error}")
        return
    for section, table in tables.items():
        if not isinstance(table, dict):
            asked.errors.append(f"{section} (in {path}) stands outside a section; put it under [{GRID}]")
        elif section == GRID:
            _take_options(asked, table, GRID + ".{}", f", from {path.name}")
        else:
            asked.settings += [Setting(section, key, value, path.name, typed=False) for key, value in table.items()]


def _take_set(asked: Request, text: str) -> None:
    path, equals, value = text.partition("=")
    section, dot, key = path.strip().partition(".")
    if not (equals and dot and section and key):
        asked.errors.append(
            f"--set {text}: write SECTION.KEY=VALUE, for example --set ste.lr=0.003 or --set network.name=lenet"
        )
    elif section == GRID:
        asked.errors.append(f"--set {text}: {key!r} is an option of the command; write --{key} {value.strip()}")
    else:
        asked.settings.append(Setting(section, key, value.strip(), "--set", typed=True))


def _take_options(asked: Request, options: Mapping[str, Any], shown: str, origin: str) -> None:
    """Read options from one source over what is there; `shown` says how that source spells a name."""
    for name, value in options.items():
        if name not in OPTIONS:
            allowed = f"Allowed: {', '.join(OPTIONS)}"
            asked.errors.append(f"{shown.format(name)}: unknown key{origin}.{nearest(name, list(OPTIONS))} {allowed}")
            continue
        try:
            chosen = OPTIONS[name](value)
        except ValueError as error:
            asked.errors.append(f"{shown.format(name)} {error} (got {_spelt(value)}{origin})")
            continue
        if name in ("epochs", "steps"):
            asked.budget = {name: chosen}
        else:
            setattr(asked, name.replace("-", "_"), chosen)
    if "epochs" in options and "steps" in options:
        asked.errors.append(f"{shown.format('epochs')} and {shown.format('steps')} exclude each other; give one")


def _items(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value if isinstance(value, list) else [value]


def _names(value: Any) -> tuple[str, ...]:
    items = _items(value)
    if not items or not all(isinstance(item, str) for item in items):
        raise ValueError("must be names with commas between them, or a list of names in a file")
    return _distinct(items)


def _seeds(value: Any) -> tuple[int, ...]:
    """6 means 0..5; "0,3" or [0, 3] means these."""
    items = [_integer(item, least=0) for item in _items(value)]
    is_list = isinstance(value, list) or (isinstance(value, str) and "," in value)
    if is_list and items:
        return _distinct(items)
    if len(items) == 1 and 1 <= items[0] <= MOST_SEEDS:
        return tuple(range(items[0]))
    raise ValueError(f"must be a count from 1 to {MOST_SEEDS}, or a list of seeds")


def _distinct(items: list[Any]) -> tuple[Any, ...]:
    twice = sorted({str(item) for item in items if items.count(item) > 1})
    if twice:
        raise ValueError(f"names {', '.join(twice)} twice; each may stand once")
    return tuple(items)


def _count(value: Any) -> int:
    return _integer(value, least=1)


def _integer(value: Any, *, least: int) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise ValueError(f"must be a whole number of at least {least}")
    return number


def _seconds(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError("must be a number of seconds, 0 for never")
    return number


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError("must be the name of a folder")
    return Path(value).expanduser()


def _one_of(allowed: Sequence[str]) -> Callable[[Any], str]:
    def choose(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"must be {' or '.join(allowed)}")
        return str(value)

    return choose


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # the cores this process may use; only some systems tell
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _spelt(value: Any) -> str:
    return value if isinstance(value, str) and value else repr(value)


OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "methods": _names,
    "problems": _names,
    "seeds": _seeds,
    "epochs": _count,
    "steps": _count,
    "out": _path,
    "data-dir": _path,
    "backend": _one_of(BACKENDS),
    "workers": _count,
    "device": _one_of(DEVICES),
    "checkpoint-every": _seconds,
}
