"""One cell from start to end: load, build, train, predict, score. Writes no file but its checkpoint.

Seeds leave the method out, so methods share initial signs, data order and noise and are compared in pairs. Watching
and predicting are off the training clock and draw from generators of their own, so they change no training.
"""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import methods
from core import metrics, problems
from core.claims import laws, real_parameters
from core.interface import Method, Predictor
from core.layers import Network
from core.predict import Prediction, predict
from studies.runner import machine
from studies.runner.audit import audited
from studies.runner.built import Built, build
from studies.runner.cells import Cell
from studies.runner.checkpoint import Checkpoint, CheckpointRefused
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
    fitted = train(built, body, checkpoint)
    if fitted.diverged is not None:
        body |= {"status": "diverged", "reason": str(fitted.diverged)}
        return {}
    started = time.perf_counter()
    predictions = {rule.name: _predict(built, rule) for rule in method.predictors}
    body["seconds"]["predict"] = time.perf_counter() - started
    if infinite := [name for name, p in predictions.items() if not all(s.isfinite().all() for s in p.scores)]:
        body |= {"status": "diverged", "reason": f"scores not finite after training; rules: {', '.join(infinite)}"}
        return {}
    body["predictions"] = _score(built, predictions)
    body["test_reads"] = built.problem.test.reads
    body["weights"] = _weights(built.model)
    body["status"] = "finished"
    return _state(built.model, predictions)


def _predict(built: Built, rule: Predictor) -> Prediction:
    problem = built.problem
    sets = (problem.validation.inputs, problem.test.inputs)
    return predict(
        built.model, audited(rule, built.own), problem.train.inputs, sets, built.rng("prediction", rule.name)
    )


def _score(built: Built, predictions: dict[str, Prediction]) -> list[dict[str, Any]]:
    """One output temperature a rule, fitted on validation; the test labels are read once, for all rules together."""
    labels = built.problem.validation.labels
    temperatures = {name: metrics.fit_temperature(p.scores[0], labels) for name, p in predictions.items()}

    def scored(name: str, scores: Tensor, labels: Tensor) -> dict[str, float]:
        tempered = metrics.summary(metrics.scores_at(scores, temperatures[name]), labels)
        return {**tempered, "nll_untempered": metrics.nll(scores, labels)}

    test = built.problem.test.score({name: p.scores[1] for name, p in predictions.items()}, scored)
    return [
        {
            "prediction": rule.name,
            "networks": rule.networks,
            "weight_bits": rule.weight_bits,
            "activation_bits": rule.activation_bits or built.model.activation_bits,
            "temperature": temperatures[rule.name],
            "metrics": {
                "validation": scored(rule.name, predictions[rule.name].scores[0], labels),
                "test": test[rule.name],
            },
        }
        for rule in built.method.predictors
    ]


def _declared(method: Method, model: Network) -> dict[str, Any]:
    return {
        "weight_bits": method.weight_bits,
        "activation_bits": model.activation_bits,
        "teacher": method.teacher,
        "normalisation": method.normalisation,
        "draws": method.draws,
    }


def _weights(model: Network) -> dict[str, Any]:
    return {
        "decided": metrics.decided_share(model),
        "binary": sum(math.prod(law.shape) for _, law in laws(model) if law.levels is not None),
        "real": sum(p.numel() for p in real_parameters(model)),
    }


def _state(model: Network, predictions: dict[str, Prediction]) -> dict[str, Any]:
    return {
        "model": {name: value.detach().cpu().clone() for name, value in model.state_dict().items()},
        "statistics": {
            rule: [{k: v.cpu() for k, v in s.state().items()} for s in p.statistics] for rule, p in predictions.items()
        },
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _without_nan(value: Any) -> Any:
    """Plain data with None for every number that JSON has no word for."""
    if isinstance(value, dict):
        return {name: _without_nan(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
