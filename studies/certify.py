"""How far the neurons of real layers are from the best possible signs, by certificate: `python -m studies.certify`.

Exit codes: 0 done, 1 a bound is not proven or does not hold (the last lines say which), 2 usage or missing data,
4 storage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

DOUBTFUL, USAGE, STORAGE = 1, 2, 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    import torch  # late, as the rest: --help does not wait for torch, pandas and matplotlib
    from rich.console import Console

    from core.problems import ProblemUnavailable
    from studies.certifying import figure, report, study
    from studies.certifying.layers import QUICK, WIDTHS, at_hand
    from studies.certifying.training import trainable
    from studies.runner.manifest import manifest

    torch.set_num_threads(1)
    able, refused = trainable()
    asked = arguments.problems
    if asked is None:
        asked = [name for name in at_hand(arguments.data_dir) if name in QUICK or not arguments.quick]
    for key, given, known in (("problem", asked, WIDTHS), ("method", arguments.methods or (), able)):
        if unknown := [name for name in given if name not in known]:
            print(f"--{key}s: {unknown[0]!r} is not among {', '.join(known)}", file=sys.stderr)
            return USAGE
    size = study.Size(
        neurons=arguments.neurons,
        seconds=arguments.seconds,
        gap=arguments.gap,
        names=None if arguments.methods is None else tuple(arguments.methods),
        seed=arguments.seed,
    )
    if arguments.quick:
        size = study.quick(size)
    started, out = datetime.now(UTC), arguments.out or (None if arguments.quick else Path("results/certify"))
    # quantities are full of brackets, which markup would swallow
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else report.WIDTH)
    try:
        with console.status("") as status:
            told = status.update
            found = list(study.study(asked, size, arguments.data_dir, workers=arguments.workers, told=told))
    except ProblemUnavailable as error:
        print(error, file=sys.stderr)
        return USAGE
    report.show(found, refused if arguments.methods is None else [], console)
    made = manifest(
        ["python", "-m", "studies.certify", *words], started=started, workers=arguments.workers, backend="processes"
    )
    try:
        written = []
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            written = [*report.write(found, out), *figure.draw(found, out), out / "manifest.json"]
            written[-1].write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        if arguments.json is not None:
            arguments.json.write_text(report.listed([row.plain() for layer in found for row in layer.rows]))
            written.append(arguments.json)
        if written:
            console.print("\n".join(["wrote", *(f"  {path}" for path in written)]))
    except OSError as error:
        print(f"cannot write {error.filename}: {error.strerror}; choose another --out or --json", file=sys.stderr)
        return STORAGE
    return DOUBTFUL if any(layer.doubts() for layer in found) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.certify",
        description="Certify how far the binary neurons of real layers are from the best possible signs.",
        epilog="On two idle cores it takes about two minutes, three with mnist, half of one with --quick. Exit codes: "
        "0 done, 1 a bound is not proven or does not hold, 2 usage or missing data, 4 storage.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--problems", type=_names, metavar="A,B", help="of digits, breast-cancer, mnist (default: all at hand)"
    )
    parser.add_argument("--methods", type=_names, metavar="A,B", help="default: all that can train such a layer")
    parser.add_argument("--neurons", type=_positive, default=16, help="of a layer, at most (%(default)s)")
    parser.add_argument(
        "--seconds", type=_finite, default=1.0, help="CPU seconds of a method on a layer, after tuning (%(default)g)"
    )
    parser.add_argument("--gap", type=_finite, default=1e-4, help="of the bounds to the relaxation (%(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (%(default)s)")
    parser.add_argument("--workers", type=_positive, default=2, help="processes, one thread each (%(default)s)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="default: BITRELAX_DATA")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: results/certify; with --quick: nowhere")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the rows as one JSON list, besides")
    parser.add_argument("--quick", action="store_true", help="two neurons a layer, short runs, no mnist: a check")
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 (got {value})")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be finite and > 0 (got {text})")
    return value


if __name__ == "__main__":
    sys.exit(main())
