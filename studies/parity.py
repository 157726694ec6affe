"""Sets published numbers beside ours, on the same networks: `python -m studies.parity`.

The default is the short protocol, which runs on two CPU cores and is labelled as such wherever its numbers stand; the
papers' own, `--protocol full --device cuda`, takes a GPU and may be stopped and continued. Exit codes as compare's: 0
done, 2 usage or configuration, 3 some cells failed, 4 storage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from studies.published.request import CIFAR10, PROTOCOLS, asked
from studies.runner.command import parse, told
from studies.runner.executors import start_server
from studies.runner.request import BACKENDS, DEVICES, Stop


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(_parser(), words)
    looks = arguments.explain or arguments.dry_run
    try:
        wanted = asked(arguments)
        if not looks and wanted.plan.get("backend", "processes") == "processes":
            start_server()  # the workers' imports go on beside ours
        from studies.published import session  # torch takes seconds: --help and a wrong option do not wait for it

        stored = {"reuse_stale": arguments.reuse_stale, "keep_states": not arguments.no_states}
        if looks:
            print(session.look(wanted, **stored, each=arguments.explain))
            return 0
        command = ["python", "-m", "studies.parity", *words]
        return session.run(wanted, **stored, resume=arguments.resume, command=command)
    except (Stop, KeyboardInterrupt, Exception) as error:
        if arguments.debug:
            raise
        message, code = told(error)
        print(message, file=sys.stderr)
        return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.parity",
        description="Set published numbers beside ours: the same networks, the same split of the data, the test "
        "accuracy of the last and of the best-validation epoch, and every difference in protocol said.",
        epilog="A rerun computes only what is missing or changed; a stopped cell goes on from its checkpoint. "
        "Exit codes: 0 done, 2 usage or configuration, 3 some cells failed, 4 storage, 130 interrupted.",
        allow_abbrev=False,
    )
    grid = parser.add_argument_group("what to run")
    grid.add_argument("--protocol", default="short", metavar="|".join(PROTOCOLS), help="default: short")
    grid.add_argument(
        "--boards", metavar="A,B", help="networks of the protocol, as --dry-run names them (default: all)"
    )
    grid.add_argument("--methods", metavar="A,B", help="only these (default: all of each board)")
    grid.add_argument("--seeds", metavar="N|LIST", help="how many, or which (default: the protocol's)")
    grid.add_argument("--device", metavar="|".join(DEVICES), help="default: cpu")
    grid.add_argument(
        "--cifar10", default="cifar10", metavar="|".join(CIFAR10), help="which copy of the images (default: cifar10)"
    )
    place = parser.add_argument_group("where and how")
    place.add_argument("--out", metavar="DIR", help="records, page and figure (default: results/parity/PROTOCOL)")
    place.add_argument("--data-dir", metavar="DIR", help="data sets (default: the environment's BITRELAX_DATA)")
    place.add_argument("--backend", metavar="|".join(BACKENDS), help="default: processes")
    place.add_argument("--workers", metavar="N", help="processes, of one torch thread each (default: one a core)")
    place.add_argument("--no-states", action="store_true", help="do not store trained parameters")
    place.add_argument("--reuse-stale", action="store_true", help="keep cells of older code")
    place.add_argument(
        "--checkpoint-every",
        metavar="SECONDS",
        help="how often a cell in training saves where it is, to be continued from (default: 600; 0: never)",
    )
    place.add_argument("--resume", metavar="FILE", type=Path, help="a checkpoint to continue its cell from")
    look = parser.add_argument_group("look without running")
    look.add_argument("--dry-run", action="store_true", help="how much is cached, how much would run, and how long")
    look.add_argument("--explain", action="store_true", help="the same for every cell, and why it would run")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
