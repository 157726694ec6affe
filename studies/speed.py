"""Times a training step of every method, and its peak memory: `python -m studies.speed`.

One process, one thread, interleaved shuffled rounds, medians; ratios to our fastest STE and to full precision. Exit
codes: 0 done, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

QUICK = {"networks": ["784-256-10"], "methods": ["full-precision", "ste"], "rounds": 2, "steps": 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (None: the process's own) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(words)
    import torch  # late, as the rest: --help does not wait for it

    import methods
    from core import extension
    from studies.runner import machine
    from studies.speeding import memory, report, steps

    if arguments.quick:
        for key, value in QUICK.items():
            setattr(arguments, key, value)
    networks, names = arguments.networks or list(steps.NETWORKS), arguments.methods or list(methods.names())
    for key, given, known in (("network", networks, steps.NETWORKS), ("method", names, methods.names())):
        if unknown := [name for name in given if name not in known]:
            print(f"unknown {key} {unknown[0]!r}; available: {', '.join(known)}", file=sys.stderr)
            return 2
    torch.set_num_threads(1)
    print(
        f"speed: {extension.info()}\n{machine.cpu()}, load {machine.load():.1f}, torch {torch.__version__}", flush=True
    )
    ms, peak = {}, {}
    try:
        for network in networks:
            chosen = steps.entries(network, names)
            print(f"{network}: {len(chosen)} entries, {arguments.rounds} rounds", flush=True)
            ms |= steps.timed(chosen, rounds=arguments.rounds, steps=arguments.steps)
            peak |= memory.peaks_mb(chosen)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    rows = report.frame(ms, peak)
    print(report.table(rows))
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(arguments.out / "speed.csv", index=False)
    facts = {"command": ["python", "-m", "studies.speed", *words], "native": str(extension.info()), **machine.facts()}
    (arguments.out / "machine.json").write_text(json.dumps(facts | {"torch": torch.__version__}, indent=1) + "\n")
    written = [arguments.out / "speed.csv", arguments.out / "machine.json", *report.draw(rows, arguments.out)]
    if arguments.json:
        listed = json.loads(rows[list(report.COLUMNS)].to_json(orient="records"))
        arguments.json.write_text(json.dumps(listed, indent=1) + "\n")
        written.append(arguments.json)
    print("\n".join(["wrote", *(f"  {path}" for path in written)]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m studies.speed",
        description="Time a training step of every method and its peak memory, on one thread.",
        allow_abbrev=False,
    )
    parser.add_argument("--networks", type=_names, metavar="A,B", help="of 784-256-10, 784-512-512-10, lenet")
    parser.add_argument("--methods", type=_names, metavar="A,B", help="default: all")
    parser.add_argument("--rounds", type=_positive, default=15, help="timed rounds; one more warms up (%(default)s)")
    parser.add_argument("--steps", type=_positive, default=10, help="steps of an entry in a round (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/speed"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a list of objects")
    parser.add_argument("--quick", action="store_true", help="one small network, two methods, two rounds: a check")
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 (got {value})")
    return value


if __name__ == "__main__":
    sys.exit(main())
