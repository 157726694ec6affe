"""A trained real network binarised layer by layer, beside signs trained from scratch: `python -m studies.layerwise`.

Exit codes: 0 done, 2 usage, 3 some cells failed, 4 storage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from studies.runner.command import parse, told
from studies.runner.request import Stop

USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(_parser(), words)
    from core.problems import UnknownProblem
    from studies.layering import figure, study  # late, as the rest: --help does not wait for torch and pandas
    from studies.runner import closing, session
    from studies.runner.config import Plan
    from studies.runner.manifest import manifest

    out: Path = arguments.out
    asked = study.Asked(
        problem=arguments.problem,
        widths=arguments.widths,
        epochs=arguments.epochs,
        ste_epochs=arguments.ste_epochs,
        seeds=tuple(range(arguments.seeds)),
    )
    try:
        cells = study.cells(asked)
    except UnknownProblem as error:
        print(error, file=sys.stderr)
        return USAGE
    try:
        # one cell at a time: seconds are compared, and cells side by side would share caches and memory
        plan = Plan(cells, out, arguments.data_dir, "serial", 1)
        done = session.carry_out(plan, reuse_stale=arguments.reuse_stale, keep_states=False, require_all=True)
    except (Stop, KeyboardInterrupt, Exception) as error:
        if arguments.debug:
            raise
        message, code = told(error)
        print(message, file=sys.stderr)
        return code
    of_networks, of_layers = study.networks(done.records), study.layers(done.records)
    page = study.markdown(asked, of_networks, of_layers)
    print(page)
    written = [out / "layerwise.md", out / "networks.csv", out / "layers.csv", out / "manifest.json"]
    written[0].write_text(page + "\n", encoding="utf-8")
    of_networks.to_csv(written[1], index=False, float_format="%.6g", lineterminator="\n")
    of_layers.to_csv(written[2], index=False, float_format="%.6g", lineterminator="\n")
    command = ["python", "-m", "studies.layerwise", *words]
    made = manifest(command, started=done.started, workers=1, backend="serial")
    written[3].write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return closing.ended(done.records, [*written, *figure.draw(of_networks, of_layers, out / "figures")], out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.layerwise",
        description="Binarise a trained real network layer by layer (its own signs, single flips, certified "
        "relaxations) and compare with signs trained from scratch at several budgets.",
        epilog="A rerun computes only what is missing or changed. Exit codes: 0 done, 2 usage, 3 some cells failed, "
        "4 storage, 130 interrupted.",
        allow_abbrev=False,
    )
    parser.add_argument("--problem", default="mnist", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--widths", type=_counts, default=(128,), metavar="A,B", help="hidden layers (default: 128)")
    parser.add_argument("--epochs", type=_count, default=5, metavar="N", help="of all but ste (default: %(default)s)")
    parser.add_argument("--ste-epochs", type=_counts, default=(5, 20), metavar="A,B", help="default: 5,20")
    parser.add_argument("--seeds", type=_count, default=2, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("results/layerwise"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="default: the environment's BITRELAX_DATA")
    parser.add_argument("--reuse-stale", action="store_true", help="keep cells of older code")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _count(text: str) -> int:
    if not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on (got {text!r})")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
