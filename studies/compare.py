"""Trains every method on every problem with every seed and prints how they compare: `python -m studies.compare`.

Cells that already have a record are not run again. Exit codes: 0 done, 2 usage or configuration, 3 some cells failed,
4 storage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from studies.runner.command import counted, parse, told
from studies.runner.executors import start_server
from studies.runner.request import BACKENDS, DEVICES, Request, Stop, request

METHODS = (
    *("full-precision", "ste", "bop", "bayesbinn", "bayesbinn-published"),
    *("blrnet", "gaussian-vi", "lowrank-sdp"),
)
PROBLEMS = ("digits", "breast-cancer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parse(words)
    looks = arguments.list or arguments.summary or arguments.dry_run or arguments.explain
    try:
        asked = request(arguments, methods=METHODS, problems=PROBLEMS)
        if not (asked.errors or arguments.list):
            print(_plan_line(asked), flush=True)
        if not (asked.errors or looks) and asked.backend == "processes":
            start_server()  # the workers' imports go on beside ours
        from studies.runner import session  # torch takes seconds; the plan line does not wait for it

        if looks:
            print(session.look(asked, arguments))
            return 0
        done = session.run(asked, arguments)
        from studies.runner import closing  # so do pandas and seaborn; the first cell does not wait for them

        return closing.conclude(done, command=["python", "-m", "studies.compare", *words])
    except (Stop, KeyboardInterrupt, Exception) as error:
        if arguments.debug:
            raise
        message, code = told(error)
        print(message, file=sys.stderr)
        return code


def _plan_line(asked: Request) -> str:
    problems, methods, seeds = (
        counted(len(names), noun)
        for names, noun in ((asked.problems, "problem"), (asked.methods, "method"), (asked.seeds, "seed"))
    )
    workers = "in this process" if asked.backend == "serial" else counted(asked.workers, "worker")
    return f"compare: {problems} x {methods} x {seeds} = {counted(asked.cells, 'cell')}; {workers}; {asked.out}"


def _parse(words: Sequence[str]) -> argparse.Namespace:
    return parse(_parser(), words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.compare",
        description="Train every method on every problem with every seed, on equal terms, and tabulate the results.",
        epilog="A rerun computes only what is missing or changed. Exit codes: 0 done, 2 usage or configuration, "
        "3 some cells failed, 4 storage, 130 interrupted.",
        allow_abbrev=False,
    )
    grid = parser.add_argument_group("what to run")
    grid.add_argument("--methods", metavar="A,B", help=f"default: {','.join(METHODS)}")
    grid.add_argument("--problems", metavar="A,B", help=f"default: {','.join(PROBLEMS)}; also idx:FOLDER and npz:FILE")
    grid.add_argument("--seeds", metavar="N|LIST", help="how many, or which, such as 0,3,7 (default: 6)")
    length = grid.add_mutually_exclusive_group()
    length.add_argument("--epochs", metavar="N", help="passes over the training set (default: each problem's own)")
    length.add_argument("--steps", metavar="N", help="updates, in place of epochs")
    grid.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        help="one setting; SECTION is a method, network or problem: ste.lr=0.003, network.widths=512,512, "
        "problem.batch=64; may be given again",
    )
    grid.add_argument("--config", metavar="FILE.toml", type=Path, help="the same from a file; options here override it")
    grid.add_argument("--device", metavar="|".join(DEVICES), help="default: cpu")
    place = parser.add_argument_group("where and how")
    place.add_argument("--out", metavar="DIR", help="records, tables and figures (default: results/compare)")
    place.add_argument("--data-dir", metavar="DIR", help="data sets (default: the environment's BITRELAX_DATA)")
    place.add_argument("--backend", metavar="|".join(BACKENDS), help="default: processes")
    place.add_argument("--workers", metavar="N", help="processes, of one torch thread each (default: one a core)")
    place.add_argument("--no-states", action="store_true", help="do not store trained parameters")
    place.add_argument("--reuse-stale", action="store_true", help="keep cells of older code, and mark their rows")
    place.add_argument("--require-all", action="store_true", help="run nothing unless every problem has its data")
    place.add_argument(
        "--checkpoint-every",
        metavar="SECONDS",
        help="how often a cell in training saves where it is, to be continued from (default: 600; 0: never)",
    )
    place.add_argument("--resume", metavar="FILE", type=Path, help="continue one of the cells from this checkpoint")
    look = parser.add_argument_group("look without running")
    look.add_argument("--list", action="store_true", help="methods and problems with their defaults")
    look.add_argument("--summary", action="store_true", help="the networks: layers, parameters, memory, operations")
    look.add_argument("--dry-run", action="store_true", help="how many cells are cached and how many would run")
    look.add_argument("--explain", action="store_true", help="why each cell would run or is cached")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
