"""The search of `solve_batch`: descend on every open task, look at those that may be done, prove, close, grow ranks."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from core import extension
from solvers.sdp.batch_bounds import Family, best_bounds, lowest, polished, proven, shapes
from solvers.sdp.batched import BatchedDescent, Quadratics
from solvers.sdp.batched_native import NativeDescent
from solvers.sdp.solution import Certify

LOOK_EVERY = 8  # iterations between looks
MOST_ITERATIONS = 5000  # at one rank


class Search:
    """What is known of every task so far. gap: relative, of max(1, |value|). deadline: of `time.perf_counter`.

    Factors are (T, n, k), without the homogenising row, the first unit vector; multipliers are (T, n + 1).
    """

    def __init__(self, family: Family, gap: float, certify: Certify, device: str, deadline: float) -> None:
        tasks, n = family.linear.shape
        self.family, self.gap, self.certify, self.deadline = family, gap, certify, deadline
        self.problems = Quadratics(family.off.to(device), family.linear.to(device))
        self.sums = torch.as_tensor(family.sums())
        self.began, self.certifying = time.perf_counter(), 0.0
        new = family.off.new_zeros
        self.factor, self.value, self.multipliers = new(tasks, n, 0), new(tasks) / 0, new(tasks, n + 1)
        self.diagonal = new(tasks, n + 1)  # z of the proof: the bound is the sum of diag(C) - z
        self.bound, self.proven = new(tasks) - math.inf, new(tasks, dtype=torch.bool)
        self.status = np.full(tasks, "iteration_limit", dtype=object)
        self.iterations, self.finished = new(tasks, dtype=torch.long), new(tasks)

    def descend(self, tasks: Int64[Tensor, " some"], V: Float[Tensor, "some n k"]) -> Int64[Tensor, " left"]:
        """Go on with `tasks` from V until each is closed; returns those stationary without the gap asked."""
        descent = self._descent(tasks, V)
        failed_at = torch.full((len(tasks),), math.inf, dtype=torch.float64)  # residual when a proof was last tried
        left = [tasks[:0]]
        while len(tasks):
            descent.run(LOOK_EVERY)
            residual = descent.residual
            due = ((residual <= self._worth_a_look()) & (residual <= failed_at / 1.5)).nonzero()[:, 0]
            closed = torch.zeros(len(tasks), dtype=torch.bool)
            closed[due] = self._look(tasks[due], descent, due)
            failed_at[due] = residual[due]
            stuck = {
                "stationary": ~closed & (residual <= max(1e-2 * self.gap, 1e-13)),
                "stalled": ~closed & descent.stalled,
                "iteration_limit": ~closed & (descent.iterations >= MOST_ITERATIONS),
                "time_limit": ~closed & (time.perf_counter() > self.deadline),
            }
            for status, where in stuck.items():
                self.status[tasks[where]] = status
            leaving = closed | torch.stack(list(stuck.values())).any(0)
            if leaving.any():
                self._record(tasks, leaving.nonzero()[:, 0], descent, closed)
                left.append(tasks[leaving & (stuck["stationary"] | stuck["stalled"]) & ~stuck["time_limit"]])
                staying = (~leaving).nonzero()[:, 0]
                tasks, failed_at = tasks[staying], failed_at[staying]
                descent.take(staying)
        return torch.cat(left)

    def grown(self, tasks: Int64[Tensor, " some"], largest: int) -> Float[Tensor, "some n wider"]:
        """Factors of `tasks` with up to twice the columns, each new one along an eigenvector of negative curvature."""
        k = self.factor.shape[2]
        new = min(2 * k, largest) - k
        vectors = lowest(self.family, tasks, -self.multipliers[tasks], new)
        wider = torch.cat([self.full(tasks), 1e-2 * math.sqrt(vectors.shape[1]) * vectors], 2)
        return gauged(wider)

    def full(self, tasks: Int64[Tensor, " some"]) -> Float[Tensor, "some rows k"]:
        """Factors rows first, the homogenising row last."""
        return with_last_row(self.factor[tasks])

    def close(self) -> None:
        """The best bound of every task that has none."""
        open_tasks = (~self.proven & ~self.bound.isfinite()).nonzero()[:, 0]
        if self.certify == "none" or not len(open_tasks):
            return
        start = time.perf_counter()
        diagonal, success = best_bounds(self.family, open_tasks, self.multipliers[open_tasks])
        self.diagonal[open_tasks] = diagonal
        self.proven[open_tasks] = success & (self.certify == "rigorous")
        self._set_bounds(open_tasks[success])
        self.certifying += time.perf_counter() - start

    def _descent(self, tasks: Int64[Tensor, " some"], V: Float[Tensor, "some n k"]) -> BatchedDescent | NativeDescent:
        problems = self.problems.take(tasks.to(self.problems.off.device))
        if self.problems.off.device.type != "cpu":
            return BatchedDescent(problems, V)
        if extension.allowed():
            return NativeDescent(problems, V)
        extension.warn_once()
        return BatchedDescent(problems, V)

    def _worth_a_look(self) -> float:
        """The residual from which a look may succeed: the gap of polished multipliers is of second order in it."""
        return self.gap if self.certify == "none" else 0.2 * math.sqrt(self.gap)

    def _look(
        self, tasks: Int64[Tensor, " due"], descent: BatchedDescent | NativeDescent, due: Int64[Tensor, " due"]
    ) -> Bool[Tensor, " due"]:
        """Whether the gap asked holds, for these tasks at this point; keeps what proves it."""
        if self.certify == "none" or not len(tasks):
            self.status[tasks] = "stationary"
            return torch.ones(len(tasks), dtype=torch.bool)
        start = time.perf_counter()
        value = self.sums[tasks] + descent.value[due]
        factors, raw = with_last_row(descent.rows(due)), descent.multipliers(due)
        y = polished(self.family, tasks, factors, raw, weight=3 * descent.residual[due])
        allowed = 0.999 * self.gap * value.abs().clamp(min=1) - (value - self.sums[tasks] - y.sum(1))
        closed = torch.zeros(len(tasks), dtype=torch.bool)
        for shape in shapes(y):
            trial = (~closed & (allowed > 0)).nonzero()[:, 0]
            diagonal = allowed[trial, None] * shape[trial] - y[trial]
            success = proven(self.family, tasks[trial], diagonal)
            self.diagonal[tasks[trial[success]]] = diagonal[success]
            closed[trial[success]] = True
        done = tasks[closed]
        self.multipliers[done] = y[closed]
        self.proven[done] = self.certify == "rigorous"
        self.status[done] = "certified" if self.certify == "rigorous" else "estimated"
        self._set_bounds(done)
        self.certifying += time.perf_counter() - start
        return closed

    def _set_bounds(self, tasks: Int64[Tensor, " some"]) -> None:
        for task in tasks.tolist():
            self.bound[task] = self.family.bound(task, self.diagonal[task].numpy())

    def _record(
        self,
        tasks: Int64[Tensor, " some"],
        where: Int64[Tensor, " gone"],
        descent: BatchedDescent | NativeDescent,
        closed: Bool[Tensor, " some"],
    ) -> None:
        rows, gone = descent.rows(where), tasks[where]
        wider = rows.shape[2] - self.factor.shape[2]
        if wider > 0:
            self.factor = torch.nn.functional.pad(self.factor, (0, wider))
        self.factor[gone, :, : rows.shape[2]] = rows
        self.value[gone] = self.sums[gone] + descent.value[where]
        self.multipliers[gone] = torch.where(closed[where, None], self.multipliers[gone], descent.multipliers(where))
        self.iterations[gone] += descent.iterations
        self.finished[gone] = time.perf_counter() - self.began


def with_last_row(V: Float[Tensor, "T n k"]) -> Float[Tensor, "T rows k"]:
    """The homogenising row, the first unit vector, appended."""
    full = torch.nn.functional.pad(V, (0, 0, 0, 1))
    full[:, -1, 0] = 1.0
    return full


def gauged(full: Float[Tensor, "T rows k"]) -> Float[Tensor, "T n k"]:
    """Rotated so that the last row is the first unit vector, which is dropped; rows normalised.

    A Householder reflection, which changes no inner product.
    """
    rows = full / full.square().sum(2, keepdim=True).sqrt()
    last = rows[:, -1]
    sign = torch.where(last[:, :1] >= 0, 1.0, -1.0)
    mirror = last.clone()
    mirror[:, :1] += sign
    mirror /= mirror.square().sum(1, keepdim=True).sqrt()
    reflected = rows - 2 * (rows @ mirror[:, :, None]) * mirror[:, None]
    return reflected[:, :-1] * -sign[:, None]  # the reflection takes the last row to -sign e_1
