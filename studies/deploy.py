"""Makes a packed network of a study's cell and proves it equal to the trained one: `python -m studies.deploy`.

The file is there only when the proof holds. Exit codes: 0 done, 1 the file would differ from the network, 2 usage,
4 storage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from studies.runner.command import parse, told
from studies.runner.request import Stop

STORAGE, INTERRUPTED = 4, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    arguments = parse(parser, words)
    try:
        if arguments.bench:
            asked_too = {"--to": arguments.to, "--method": arguments.method, "--problem": arguments.problem}
            if of_files := [name for name, value in asked_too.items() if value is not None]:
                parser.error(f"{', '.join(of_files)}: not with --bench, which exports nothing")
            from studies.deploying.bench import command  # late, as the rest: --help does not wait for torch

            out = arguments.out or Path("results/deploy-quick" if arguments.quick else "results/deploy")
            return command.run(out, arguments.json, arguments.device, arguments.quick, arguments.peer_python)
        given = {"--quick": arguments.quick, "--device cuda": arguments.device == "cuda", "--out": arguments.out}
        if of_bench := [name for name, value in (given | {"--peer-python": arguments.peer_python}).items() if value]:
            parser.error(f"{', '.join(of_bench)}: of --bench alone")
        from studies.deploying import session
        from studies.deploying.choice import Asked

        asked = Asked(
            folder=arguments.folder,
            problem=arguments.problem,
            method=arguments.method,
            seed=arguments.seed,
            best=arguments.best,
            prediction=arguments.prediction,
            where=tuple(arguments.where),
        )
        if arguments.to is None:
            needed = ["--to is needed (or --bench, which measures the kernels)", session.also_wrong(asked)]
            parser.error("\n".join(filter(None, needed)))
        wanted = session.Wanted(
            asked, arguments.to, arguments.data_dir, arguments.json, arguments.test_limit, arguments.rounds
        )
        return session.run(wanted, command=["python", "-m", "studies.deploy", *words])
    except KeyboardInterrupt:
        if arguments.debug:
            raise
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (Stop, Exception) as error:
        if arguments.debug:
            raise
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):  # cannot be read or written
            print(f"cannot use {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
            return STORAGE
        message, code = told(error)
        print(message, file=sys.stderr)
        return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.deploy",
        description="Make a packed network of a study's cell, prove on the whole test set that it is the trained one, "
        "and say its size and speed.",
        epilog="Test labels are not read: the best cell is the best on validation. Exit codes: 0 done, 1 the file "
        "would differ from the network (none is left then), 2 usage, 4 storage, 130 interrupted.",
        allow_abbrev=False,
    )
    what = parser.add_argument_group("which network")
    what.add_argument(
        "--from",
        dest="folder",
        type=Path,
        default=Path("results/compare"),
        metavar="DIR",
        help="a study's folder (default: %(default)s)",
    )
    what.add_argument(
        "--method", metavar="NAME", help="of the cell; may be left out with --best, or where only one is there"
    )
    what.add_argument("--problem", metavar="NAME", help="of the cell; may be left out where only one is there")
    what.add_argument("--seed", type=_count_from_0, metavar="N", help="of the cell (default: the lowest there)")
    what.add_argument("--best", action="store_true", help="the best validation accuracy among the cells that match")
    what.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="SETTING=VALUE",
        help="only cells of this setting, such as network.activation=sign; may be given again",
    )
    what.add_argument(
        "--prediction", default="mode", metavar="RULE", help="mode, ternary, 'ensemble(10)', ... (default: mode)"
    )
    made = parser.add_argument_group("what to make")
    made.add_argument("--to", type=Path, metavar="FILE", help="the packed network, such as model.bnn (needed)")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write what is printed as data")
    made.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="data sets (default: the environment's BITRELAX_DATA)"
    )
    made.add_argument(
        "--test-limit", type=_limit, metavar="N|none", help="prove on the first N test inputs (default: none, so all)"
    )
    made.add_argument("--rounds", type=_count_from_0, default=9, metavar="N", help="of timing; 0: none (%(default)s)")
    bench = parser.add_argument_group("measure the kernels")
    bench.add_argument("--bench", action="store_true", help="kernels and networks against their peers, goal by goal")
    bench.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of --bench (default: cpu)")
    bench.add_argument(
        "--out", type=Path, metavar="DIR", help="of --bench (default: results/deploy; of --quick results/deploy-quick)"
    )
    bench.add_argument(
        "--quick", action="store_true", help="of --bench: smallest shapes, a check that it runs; judges no goal"
    )
    bench.add_argument("--peer-python", metavar="PYTHON", help="of --bench: a Python with Larq Compute Engine")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _count_from_0(text: str) -> int:
    if not text.strip().isdigit():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 on (got {text!r})")
    return int(text)


def _limit(text: str) -> int | None:
    if text == "none":
        return None
    if not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, or none (got {text!r})")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
