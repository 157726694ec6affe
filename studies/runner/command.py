"""What commands say and hear: a near miss is named, an error is a message and an exit code, a count has its plural."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches

from studies.runner.request import Stop

DEFECT, INTERRUPTED, PIPE_CLOSED = 1, 130, 141


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The words read; an unknown one ends the process with the option that is nearest to it."""
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        close = get_close_matches(unknown[0].partition("=")[0], options, n=1, cutoff=0.5)
        parser.error(f"unknown argument {unknown[0]!r}." + (f" Did you mean {close[0]}?" if close else ""))
    return arguments


def told(error: BaseException) -> tuple[str, int]:
    """What is said of an error, and the exit code."""
    if isinstance(error, Stop):
        return str(error), error.code
    if isinstance(error, BrokenPipeError):
        return "", PIPE_CLOSED  # the reader, `head` say, has what it wanted
    if isinstance(error, ModuleNotFoundError):
        return f"{error}: activate the environment (. .venv/bin/activate), or install bitrelax into this one", DEFECT
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; what is finished is saved, the same command continues", INTERRUPTED
    return f"{type(error).__name__}: {error}\nthis is a defect of bitrelax; --debug shows where", DEFECT


def counted(count: int, noun: str) -> str:
    """ "1 cell", "2 cells"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
