"""Which cells must run, and why: the records there are against the cells that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from core import problems
from studies.runner.cells import SAME_CELL, Cell, Provenance, key
from studies.runner.provenance import provenance
from studies.runner.records import Record, Store

FINAL = ("finished", "diverged", "crashed", "skipped")  # not run again under the same key


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a cell, and why. `key` names the record that stands for it: its own, or a stale one.

    cached: its record is there. missing: never run. changed: run before under other settings, sources or data; the
    reasons name each difference to the nearest old record. stale: the same, but the old record is kept; only for a
    record of the same settings. retry: the last attempt failed for a reason that may be gone, or the
    state it kept is not there.
    """

    cell: Cell
    key: str
    state: Literal["cached", "missing", "changed", "stale", "retry"]
    reasons: tuple[str, ...]
    provenance: Provenance

    @property
    def runs(self) -> bool:
        """Whether the cell is computed."""
        return self.state not in ("cached", "stale")


def examine(
    cells: Sequence[Cell], store: Store, data_dir: Path | None, *, reuse_stale: bool, keep_states: bool
) -> list[Verdict]:
    """A verdict for every cell. keep_states: a finished cell whose state is not there must run again.

    Reads records, sources and data; computes nothing, writes nothing but a quarantine."""
    records = store.read_all()
    data = {name: _checksums(name, data_dir) for name in {cell.problem for cell in cells}}
    # seeds and settings share a provenance; hashing the sources once for each of them is most of the time of a rerun
    alike = {_sources(cell): cell for cell in cells}
    now = {names: provenance(cell, data[cell.problem]) for names, cell in alike.items()}
    verdicts = [_verdict(cell, now[_sources(cell)], records, reuse_stale) for cell in cells]
    return [_with_state(verdict, store) for verdict in verdicts] if keep_states else verdicts


def _sources(cell: Cell) -> tuple[str, str, str]:
    """All of a cell that its provenance depends on."""
    return cell.method, cell.problem, cell.device


def _checksums(problem: str, data_dir: Path | None) -> Mapping[str, str]:
    try:
        return problems.checksums(problem, data_dir)
    except problems.ProblemUnavailable:
        return {}  # the cell itself will say so, as its status


def _verdict(cell: Cell, now: Provenance, records: Sequence[Record], reuse_stale: bool) -> Verdict:
    own = key(cell, now)
    config, sources = cell.config(), now.as_dict()
    rivals = [r for r in records if all(r["config"][name] == config[name] for name in SAME_CELL)]
    for record in rivals:
        if record["key"] == own and record["status"] in FINAL:
            return Verdict(cell, own, "cached", (record["status"],), now)
        if record["key"] == own:
            return Verdict(cell, own, "retry", (f"{record['status']} last time: {record['reason']}",), now)
    if not rivals:
        return Verdict(cell, own, "missing", ("no record",), now)
    nearest = min(rivals, key=lambda r: (r["status"] not in FINAL, len(changes(r, config, sources)), r["key"]))
    reasons = tuple(changes(nearest, config, sources))
    if reuse_stale and nearest["config"] == config and nearest["status"] in FINAL:
        return Verdict(cell, nearest["key"], "stale", reasons, now)
    return Verdict(cell, own, "changed", reasons, now)


def _with_state(verdict: Verdict, store: Store) -> Verdict:
    if verdict.state != "cached" or verdict.reasons != ("finished",):
        return verdict
    record = store.read(verdict.key)
    fault = "its record is gone" if record is None else store.state_fault(record)
    return verdict if fault is None else replace(verdict, state="retry", reasons=(fault,))


def changes(old: Mapping[str, Any], config: Mapping[str, Any], sources: Mapping[str, Any]) -> list[str]:
    """One phrase for each difference of `old`, which has `config` and `provenance`, from these; settings first."""
    settings = [f"{name} {before} -> {after}" for name, before, after in _differences(old["config"], config)]
    return settings + [
        _source_change(name, before, after, sources) for name, before, after in _differences(old["provenance"], sources)
    ]


def _source_change(name: str, before: Any, after: Any, sources: Mapping[str, Any]) -> str:
    match name.partition("."):
        case ("method_source", _, _):
            return f"{sources['method_module'].replace('.', '/')}.py changed"
        case ("core_source" | "solvers_source" as folder, _, _):
            return f"{folder.removesuffix('_source')}/ changed"
        case ("torch_version", _, _):
            return f"torch {before} -> {after}"
        case ("data", _, file):
            how = "not found" if after is ABSENT else "found" if before is ABSENT else "changed"
            return f"data {file} {how}"
    return f"{name.replace('_', ' ')} {before} -> {after}"


class _Absent:
    def __repr__(self) -> str:
        return "(none)"


ABSENT = _Absent()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, before, after) of every leaf that differs."""
    for name in [*new, *(name for name in old if name not in new)]:
        before, after = old.get(name, ABSENT), new.get(name, ABSENT)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}", before, after
