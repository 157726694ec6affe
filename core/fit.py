"""The one training loop. Every method runs it: same batches, same schedule, same clock, same end.

A step: `draws` passes over one batch, mean loss, objective, backward to the drawn weights, pull-back, every solver.
Learning rates follow lr(t) = lr0 * schedule(t / steps): the first step uses lr0, the last nearly 0 under cosine.
Seconds count training only, not evaluation.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from core.claims import check_claims
from core.interface import Budget, Context, Method, Prepared, Rng, Tape
from core.predict import as_float
from core.statistics import Training

Schedule = Callable[[float], float]  # progress in [0, 1) -> factor of the learning rate
SCHEDULES: Mapping[str, Schedule] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}
CHECK_EVERY = 20  # steps between reads of the losses: a read each step would stall a GPU


@dataclass(frozen=True)
class Diverged:
    """Why a run ended early: the first step (from 1) with a non-finite loss and the last finite loss before it.

    last_finite_loss is nan where there was none: at step 1, or at the first step of a continued run. `parameter` names
    a parameter found not finite at an epoch's end, at `step`, while the loss still was: a sign hides it.
    """

    step: int
    last_finite_loss: float
    parameter: str | None = None

    def __str__(self) -> str:
        last = self.last_finite_loss
        before = f"last finite loss {last:.6g}" if math.isfinite(last) else "no finite loss before it"
        if self.parameter is not None:
            return f"parameter {self.parameter!r} not finite at step {self.step}; {before}"
        return f"loss not finite at step {self.step}; {before}"


@dataclass(frozen=True)
class Epoch:
    """The state at the end of an epoch: steps done, training seconds, mean training loss (before the objective)."""

    epoch: int
    step: int
    seconds: float
    train_loss: float


@dataclass
class Loop:
    """Where `fit` is, besides its run: what a continued fit must know to tell the same. Changed in place.

    losses: of the steps of the epoch so far, on the model's device; last_finite: the last that was, nan before any;
    seconds: spent training.
    """

    losses: list[Tensor] = field(default_factory=list)
    last_finite: float = math.nan
    seconds: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """What a run spent and how it ended; the model is trained in place.

    passes = steps x (draws + the passes of what `prepare` returned).
    """

    steps: int
    passes: int
    seconds: float
    diverged: Diverged | None


class Run:
    """One training run that can be advanced step by step, saved and continued identically.

    inputs (N, *shape) raw and labels (N,) are resident tensors on the model's device. order: CPU generator of the
    batch order. noise: generator on the model's device for weights and signs; masks: for dropout (None: noise), apart
    so that methods which draw more or less drop the same inputs. Raises ClaimError, and ValueError for an unknown
    schedule or a budget that does not fit the data or what was prepared.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Method,
        inputs: Tensor,
        labels: Tensor,
        budget: Budget,
        *,
        schedule: str,
        order: Rng,
        noise: Rng,
        masks: Rng | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        self.model, self.method, self.inputs, self.labels, self.budget = model, method, inputs, labels, budget
        self.order, self.noise, self.masks = order, noise, masks
        self.prepared = prepared or Prepared()
        _check_arguments(budget, schedule, self.prepared, len(inputs), len(labels))
        self.factor = SCHEDULES[schedule]
        self.solvers = [*method.solvers(model, budget), *self.prepared.solvers]
        check_claims(model, self.solvers, self.prepared.modules)
        for group in self._groups():
            group.setdefault("initial_lr", group["lr"])
        self.done = self.prepared.steps
        self._permutation = torch.empty(0, dtype=torch.long)

    def step(self) -> Tensor:
        """One step; returns the mean loss before the objective, detached, on the device."""
        progress = self.done / self.budget.steps
        for group in self._groups():
            group["lr"] = group["initial_lr"] * self.factor(progress)
        indices = self._next_batch()
        batch = as_float(self.inputs[indices], self.model)
        context = Context(batch, self.labels[indices], indices, Tape(), self.model, self.prepared.modules, progress)
        loss = self.method.step(self.model, context, self.noise) if self.method.step else self._gradient_step(context)
        self.done += 1
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue identically: model, solvers, generators, data position, step.

        A copy: unlike a module's `state_dict`, it stays what it is when the run goes on.
        """
        return copy.deepcopy(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "modules": {name: module.state_dict() for name, module in self.prepared.modules.items()},
            "solvers": [solver.state_dict() for solver in self.solvers],
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "masks": None if self.masks is None else self.masks.get_state(),
            "permutation": self._permutation,
            "done": self.done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; the run must have been built with the same arguments."""
        state = copy.deepcopy(state)  # torch's optimizers keep the very tensors they load, and then move them
        self.model.load_state_dict(state["model"])
        for name, module in self.prepared.modules.items():
            module.load_state_dict(state["modules"][name])
        for solver, saved in zip(self.solvers, state["solvers"], strict=True):
            solver.load_state_dict(saved)
        self.order.set_state(state["order"])
        self.noise.set_state(state["noise"])
        if self.masks is not None:
            self.masks.set_state(state["masks"])
        self._permutation = state["permutation"]
        self.done = state["done"]

    def _groups(self) -> Iterable[dict[str, Any]]:
        return (group for solver in self.solvers for group in solver.param_groups)

    def _gradient_step(self, context: Context) -> Tensor:
        for solver in self.solvers:
            solver.zero_grad()
        reading = self.method.train(context.progress)
        total = torch.zeros((), device=context.inputs.device)
        for _ in range(self.method.draws):
            context.tape.drawn.clear()
            context.tape.signs.clear()
            output = self.model(context.inputs, reading.during(Training(self.masks), context.tape), self.noise)
            loss = self.method.loss(output, context.labels)
            torch.autograd.backward(self.method.objective(loss, context) / self.method.draws)
            context.tape.pull_back()
            total = total + loss.detach() / self.method.draws
        for solver in self.solvers:
            solver.step()
        return total

    def _next_batch(self) -> Tensor:
        position = self.done % self.budget.steps_per_epoch
        if position == 0 or len(self._permutation) == 0:
            self._permutation = torch.randperm(len(self.inputs), generator=self.order)
        start = position * self.budget.batch
        return self._permutation[start : start + self.budget.batch].to(self.inputs.device)


