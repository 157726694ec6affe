"""The search of `solve_batch`: descend on every open task, look at those that may be done, prove, close, grow ranks."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from solvers.sdp.batch_bounds import Family, best_bounds, lowest, polished, proven, shapes
from solvers.sdp.batched import BatchedDescent, Factors, Point, Quadratics
from solvers.sdp.solution import Certify

LOOK_EVERY = 8  # iterations between looks
MOST_ITERATIONS = 5000  # at one rank


class Search:
    """What is known of every task so far. gap: relative, of max(1, |value|). deadline: of `time.perf_counter`.

    Factors are (T, k, n), columns first, without the homogenising row; multipliers (T, n + 1).
    """

    def __init__(self, family: Family, gap: float, certify: Certify, device: str, deadline: float) -> None:
        tasks, n = family.linear.shape
        self.family, self.gap, self.certify, self.deadline = family, gap, certify, deadline
        self.problems = Quadratics(family.off.to(device), family.linear.to(device))
        self.sums = torch.as_tensor(family.sums())
        self.began, self.certifying = time.perf_counter(), 0.0
        new = family.off.new_zeros
        self.factor, self.value, self.multipliers = new(tasks, 0, n), new(tasks) / 0, new(tasks, n + 1)
        self.diagonal = new(tasks, n + 1)  # z of the proof: the bound is the sum of diag(C) - z
        self.bound, self.proven = new(tasks) - math.inf, new(tasks, dtype=torch.bool)
        self.status = np.full(tasks, "iteration_limit", dtype=object)
        self.iterations, self.finished = new(tasks, dtype=torch.long), new(tasks)

    def descend(self, tasks: Int64[Tensor, " some"], V: Factors) -> Int64[Tensor, " left"]:
        """Go on with `tasks` from V until each is closed; returns those stationary without the gap asked."""
        descent = BatchedDescent(self.problems.take(tasks.to(V.device)), V)
        failed_at = descent.step.cpu() * math.inf  # residual when a proof was last tried
        left = [tasks[:0]]
        while len(tasks):
            descent.run(LOOK_EVERY)
            residual = descent.point.residual.cpu()
            due = (residual <= self._worth_a_look()) & (residual <= failed_at / 1.5)
            closed = torch.zeros(len(tasks), dtype=torch.bool)
            closed[due] = self._look(tasks[due], descent.point.take(due.nonzero()[:, 0].to(V.device)))
            failed_at = torch.where(due, residual, failed_at)
            stationary = ~closed & (residual <= max(1e-2 * self.gap, 1e-13))
            stalled = ~closed & descent.stalled.cpu()
            late, over = time.perf_counter() > self.deadline, descent.iterations >= MOST_ITERATIONS
            leaving = closed | stationary | stalled | late | over
            if leaving.any():
                self.status[tasks[stalled]] = "stalled"
                self.status[tasks[stationary]] = "stationary"
                if late:
                    self.status[tasks[~closed]] = "time_limit"
                self._record(tasks, leaving, descent, closed)
                left.append(tasks[stationary | stalled])
                staying = (~leaving).nonzero()[:, 0]
                tasks, failed_at = tasks[staying], failed_at[staying]
                descent.take(staying.to(V.device))
        return torch.cat(left)

    def grown(self, tasks: Int64[Tensor, " some"], largest: int) -> Factors:
        """Factors of `tasks` with up to twice the columns, each new one along an eigenvector of negative curvature."""
        k = self.factor.shape[1]
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

    def _worth_a_look(self) -> float:
        """The residual from which a look may succeed: the gap of polished multipliers is of second order in it."""
        return self.gap if self.certify == "none" else 0.2 * math.sqrt(self.gap)

    def _look(self, tasks: Int64[Tensor, " some"], point: Point) -> Bool[Tensor, " some"]:
        """Whether the gap asked holds, for these tasks at this point; keeps what proves it."""
        if self.certify == "none" or not len(tasks):
            self.status[tasks] = "stationary"
            return torch.ones(len(tasks), dtype=torch.bool)
        start = time.perf_counter()
        value = self.sums[tasks] + point.value.cpu()
        factors = with_last_row(point.V.cpu())
        raw = torch.cat([point.multipliers, point.last[:, None]], 1).cpu()
        y = polished(self.family, tasks, factors, raw, weight=3 * point.residual.cpu())
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
        self, tasks: Int64[Tensor, " some"], leaving: Bool[Tensor, " some"], descent: BatchedDescent, closed: Tensor
    ) -> None:
        where = leaving.nonzero()[:, 0]
        point, gone = descent.point.take(where.to(descent.point.V.device)), tasks[where]
        k = point.V.shape[1]
        if k > self.factor.shape[1]:
            wider = self.factor.new_zeros(len(self.factor), k - self.factor.shape[1], self.factor.shape[2])
            self.factor = torch.cat([self.factor, wider], 1)
        self.factor[gone, :k] = point.V.cpu()
        self.value[gone] = self.sums[gone] + point.value.cpu()
        raw = torch.cat([point.multipliers, point.last[:, None]], 1).cpu()
        self.multipliers[gone] = torch.where(closed[where, None], self.multipliers[gone], raw)
        self.iterations[gone] += descent.iterations
        self.finished[gone] = time.perf_counter() - self.began


def with_last_row(V: Factors) -> Float[Tensor, "T rows k"]:
    """Rows first, with the homogenising row, the first unit vector, appended."""
    tasks, k, n = V.shape
    full = V.new_zeros(tasks, n + 1, k)
    full[:, :n], full[:, n, 0] = V.mT, 1.0
    return full


def gauged(full: Float[Tensor, "T rows k"]) -> Factors:
    """Columns first, rotated so that the last row is the first unit vector, which is dropped; rows normalised.

    A Householder reflection, which changes no inner product.
    """
    rows = full / full.square().sum(2, keepdim=True).sqrt()
    last = rows[:, -1]
    sign = torch.where(last[:, :1] >= 0, 1.0, -1.0)
    mirror = last.clone()
    mirror[:, :1] += sign
    mirror /= mirror.square().sum(1, keepdim=True).sqrt()
    reflected = rows - 2 * (rows @ mirror[:, :, None]) * mirror[:, None]
    reflected *= -sign[:, None]  # the reflection takes the last row to -sign e_1
    return reflected[:, :-1].mT.contiguous()
