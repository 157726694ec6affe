"""Certified semidefinite bounds from the command line: `python -m solvers solve FILE` and `python -m solvers bench`.

Exit codes: 0 done, 1 nothing was bounded, 2 usage or a malformed file, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

TIME_LIMIT = "stop with the best proven by then; --cut has what is left of it, and 0.1 s at least"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "bench":
        # Before NumPy loads its threads, and for the peers' processes: the table is of one thread.
        os.environ.update(dict.fromkeys(THREADS, "1"))
    try:  # imports are late: --help does not wait for SciPy, nor do threads start before their number is set
        if arguments.command == "solve":
            from solvers import command

            return command.solve(
                arguments.file,
                gap=arguments.gap,
                rank=arguments.rank,
                seed=arguments.seed,
                time_limit=arguments.time_limit,
                cut=arguments.cut,
                as_json=arguments.json,
                format=arguments.format,
            )
        from solvers.bench import table

        return table.run(only=arguments.only, peers=dict(arguments.peer), file=arguments.json)
    except OSError as error:
        print(f"python -m solvers {arguments.command}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except (ValueError, MemoryError) as error:
        print(f"python -m solvers {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m solvers",
        description="Certified bounds of min <C, X>, diag X = 1, X psd: max-cut, quadratic programs over {0, 1}.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    solve = commands.add_parser("solve", help="solve a file and prove a bound", allow_abbrev=False)
    solve.add_argument("file", type=Path, metavar="FILE", help="rudy graph, SDPA sparse or BQP file, plain or gzip")
    solve.add_argument("--format", choices=("rudy", "sdpa", "bqp"), help="default: by the name of the file")
    solve.add_argument("--gap", type=_positive, default=1e-6, help="relative gap to prove (default: %(default)s)")
    solve.add_argument(
        "--cut", action="store_true", help="also seek a cut, bits or signs: hyperplanes, then tabu search"
    )
    solve.add_argument("--json", action="store_true", help="print one JSON object instead of words")
    solve.add_argument("--seed", type=_whole, default=0, help="of every random draw (default: %(default)s)")
    solve.add_argument("--time-limit", type=_positive, metavar="SECONDS", help=TIME_LIMIT)
    solve.add_argument("--rank", type=_rank, default="auto", help="columns of the factor (default: %(default)s)")
    bench = commands.add_parser("bench", help="measure the goals beside the installed peers", allow_abbrev=False)
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write the table as a list of objects")
    bench.add_argument("--only", type=_names, metavar="S1,Q1", help="these goals (default: all)")
    bench.add_argument(
        "--peer", type=_peer, action="append", default=[], metavar="NAME=PATH",
        help="the binary of csdp, sdpa, dsdp5 or lorads, where it is not on PATH; run as a child right after ours",
    )  # fmt: skip
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0 and finite (got {text})")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0 (got {value})")
    return value


def _rank(text: str) -> int | str:
    if text == "auto":
        return text
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be auto or at least 1 (got {value})")
    return value


def _names(text: str) -> list[str]:
    return [name.strip().upper() for name in text.split(",") if name.strip()]


def _peer(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"must be NAME=PATH (got {text})")
    return name.lower(), Path(path)


if __name__ == "__main__":
    sys.exit(main())
