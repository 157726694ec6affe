"""One cell from start to end: load, build, train, predict, score. Writes no file but its checkpoint.

Seeds leave the method out, so methods share initial signs, data order and noise and are compared in pairs. Watching
and predicting are off the training clock and draw from generators of their own, so they change no training.
"""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import methods
from core import metrics, problems
from core.interface import Method, Predictor
from core.layers import Network
from core.predict import Prediction, predict
from studies.runner import machine
from studies.runner.audit import audited, one_bit_inputs
from studies.runner.best import BestEpoch
from studies.runner.built import Built, build
from studies.runner.cells import Cell
from studies.runner.checkpoint import Checkpoint, CheckpointRefused
from studies.runner.propagation import propagation_error
from studies.runner.records import StorageError
from studies.runner.training import Body, train


def measure(cell: Cell, data_dir: Path | None, checkpoint: Checkpoint | None = None) -> tuple[Body, dict[str, Any]]:
    """What a record says of the cell (status, numbers, seconds), and its state: parameters and statistics.

    Whatever goes wrong inside the cell is its status; the state is empty unless it finished. Runs on one torch thread
    with denormals flushed to zero, whatever the process is set to: so `serial` and `processes` agree bit for bit.
    checkpoint: continued from where there is one, and written while the cell trains. Raises StorageError when that
    fails.
    """
    with _worker_numerics():
        return _reported(cell, data_dir, checkpoint)


def nothing_measured() -> Body:
    """The body of a record before anything is known but the machine."""
    return {
        "status": None,
        "reason": None,
        "declared": None,
        "spent": None,
        "predictions": [],
        "weights": None,
        "best_epoch": None,
        "curve": [],
        "seconds": {"before": 0.0, "train": None, "predict": None, "total": None},
        "peak_memory_mb": None,
        "machine": {
            "threads": 1,
            "load": machine.load(),
            "cpu": machine.cpu(),
            "cores": machine.cores(),
            "continued": 0,
        },
        "test_reads": [],
    }


@contextlib.contextmanager
def _worker_numerics() -> Iterator[None]:
    threads = torch.get_num_threads()
    flushed = (torch.tensor(1e-40) * 1).item() == 0  # torch can set this mode but not tell it
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushed)


def _reported(cell: Cell, data_dir: Path | None, checkpoint: Checkpoint | None) -> tuple[Body, dict[str, Any]]:
    machine.reset_peak_memory()
    body = nothing_measured()
    state: dict[str, Any] = {}
    started = time.perf_counter()
    try:
        state = _measured(cell, data_dir, checkpoint, body)
    except problems.ProblemUnavailable as error:
        body |= {"status": "unavailable", "reason": _first_line(error)}
    except CheckpointRefused as error:
        body |= {"status": "failed", "reason": str(error)}
    except StorageError:  # the disk's fault, not the cell's: the run stops, and its last checkpoint continues it
        raise
    except Exception as error:  # a method's bug is its row; the other cells go on
        reason = f"{type(error).__name__}: {_first_line(error)}"
        body |= {"status": "failed", "reason": reason, "predictions": [], "traceback": traceback.format_exc()}
    body["seconds"]["total"] = body["seconds"]["before"] + time.perf_counter() - started
    body["peak_memory_mb"] = machine.peak_memory_mb()
    return _without_nan(body), state


def _measured(cell: Cell, data_dir: Path | None, checkpoint: Checkpoint | None, body: Body) -> dict[str, Any]:
    """Fill `body` as the cell proceeds, so that what is known stays when it ends early; returns the state."""
    method = methods.make(cell.method, **cell.hyperparameters)
    problem = problems.load(cell.problem, data_dir)
    if (reason := method.supports(problem)) is not None:
        body |= {"status": "skipped", "reason": reason}
        return {}
    built = build(cell, method, problem.to(cell.device))
    body["declared"] = _declared(method, built.model)
    fitted, best = train(built, body, checkpoint)
    if fitted.diverged is not None:
        body |= {"status": "diverged", "reason": str(fitted.diverged)}
        return {}
    started = time.perf_counter()
    answers = _answers(built, best, fitted.steps)
    body["seconds"]["predict"] = time.perf_counter() - started
    if infinite := [a.name for a in answers if not all(s.isfinite().all() for s in a.prediction.scores)]:
        body |= {"status": "diverged", "reason": f"scores not finite after training; rules: {', '.join(infinite)}"}
        return {}
    body["predictions"] = _score(built, answers)
    body["test_reads"] = built.problem.test.reads
    body["weights"] = _weights(built.model)
    if (error := propagation_error(built)) is not None:
        body["propagation_error"] = error
    body["best_epoch"] = None if best is None else best.summary()
    body["status"] = "finished"
    return _state(built.model, answers, best)


