"""What a packed network's file holds, and what it says of inputs: `python -m core.deploy FILE [--classes X.npy]`.

Needs NumPy, no torch. Exit codes: 0 done, 2 usage or a file that is no packed network.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.deploy import FileError, PackedNetwork, info, load
from core.deploy.summary import lines

LONGEST_FACT = 400  # characters of one fact that are shown
BACKENDS = ("auto", "native", "numpy", "cupy")


class _NoArray(ValueError):
    """A file that holds no array of inputs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        network = load(arguments.file)
        if arguments.classes is None:
            print("\n".join(_told(arguments.file, network)))
        else:
            inputs = _array(arguments.classes)
            if arguments.raw:
                inputs = network.standardised(inputs)
            found = network.classes(inputs, backend=arguments.backend, threads=arguments.threads)
            print("".join(f"{label}\n" for label in found), end="")
    except BrokenPipeError:
        return 141  # the reader, `head` say, has what it wanted
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # what `load`, NumPy and `run` refuse with
        kind = "" if isinstance(error, (FileError, _NoArray)) else f"{type(error).__name__}: "
        print(f"{kind}{error}", file=sys.stderr)
        return 2
    return 0


def _array(path: Path) -> np.ndarray:
    """The array that `numpy.save` wrote. Raises _NoArray."""
    way_out = "give one array as numpy.save writes it, of dtype and shape as in training"
    try:
        with path.open("rb") as opened:
            if opened.read(2) == b"PK":
                raise _NoArray(f"--classes {path}: an archive of arrays (.npz); {way_out}")
            opened.seek(0)
            found: np.ndarray = np.lib.format.read_array(opened, allow_pickle=False)
    except _NoArray:
        raise
    except OSError as error:
        raise _NoArray(f"--classes {path}: {error.strerror}") from error
    except (ValueError, MemoryError) as error:
        raise _NoArray(f"--classes {path}: no .npy array; {way_out} ({error})") from error
    return found


def _told(path: Path, network: PackedNetwork) -> list[str]:
    facts = [f"  {name}: {_spelt(value)}" for name, value in network.form.facts.items()]
    return [f"{path}: {network.size:,} bytes", *lines(network.form), "", *facts, "", f"here: {info()}"]


def _spelt(value: object) -> str:
    """A fact on one line, without what would steer a terminal."""
    if isinstance(value, str) and value.isprintable():
        return value
    text = json.dumps(value)
    return text if len(text) <= LONGEST_FACT else f"{text[:LONGEST_FACT]} ... ({len(text):,} characters)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m core.deploy",
        description="Say what a packed network's file holds, or run it on inputs. No torch is needed.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what python -m studies.deploy --to FILE wrote")
    parser.add_argument(
        "--classes", type=Path, metavar="X.npy", help="inputs (N, ...) as in training: print a class a line"
    )
    parser.add_argument(
        "--raw", action="store_true", help="standardise the inputs of --classes first, by the constants in the file"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
