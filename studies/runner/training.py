"""Training a cell: prepared, or continued from its checkpoint; its learning curve; a checkpoint every so often.

A continued cell ends bit for bit as an undisturbed one. What `prepare` did is not done again where it left nothing but
the network's own state, which the checkpoint holds; where it returned modules or solvers it is, to have them built, and
what they held is then loaded.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from core import metrics
from core.fit import Epoch, Fitted, Loop, Run, fit
from core.interface import Prepared
from core.predict import logits, reestimate
from studies.runner.best import BestEpoch
from studies.runner.built import Built, generator
from studies.runner.checkpoint import Checkpoint

WATCHED_EXAMPLES = 1_000  # training examples that re-estimate the statistics behind a point of the curve
Body = dict[str, Any]
Kept = Mapping[str, Any]  # the content of a checkpoint


def train(built: Built, body: Body, checkpoint: Checkpoint | None) -> tuple[Fitted, BestEpoch | None]:
    """Train the cell's network; fills `curve`, `spent`, `seconds` and how often it was `continued` in the body, and
    `facts` where preparing found any.

    The best epoch is that of a cell which tracks it, None where no epoch was watched.
    Raises CheckpointRefused, and StorageError when a checkpoint cannot be written.
    """
    kept = None if checkpoint is None else checkpoint.load()
    started = time.perf_counter()
    prepared = _prepared(built, kept)
    watch = Watch(built, time.perf_counter() - started)
    run, loop = _run(built, prepared), Loop()
    if kept is not None:
        loop = _continued(kept, run, watch)
        body["seconds"]["before"] = kept["seconds"]
        body["machine"]["continued"] = kept["continued"] + 1
    body["curve"] = watch.curve
    if prepared.facts:
        body["facts"] = dict(prepared.facts)

    def pause(loop: Loop) -> None:
        if checkpoint is not None and checkpoint.due():
            seconds = body["seconds"]["before"] + time.perf_counter() - started
            checkpoint.save(
                {**_content(run, loop, watch), "seconds": seconds, "continued": body["machine"]["continued"]}
            )

    fitted = fit(run, watch=watch, pause=pause, loop=loop)
    n_train = run.budget.n_train
    body["spent"] = {"steps": fitted.steps, "passes": fitted.passes, "batch": run.budget.batch, "n_train": n_train}
    body["seconds"]["train"] = watch.preparing + fitted.seconds
    return fitted, watch.best if watch.best is not None and watch.best.epoch > 0 else None


def _run(built: Built, prepared: Prepared) -> Run:
    return Run(
        built.model,
        built.method,
        built.problem.train.inputs,
        built.problem.train.labels,
        built.budget,
        schedule=built.cell.schedule,
        order=generator(built.cell, "data order"),
        noise=built.rng("noise"),
        masks=built.rng("dropout"),
        prepared=prepared,
    )


@dataclass
class Watch:
    """Called at the end of every epoch: a point of the learning curve, and the best epoch of a cell that tracks it."""

    built: Built
    preparing: float  # seconds before the loop, part of the training time
    curve: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = self.built.rng("watching")
        self.modes = metrics.modes(self.built.model)
        self.best = BestEpoch() if self.built.cell.track_best else None

    def __call__(self, epoch: Epoch) -> None:
        before, self.modes = self.modes, metrics.modes(self.built.model)
        accuracy = self._accuracy()
        if self.best is not None:
            self.best.offer(epoch.epoch, epoch.step, accuracy, self.built.model)
        self.curve.append(
            {
                "epoch": epoch.epoch,
                "step": epoch.step,
                "seconds": self.preparing + epoch.seconds,
                "train_loss": epoch.train_loss,
                "validation_accuracy": accuracy,
                "flip_rate": metrics.flip_rate(before, self.modes),
                "decided": metrics.decided_share(self.built.model),
            }
        )

    @torch.no_grad()
    def _accuracy(self) -> float:
        model, problem = self.built.model, self.built.problem
        (reading,) = self.built.method.predictors[0].readings(model, self.rng)
        statistics = reestimate(model, reading, problem.train.inputs, self.rng, examples=WATCHED_EXAMPLES)
        scores = logits(model, reading, statistics, problem.validation.inputs, self.rng)
        return metrics.accuracy(scores, problem.validation.labels)


def _content(run: Run, loop: Loop, watch: Watch) -> dict[str, Any]:
    prepared = run.prepared
    return {
        "run": run.state_dict(),
        "loop": {"losses": list(loop.losses), "last_finite": loop.last_finite, "seconds": loop.seconds},
        "watch": {
            "preparing": watch.preparing,
            "curve": watch.curve,
            "rng": watch.rng.get_state(),
            "modes": list(watch.modes.values()),
            "best": None if watch.best is None else watch.best.state_dict(),
        },
        "prepared": {
            "steps": prepared.steps,
            "passes": prepared.passes,
            "facts": dict(prepared.facts),
            "again": bool(prepared.modules or prepared.solvers),
        },
    }


def _prepared(built: Built, kept: Kept | None) -> Prepared:
    if kept is None or kept["prepared"]["again"]:
        return built.prepared()
    left = kept["prepared"]
    return Prepared(steps=left["steps"], passes=left["passes"], facts=left.get("facts", {}))  # older ones had none


def _continued(kept: Kept, run: Run, watch: Watch) -> Loop:
    """Run and watch as they were; where the loop was."""
    run.load_state_dict(kept["run"])
    watch.preparing, watch.curve = kept["watch"]["preparing"], kept["watch"]["curve"]
    watch.rng.set_state(kept["watch"]["rng"])
    if watch.best is not None:
        watch.best = BestEpoch.from_state(kept["watch"]["best"])
    device = run.inputs.device
    watch.modes = {law: mode.to(device) for law, mode in zip(watch.modes, kept["watch"]["modes"], strict=True)}
    loop = kept["loop"]
    return Loop([loss.to(device) for loss in loop["losses"]], loop["last_finite"], loop["seconds"])