@dataclass(frozen=True)
class _Answer:
    """What one rule says of the network of one epoch. name: the rule's, with the epoch where it is not the last."""

    name: str
    epoch: Literal["last", "best"]
    rule: Predictor
    prediction: Prediction


def _answers(built: Built, best: BestEpoch | None, steps: int) -> list[_Answer]:
    """Of every rule at the last epoch, and then at the best one where it was tracked: the same draws for both."""
    rules = built.method.predictors
    last = [_Answer(rule.name, "last", rule, _predict(built, rule)) for rule in rules]
    if best is None:
        return last
    if best.step == steps:  # the last epoch is the best one
        predictions = [answer.prediction for answer in last]
    else:
        with best.applied(built.model):
            predictions = [_predict(built, rule) for rule in rules]
    return last + [
        _Answer(f"{rule.name} @ best validation", "best", rule, prediction)
        for rule, prediction in zip(rules, predictions, strict=True)
    ]


def _predict(built: Built, rule: Predictor) -> Prediction:
    problem = built.problem
    sets = (problem.validation.inputs, problem.test.inputs)
    rng = built.rng("prediction", rule.name)
    with one_bit_inputs(built.model, rule):
        return predict(built.model, audited(rule, built.own), problem.train.inputs, sets, rng)


def _score(built: Built, answers: list[_Answer]) -> list[dict[str, Any]]:
    """One output temperature an answer, fitted on validation; the test labels are read once, for all answers."""
    labels = built.problem.validation.labels
    temperatures = {a.name: metrics.fit_temperature(a.prediction.scores[0], labels) for a in answers}

    def scored(name: str, scores: Tensor, labels: Tensor) -> dict[str, float]:
        tempered = metrics.summary(metrics.scores_at(scores, temperatures[name]), labels)
        return {**tempered, "nll_untempered": metrics.nll(scores, labels)}

    test = built.problem.test.score({a.name: a.prediction.scores[1] for a in answers}, scored)
    return [
        {
            "prediction": a.name,
            "epoch": a.epoch,
            "networks": a.rule.networks,
            "weight_bits": a.rule.weight_bits,
            "activation_bits": a.rule.activation_bits or built.model.activation_bits,
            "temperature": temperatures[a.name],
            "metrics": {"validation": scored(a.name, a.prediction.scores[0], labels), "test": test[a.name]},
        }
        for a in answers
    ]


def _declared(method: Method, model: Network) -> dict[str, Any]:
    return {
        "weight_bits": method.weight_bits,
        "activation_bits": model.activation_bits,
        "network": model.describe(),
        "teacher": method.teacher,
        "normalisation": method.normalisation,
        "draws": method.draws,
    }


def _weights(model: Network) -> dict[str, Any]:
    described = model.describe()
    return {"decided": metrics.decided_share(model), "binary": described["binary"], "real": described["real"]}


def _state(model: Network, answers: list[_Answer], best: BestEpoch | None) -> dict[str, Any]:
    """Parameters and, by prediction, statistics; `best`: the parameters of the best epoch where it was tracked."""
    state = {
        "model": _on_cpu(model.state_dict()),
        "statistics": {a.name: [_on_cpu(s.state()) for s in a.prediction.statistics] for a in answers},
    }
    return state if best is None else {**state, "best": _on_cpu(best.state)}


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _without_nan(value: Any) -> Any:
    """Plain data with None for every number that JSON has no word for."""
    if isinstance(value, dict):
        return {name: _without_nan(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