def fit(
    run: Run,
    *,
    watch: Callable[[Epoch], None] = lambda epoch: None,
    pause: Callable[[Loop], None] = lambda loop: None,
    loop: Loop | None = None,
) -> Fitted:
    """Advance `run` to the end of its budget, to the first non-finite loss, or to a non-finite parameter.

    Parameters are looked at when an epoch ends. watch: called then and when the budget ends, off the clock, unless the
    run diverged; an exception it raises ends the run. pause: called whenever the losses were read and are finite, after
    `watch`, off the clock: the run's state and `loop` then continue it. loop: where to continue; None: at the start.
    """
    loop = Loop() if loop is None else loop
    checked, epoch_start = run.done, run.done - len(loop.losses)
    started = time.perf_counter()
    while run.done < run.budget.steps:
        loop.losses.append(run.step())
        ends_epoch = run.done % run.budget.steps_per_epoch == 0 or run.done == run.budget.steps
        if not (run.done % CHECK_EVERY == 0 or ends_epoch):
            continue
        values = torch.stack(loop.losses[checked - epoch_start :]).tolist()
        loop.seconds += time.perf_counter() - started
        for value in values:
            checked += 1
            if not math.isfinite(value):
                return _ended(run, loop, Diverged(checked, loop.last_finite))
            loop.last_finite = value
        if ends_epoch:
            if (bad := _not_finite(run.model)) is not None:
                return _ended(run, loop, Diverged(run.done, loop.last_finite, bad))
            epoch = -(-run.done // run.budget.steps_per_epoch)
            watch(Epoch(epoch, run.done, loop.seconds, torch.stack(loop.losses).mean().item()))
            loop.losses, epoch_start = [], run.done
        pause(loop)
        started = time.perf_counter()
    return _ended(run, loop, None)


def _ended(run: Run, loop: Loop, diverged: Diverged | None) -> Fitted:
    return Fitted(run.done, run.done * (run.method.draws + run.prepared.passes), loop.seconds, diverged)


def _not_finite(model: nn.Module) -> str | None:
    """The first parameter with an entry that is nan or infinite."""
    return next((name for name, p in model.named_parameters() if not p.isfinite().all()), None)


def _check_arguments(budget: Budget, schedule: str, prepared: Prepared, n_inputs: int, n_labels: int) -> None:
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)} (got {schedule!r})")
    if not budget.n_train == n_inputs == n_labels:
        raise ValueError(
            f"the budget is for {budget.n_train} training examples, but there are {n_inputs} inputs "
            f"and {n_labels} labels"
        )
    if prepared.steps > budget.steps:
        raise ValueError(f"prepare spent {prepared.steps} steps, more than the budget of {budget.steps}")
