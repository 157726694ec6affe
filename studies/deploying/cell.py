"""The network of a record, built again: its state, its statistics, and the very networks that its rule averaged.

The network is the recorded one where its validation scores are: labels of that split are open. Test labels stay sealed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

import methods
from core import metrics, problems
from core.interface import Predictor, Reading
from core.predict import logits
from core.statistics import Statistics
from studies.deploying.choice import Choice, Unusable
from studies.runner.built import Built, build
from studies.runner.cells import Cell
from studies.runner.provenance import provenance
from studies.runner.records import Record, Store
from studies.runner.verdicts import changes

BEST = " @ best validation"
SAME_NLL = 1e-4  # relative: float32 sums in another order move a mean of logarithms by less, another network by more


@dataclass(frozen=True)
class Trained:
    """A recorded network. name: of the prediction as the record has it; changed: what its sources differ in by now."""

    record: Record
    name: str
    built: Built
    rule: Predictor
    statistics: tuple[Statistics, ...]
    changed: tuple[str, ...]

    def rng(self) -> torch.Generator:
        """The generator from which the rule draws its networks, at its start."""
        return self.built.rng("prediction", self.rule.name)

    @cached_property
    def readings(self) -> tuple[Reading, ...]:
        """Of every network that the rule averages: the ones that the record's scores are of."""
        return tuple(self.rule.readings(self.built.model, self.rng()))

    @torch.no_grad()
    def scores(self, inputs: Tensor) -> Tensor:
        """Logits (N, C) of torch on the CPU in float32: what every backend is held to."""
        total: Tensor | None = None
        for reading, statistics in zip(self.readings, self.statistics, strict=True):
            one = logits(self.built.model, reading, statistics, inputs, self.rng(), scores=self.rule.scores)
            total = one if total is None else total + one
        assert total is not None, "a rule averages at least one network"
        return total / self.rule.networks


def restore(store: Store, choice: Choice, data_dir: Path | None) -> Trained:
    """The network of `choice`, on the CPU. Raises Unusable, and StorageError where its state is not there or damaged.

    Unusable: method, problem or data are not those of the record, the state is of another architecture, or the network
    scores otherwise on the validation split.
    """
    record = choice.record
    cell = Cell(**record["config"])
    problem = _problem(cell.problem, data_dir, record)
    state = store.state(record)
    name = str(choice.prediction["prediction"])
    try:
        method = methods.make(cell.method, **cell.hyperparameters)
        built = build(replace(cell, device="cpu"), method, problem)
        built.model.load_state_dict(state["best"] if choice.epoch == "best" else state["model"])
        statistics = tuple(_statistics(kept) for kept in state["statistics"][name])
    except methods.MethodError as error:
        raise Unusable(f"{cell.label()}: {error}") from error
    except (ValueError, RuntimeError, KeyError) as error:  # RuntimeError: load_state_dict's
        raise Unusable(
            f"{cell.label()}: its state does not fit the network as it is built now\n"
            f"  {_short(error)}\n{_run_again(record, _changed(cell, record, problem.checksums))}"
        ) from error
    rule = _rule(built, name, cell)
    if len(statistics) != rule.networks:
        raise Unusable(
            f"{cell.label()}: {name} has the statistics of {len(statistics)} networks, and the rule averages "
            f"{rule.networks}\n{_run_again(record, [])}"
        )
    return Trained(record, name, built, rule, statistics, tuple(_changed(cell, record, problem.checksums)))


def check_validation(trained: Trained, choice: Choice) -> float:
    """That the network scores on the validation split as the record says; the accuracy. Raises Unusable."""
    validation = trained.built.problem.validation
    scores = trained.scores(validation.inputs)
    found, kept = metrics.nll(scores, validation.labels), choice.validation["nll_untempered"]
    if not math.isclose(found, kept, rel_tol=SAME_NLL, abs_tol=SAME_NLL):
        raise Unusable(
            f"the network built from record {trained.record['key']} is not the recorded one: its validation nll is "
            f"{found:.6g}, the record says {kept:.6g}\n{_run_again(trained.record, trained.changed)}"
        )
    return metrics.accuracy(scores, validation.labels)


def _problem(name: str, data_dir: Path | None, record: Record) -> problems.Problem:
    try:
        problem = problems.load(name, data_dir)
    except (problems.UnknownProblem, problems.ProblemUnavailable) as error:
        raise Unusable(str(error)) from error
    kept = record["provenance"]["data"]
    if kept and kept != dict(problem.checksums):
        files = [file for file in {*kept, *problem.checksums} if kept.get(file) != problem.checksums.get(file)]
        raise Unusable(
            f"--problem {name}: the data are not those of the record ({', '.join(sorted(files))} changed); "
            "name the folder of the others with --data-dir, or run the study again"
        )
    return problem


def _statistics(kept: Mapping[str, Tensor]) -> Statistics:
    means = {key: value for key, value in kept.items() if key.endswith(".mean")}
    # states older than moment propagation have no spread: it was 0
    spreads = {key.removesuffix("mean") + "spread": torch.zeros_like(value) for key, value in means.items()}
    return Statistics.from_state({**spreads, **kept})


def _rule(built: Built, name: str, cell: Cell) -> Predictor:
    rules = {rule.name: rule for rule in built.method.predictors}
    wanted = name.removesuffix(BEST)
    if wanted not in rules:
        raise Unusable(f"--prediction {name}: {cell.method} has no such rule by now; it has {', '.join(rules)}")
    rule = rules[wanted]
    if rule.networks > 1 and cell.device != "cpu":
        raise Unusable(
            f"--prediction {name}: its networks were drawn on {cell.device}, whose random numbers the CPU cannot "
            "repeat; use --prediction mode, or train with --device cpu"
        )
    return rule


def _changed(cell: Cell, record: Record, data: Mapping[str, str]) -> list[str]:
    """What the record's sources differ in by now, a phrase each."""
    return changes(record, record["config"], provenance(cell, data).as_dict())


def _run_again(record: Record, changed: Sequence[str]) -> str:
    why = f"since the record was written: {'; '.join(changed)}. " if changed else ""
    return f"{why}Run its cell again ({record['problem']} / {record['method']} / seed {record['seed']})"


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])
