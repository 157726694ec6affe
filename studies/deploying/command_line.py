"""The command as a record may hold it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def without_paths(words: Sequence[str]) -> list[str]:
    """The words; of paths from the root of this machine the last name, and PYTHON for the peer's interpreter.

    >>> without_paths(["--bench", "--peer-python", "peers/bin/python", "--json=/home/me/goals.json"])
    ['--bench', '--peer-python', 'PYTHON', '--json=goals.json']
    """
    told: list[str] = []
    for word in words:
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        if value and (option or "".join(told[-1:])) == "--peer-python":
            value = "PYTHON"
        elif Path(value).is_absolute():
            value = Path(value).name
        told.append(f"{option}{equals}{value}")
    return told
