"""Measures every method's gradients and learnt laws against exact answers: `python -m studies.oracle`.

Networks of at most 16 binary weights on real data, all 2^n of them enumerated. Exit codes: 0 all that theory says was
found, 1 something was not (the last lines say what), 2 usage, 4 storage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

NOT_FOUND, STORAGE = 1, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    arguments = parser.parse_args(words)
    if any(not 0 < t < float("inf") for t in arguments.temperature or ()):
        parser.error(f"--temperature must be finite and > 0 (got {', '.join(f'{t:g}' for t in arguments.temperature)})")
    if arguments.draws is not None and arguments.draws < 1000:
        parser.error(f"--draws must be >= 1000, or no bias can be told from noise (got {arguments.draws})")

    import torch  # late, as the rest: --help does not wait for torch, pandas and matplotlib
    from rich.console import Console

    from studies.runner.manifest import manifest
    from studies.truth import figure, report, study

    torch.set_num_threads(1)
    out = arguments.out or (None if arguments.quick else Path("results/oracle"))
    started = datetime.now(UTC)
    size = study.QUICK if arguments.quick else study.Size()
    if arguments.temperature:
        size = replace(size, posteriors=tuple(arguments.temperature))
    if arguments.draws:
        size = replace(size, draws=arguments.draws)
    # quantities are full of brackets, which markup would swallow
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else report.WIDTH)
    with console.status("problems") as status:
        rows = list(study.rows(size, told=status.update))
    report.show(rows, console)
    made = manifest(["python", "-m", "studies.oracle", *words], started=started, workers=1, backend="serial")
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            report.write(rows, out / "rows.json")
            written = figure.draw(rows, out)
            (out / "manifest.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
            console.print("\n".join(["wrote", *(f"  {path}" for path in (out / "rows.json", *written))]))
        if arguments.json is not None:
            report.write(rows, arguments.json)
    except OSError as error:
        print(f"cannot write {error.filename}: {error.strerror}; choose another --out or --json", file=sys.stderr)
        return STORAGE
    return NOT_FOUND if any(row.holds is False for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.oracle",
        description="Measure every method's gradients and learnt laws against exact answers, all networks enumerated.",
        epilog="Exit codes: 0 all that theory says was found, 1 something was not, 2 usage, 4 storage.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="rows, figure and manifest (default: results/oracle; with --quick: nowhere)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="the rows as one JSON list, besides")
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=float,
        nargs="+",
        help="posterior temperatures, all methods at the first (default: 1 0.25 4)",
    )
    parser.add_argument("--draws", metavar="N", type=int, help="gradients an estimator is measured by (default: 20000)")
    parser.add_argument("--quick", action="store_true", help="a small study of the same parts, for tests")
    return parser


if __name__ == "__main__":
    sys.exit(main())
