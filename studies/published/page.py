"""The parity page: one Markdown file with the table of every board, what ours spent, the sources, how it was made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from studies.analysis.tidy import Record
from studies.published.numbers import SOURCES, TAGS
from studies.published.protocols import HELD_OUT, Board, Planned, Protocol, steps
from studies.runner.cells import canonical
from studies.runner.command import counted

SCORED_ON = 10_000  # test images, of MNIST and of CIFAR-10
READING = f"""\
Test accuracy in percent. *ours, last*: the network at the end of training, our primary number. *ours, best validation*:
the network of the first epoch with the highest validation accuracy of the mode rule; both were scored in one read of
the test labels, and no test label chose anything. `±` is a standard deviation over runs (ours with n − 1); with one
seed there is none. On {SCORED_ON:,} test images an accuracy of 98.5 % has a standard error of 0.12 points, one of 90 %
of 0.30: smaller differences between two rows say nothing. Published numbers carry the tag of how they were come by;
a row without one is a method or a prediction rule for which none was found. *differs* names the settings in which our
cell departs from the published recipe, ours first, and what was not found stated there. Everywhere ours also anneals
the rate by the step, has no warm-up, no augmentation, one shift and scale for all channels, and re-estimates batch
norm."""


def page(
    protocol: Protocol,
    table: pd.DataFrame,
    planned: Sequence[Planned],
    records: Sequence[Record],
    manifest: Mapping[str, Any],
) -> str:
    """The page, from `comparison` of the same plan and records."""
    parts = [f"# Parity: published numbers beside ours ({protocol.label})", _notice(protocol), READING]
    parts.append(f"![test accuracy, published and ours, {protocol.label}](figures/parity.png)")
    for board in protocol.boards:
        if not (mine := _of_board(planned, records, board)):
            continue
        parts += [
            f"## {board.title} ({protocol.label})",
            _setup(board, mine),
            "\n".join(_numbers(table[table["board"] == board.name])),
            "What ours spent, a seed:",
            "\n".join(_spent(board, mine)),
        ]
    parts += ["## Sources", "\n".join(_sources(table)), "## Made by", _made(manifest)]
    return "\n\n".join(parts) + "\n"


def _notice(protocol: Protocol) -> str:
    if protocol.name == "full":
        return "The papers' networks, epochs and batches, without augmentation; see *differs*."
    return (
        f"**{protocol.label.capitalize()}: these are not the papers' runs.** Networks or epochs are smaller so that "
        "all of it runs on two cores in minutes; every schedule is annealed to zero inside its own budget. The numbers "
        "show how the methods do at this size and which rules lose what; they neither confirm nor refute a paper's."
    )


def _of_board(planned: Sequence[Planned], records: Sequence[Record], board: Board) -> list[Record]:
    own = {canonical(each.cell.config()) for each in planned if each.board is board}
    return [record for record in records if canonical(record["config"]) in own]


def _setup(board: Board, records: Sequence[Record]) -> str:
    config = records[0]["config"]
    seeds = len({record["seed"] for record in records})
    return (
        f"Ours: {config['problem']}, network {_options(config['network'])}; {counted(board.epochs, 'epoch')} of batch "
        f"{board.batch} ({steps(board):,} steps), {board.schedule} schedule to zero, {HELD_OUT[board.problem]:,} "
        f"training images held out for validation, no augmentation; {counted(seeds, 'seed')}, "
        f"{config['device']}."
    )


def _numbers(rows: pd.DataFrame) -> Iterator[str]:
    yield "| method | prediction | published | its epoch | source | ours, last | ours, best validation | differs |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows.to_dict("records"):
        published, epoch, source = "none found", "", ""
        if pd.notna(row["published"]):
            published = f"{row['label']}: {_accuracy(row['published'], row['published_sd'], row['published_runs'])}"
            epoch = row["published_epoch"] if pd.notna(row["published_epoch"]) else "not stated"
            source = f"{row['source']} [{row['tag']}]"
        cells = [row["method"], _rule(row), published, epoch, source, *_ours(row), _differs(row)]
        yield "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _rule(row: Mapping[str, Any]) -> str:
    return row["prediction"] or "no rule of its kind"


def _ours(row: Mapping[str, Any]) -> tuple[str, str]:
    if not row["n"]:
        return row["failed"] or "not run", ""
    return _accuracy(row["last"], row["last_sd"]), _accuracy(row["best"], row["best_sd"])


def _differs(row: Mapping[str, Any]) -> str:
    if pd.isna(row["published"]):
        return ""
    parts = [row["differs"] or "nothing known", f"not stated there: {row['unknown']}" if row["unknown"] else ""]
    if row["n"] and row["failed"]:
        parts.append(f"without {row['failed']}")
    return "; ".join(part for part in parts if part)


def _spent(board: Board, records: Sequence[Record]) -> Iterator[str]:
    yield "| method | steps | passes | training s | whole cell s | best validation epoch | hyperparameters |"
    yield "|---|---|---|---|---|---|---|"
    for method in board.methods:
        found = [record for record in records if record["method"] == method]
        if not found:
            continue
        finished = [record for record in found if record["status"] == "finished"]
        yield (
            f"| {method} | {_count(finished, 'spent', 'steps')} | {_count(finished, 'spent', 'passes')} "
            f"| {_count(finished, 'seconds', 'train')} | {_count(finished, 'seconds', 'total')} "
            f"| {_epochs(finished)} | {_options(found[0]['config']['hyperparameters'])} |"
        )


def _sources(table: pd.DataFrame) -> Iterator[str]:
    cited = set(table["source"].dropna())
    yield from (f"- {name}: {text}." for name, text in SOURCES.items() if name in cited)
    tags = set(table["tag"].dropna())
    yield from (f"- [{tag}]: {text}." for tag, text in TAGS.items() if tag in tags)


def _made(manifest: Mapping[str, Any]) -> str:
    machine, source = manifest["machine"], manifest["source"]
    commit = f"commit {source['commit'][:12]}{' with changes' if source['dirty'] else ''}" if source["commit"] else "?"
    return (
        f"`{manifest['command']}`, {commit}, {manifest['started']} to {manifest['ended']}, torch "
        f"{manifest['versions']['torch']}; {machine['cpu']}, {machine['cores']} cores, {manifest['workers']} "
        f"workers of one thread, load {machine['load']:.1f} at the end. Seconds are of that machine as busy as it was."
    )


def _accuracy(value: float, sd: float | None, runs: float | None = None) -> str:
    if pd.isna(value):
        return "–"
    spread = "" if sd is None or pd.isna(sd) else f" ± {sd:.2f}"
    return f"{value:.2f}{spread}" + ("" if runs is None or pd.isna(runs) else f" ({runs:.0f} runs)")


def _count(records: Sequence[Record], part: str, name: str) -> str:
    values = [record[part][name] for record in records if record[part][name] is not None]
    return f"{sum(values) / len(values):,.0f}" if values else "–"


def _epochs(records: Sequence[Record]) -> str:
    return ", ".join(str(record["best_epoch"]["epoch"]) for record in records if record["best_epoch"]) or "–"


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(value if key == "name" else f"{key}={_spelt(value)}" for key, value in options.items())


def _spelt(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def _escaped(cell: str) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")
