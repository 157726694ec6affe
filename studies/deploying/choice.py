"""Which record of a study is deployed: by method, problem and settings, the lowest seed or the best on validation.

Nothing here looks at a test score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studies.runner.cells import canonical
from studies.runner.command import counted
from studies.runner.records import Record
from studies.runner.request import Stop, nearest


class Unusable(Stop):
    """What was asked for is not there or cannot be deployed; the message says what is there, or the way out."""

    code = 2


@dataclass(frozen=True)
class Asked:
    """What to deploy. problem, method None: the only one there; with `best`, the best of all methods.

    where: settings as typed, "network.activation=sign".
    """

    folder: Path
    problem: str | None = None
    method: str | None = None
    seed: int | None = None
    best: bool = False
    prediction: str = "mode"
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A finished record and its entry for the prediction rule; among: how many records could have been chosen.

    taken: options that were not given, as they were taken, "--problem digits".
    """

    record: Record
    prediction: Mapping[str, Any]
    among: int
    taken: tuple[str, ...] = ()

    @property
    def validation(self) -> Mapping[str, float]:
        """Metrics of the rule on the validation split."""
        found: Mapping[str, float] = self.prediction["metrics"]["validation"]
        return found

    @property
    def epoch(self) -> str:
        """ "last", or "best" for the network of the epoch that validated best."""
        return str(self.prediction.get("epoch", "last"))  # records older than that choice are of the last


def choose(records: Sequence[Record], asked: Asked, written: Callable[[Record], float]) -> Choice:
    """The record asked for. written: when a record was written, to tell two runs of one cell apart.

    Raises Unusable with what there is instead.
    """
    if not records:
        raise Unusable(
            f"no records in {asked.folder}; run a study there first (python -m studies.compare --out {asked.folder}), "
            "or name its folder with --from"
        )
    found, folder = records, f"in {asked.folder}"
    if asked.problem is not None:
        found = _named(found, "problem", asked.problem, folder)
    if asked.method is not None:
        found = _named(found, "method", asked.method, f"on {asked.problem} {folder}" if asked.problem else folder)
    for text in asked.where:
        found = _matching(found, text)
    if asked.seed is not None:
        found = _named(found, "seed", asked.seed, "of these cells")
    found = _finished(found)
    known = _only_one(found, asked)
    choices = _predicting(found, known)
    if known.best:
        chosen = _best(choices, known)
    else:
        one = _one_configuration(choices, known)
        chosen = min(one, key=lambda choice: (choice.record["seed"], -written(choice.record)))
    fields = (("problem", asked.problem, known.problem), ("method", asked.method, known.method))
    return replace(chosen, taken=tuple(f"--{name} {now}" for name, before, now in fields if now != before))


def settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Every setting of a cell as `--where` spells it: {"network.widths": "512,512", "ste.lr": "0.003", ...}."""
    shared = {f"problem.{name}": config[name] for name in ("batch", "schedule")}
    network = {f"network.{name}": value for name, value in config["network"].items()}
    own = {f"{config['method']}.{name}": value for name, value in config["hyperparameters"].items()}
    best = {"track_best": config.get("track_best", False)}
    flat = {**network, **own, **shared, **config["budget"], "device": config["device"], **best}
    return {name: _spelt(value) for name, value in flat.items()}


def _named(records: Sequence[Record], field: str, wanted: object, where: str) -> list[Record]:
    found = [record for record in records if record[field] == wanted]
    if not found:
        there = [str(value) for value in dict.fromkeys(record[field] for record in records)]
        close = nearest(str(wanted), there) if isinstance(wanted, str) else ""
        raise Unusable(f"--{field} {wanted}: no such {field} {where}.{close} There: {', '.join(sorted(there))}")
    return found


def _matching(records: Sequence[Record], text: str) -> list[Record]:
    """Those of the setting `text`, "network.activation=sign"."""
    name, equals, value = (part.strip() for part in text.partition("="))
    values = [settings(record["config"]).get(name) for record in records]
    if not equals or all(v is None for v in values):
        known = list(dict.fromkeys(key for record in records for key in settings(record["config"])))
        raise Unusable(
            f"--where {text}: write SETTING=VALUE with a setting of these cells.{nearest(name, known)} "
            f"Settings: {', '.join(known)}"
        )
    found = [r for r, v in zip(records, values, strict=True) if v is not None and _same(v, value)]
    if not found:
        there = sorted({v for v in values if v is not None})
        raise Unusable(f"--where {text}: no such record; {name} is {' or '.join(there)} there")
    return found


def _finished(records: Sequence[Record]) -> list[Record]:
    finished = [record for record in records if record["status"] == "finished"]
    if not finished:
        lines = [
            f"  {r['problem']} / {r['method']} / seed {r['seed']}  {r['status']}: {r['reason']}" for r in records[:5]
        ]
        more = [f"  and {len(records) - 5} more"] if len(records) > 5 else []
        raise Unusable("\n".join(["no such cell has finished:", *lines, *more, "run the study again"]))
    return finished


def _only_one(records: Sequence[Record], asked: Asked) -> Asked:
    """With problem and method, where only one is there. Raises Unusable: all that is missing, and all there is."""
    there: dict[str, dict[str, None]] = {}
    for record in records:
        there.setdefault(record["problem"], {})[record["method"]] = None
    methods = list(dict.fromkeys(name for names in there.values() for name in names))
    several = {"--problem": len(there) > 1, "--method": len(methods) > 1 and not asked.best}
    missing = [option for option, more in several.items() if more]  # one that was given left no more than one
    if missing:
        lines = [f"  {problem}: {', '.join(sorted(names))}" for problem, names in sorted(there.items())]
        best = ["or --best instead of --method, for the best network of binary weights"] * several["--method"]
        head = f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} needed; finished in {asked.folder}:"
        raise Unusable("\n".join([head, *lines, *best]))
    method = asked.method if asked.best else methods[0]
    return replace(asked, problem=next(iter(there)), method=method)


def _predicting(records: Sequence[Record], asked: Asked) -> list[Choice]:
    """Those that hold the prediction rule; of all methods, those whose weights then are not real."""
    entries = [(record, entry) for record in records for entry in record["predictions"]]
    found = [(record, entry) for record, entry in entries if entry["prediction"] == asked.prediction]
    if not found:
        names = list(dict.fromkeys(entry["prediction"] for _, entry in entries))
        raise Unusable(
            f"--prediction {asked.prediction}: these cells do not have it.{nearest(asked.prediction, names)} "
            f"They have: {', '.join(names)}"
        )
    binary = [(record, entry) for record, entry in found if asked.method or entry["weight_bits"] < 32]
    if not binary:
        raise Unusable(f"no network of binary weights among the {counted(len(found), 'cell')} on {asked.problem}")
    return [Choice(record, entry, len(binary)) for record, entry in binary]


def _best(choices: Sequence[Choice], asked: Asked) -> Choice:
    scored = [choice for choice in choices if choice.validation.get("accuracy") is not None]
    if not scored:
        raise Unusable(f"no validation accuracy in these records of {asked.folder}; choose by --method and --seed")
    return min(scored, key=lambda c: (-c.validation["accuracy"], c.validation.get("nll") or 0.0, c.record["key"]))


def _one_configuration(choices: Sequence[Choice], asked: Asked) -> list[Choice]:
    groups: dict[bytes, list[Choice]] = {}
    for choice in choices:
        alike = {name: value for name, value in choice.record["config"].items() if name != "seed"}
        groups.setdefault(canonical(alike), []).append(choice)
    if len(groups) > 1:
        lines = "\n".join(_configurations(list(groups.values())))
        raise Unusable(
            f"{len(groups)} configurations of {asked.method} on {asked.problem} in {asked.folder}:\n{lines}\n"
            "choose with --where SETTING=VALUE, or take the best validation accuracy with --best"
        )
    return next(iter(groups.values()))


def _configurations(groups: Sequence[Sequence[Choice]]) -> Iterator[str]:
    """A line a configuration: the settings in which they differ, seeds, mean validation accuracy."""
    spelt = [settings(group[0].record["config"]) for group in groups]
    names = list(dict.fromkeys(name for one in spelt for name in one))
    differing = [name for name in names if len({one.get(name) for one in spelt}) > 1]
    for group, one in zip(groups, spelt, strict=True):
        own = " ".join(f"{name}={one[name]}" for name in differing if name in one)
        seeds = ", ".join(str(seed) for seed in sorted({choice.record["seed"] for choice in group}))
        mean = sum(choice.validation["accuracy"] or 0.0 for choice in group) / len(group)
        yield f"  {own}  (seeds {seeds}; validation {100 * mean:.2f} %)"


def _spelt(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(_spelt(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _same(spelt: str, typed: str) -> bool:
    """Whether both are one value: the same text, or the same number ("1e-3" and "0.001")."""
    try:
        return spelt == typed or float(spelt) == float(typed)
    except ValueError:
        return spelt.replace(" ", "").lower() == typed.replace(" ", "").lower()
