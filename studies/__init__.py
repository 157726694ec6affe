"""One file a question, each runnable with `python -m studies.NAME`; `studies.load` reads what one left."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from studies.guard import ForeignPackage, check_imports

if TYPE_CHECKING:
    from pandas import DataFrame

BELONGS_TO = "bitrelax"

try:
    check_imports()  # before any command of ours imports another package's `core`
except ForeignPackage as error:
    if sys.argv[0] != "-m":
        raise
    print(error, file=sys.stderr)  # a command, `python -m studies.NAME`: the message, without a traceback
    raise SystemExit(2) from None


def load(path: str | os.PathLike[str]) -> DataFrame:
    """The tidy rows of an output folder, one number a row; columns: see `studies.analysis.tidy.ROWS`.

    Raises FileNotFoundError when the folder has no records.
    """
    from pathlib import Path

    from studies.analysis.output import (
        read_rows,
    )  # late: every command imports this package, and --help must be instant

    return read_rows(Path(path))
