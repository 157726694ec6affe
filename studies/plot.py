"""Draws the tables and figures of an output folder again, from its records alone: `python -m studies.plot DIR`.

Exit codes: 0 done, 2 usage or a folder without records, 4 storage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

USAGE, STORAGE = 2, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code."""
    arguments = _parser().parse_args(argv)
    from rich.console import Console  # late, as the rest: --help does not wait for pandas, matplotlib and torch

    from studies.analysis import output, tables, text, tidy
    from studies.runner.records import StorageError

    try:
        records, warnings = output.drawn_records(arguments.folder)
        written = output.publish(
            records, arguments.folder, output.read_manifest(arguments.folder), title=arguments.study_title
        )
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return USAGE
    except StorageError as error:
        print(error, file=sys.stderr)
        return STORAGE
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    text.show(tables.summary(tidy.rows(records)), Console(highlight=False))
    print("\n".join(["wrote", *(f"  {path}" for path in written)]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.plot",
        description="Draw the tables and figures of an output folder again, from its records alone.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="what python -m studies.compare --out DIR wrote")
    parser.add_argument("--study-title", metavar="T", default="", help="a title over the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
