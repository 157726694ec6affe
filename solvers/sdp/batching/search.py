"""The search of `solve_batch`: descend on every open task, look at those that may be done, prove, close, grow ranks."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from core import extension
from solvers.sdp.batching.bounds import Family, best_bounds, lowest, polished, proven, rounding_margins, shapes
from solvers.sdp.batching.descent import BatchedDescent, Quadratics
from solvers.sdp.batching.native import NativeDescent
from solvers.sdp.solution import Certify

LOOK_EVERY = 8  # iterations between looks
MOST_ITERATIONS = 5000  # at one rank
# Residual of the first look, relative to the root of the gap in units of the residual: the gap that polished
# multipliers leave is of second order in the residual.
FIRST_LOOK = 0.15
STATIONARY = 1e-2  # residual relative to the same gap, from which more descent at this rank would not close it
FALL = 1.5  # by which the residual falls between two looks at a task
SAFETY = 0.999  # of the gap allowed: the rest is for rounding of the value
ENTRIES_AT_ONCE = 2**24  # of the descent's state: 128 MiB
FLOPS_AT_ONCE = 4e9  # between two looks at the clock, on the CPU: about half a second
NEW_COLUMNS = 0.1  # size of the entries of a new column, beside rows of length 1
DIRECTIONS = 8  # new columns that get a direction at once
DEPENDENT = 0.02  # singular value, relative to the largest, up to which a column counts as free
GRACE = 0.1  # of the time limit: for bounding what the limit cut off


class Search:
    """What is known of every task so far. deadline: seconds of `time.perf_counter`; grace: more, for last bounds.

    Factors are (T, n, k), without the homogenising row, the first unit vector. `raw` are multipliers <(CV)_i, v_i>;
    `diagonal` is z of the best proof: off + Diag(z) is psd, at first because it is diagonally dominant.
    """

    def __init__(self, family: Family, gap: float, certify: Certify, device: str) -> None:
        tasks, n = family.linear.shape
        self.family, self.gap, self.certify = family, gap, certify
        # A power of two near the largest entry: squares of what the descent computes neither overflow nor vanish.
        largest = max(float(family.off.abs().max()), float(family.linear.abs().max()))
        self.unit = 2.0 ** min(max(math.frexp(largest)[1], -1000), 1000)
        self.problems = Quadratics((family.off / self.unit).to(device), (family.linear / self.unit).to(device))
        self.sums = torch.as_tensor(family.sums())
        self.began, self.deadline, self.grace, self.certifying = time.perf_counter(), math.inf, 0.0, 0.0
        new = family.off.new_zeros
        self.factor, self.value, self.residual = new(tasks, n, 0), new(tasks), new(tasks)
        self.raw, self.diagonal = new(tasks, n + 1), family.dominant()
        self.closed = new(tasks, dtype=torch.bool)  # the gap asked holds
        self.status = np.full(tasks, "iteration_limit", dtype="<U15")
        self.iterations, self.finished = new(tasks, dtype=torch.long), new(tasks)

    def descend(self, tasks: Int64[Tensor, " some"], V: Float[Tensor, "some n k"]) -> Int64[Tensor, " left"]:
        """Go on with `tasks` from V until each is done; returns those stationary without the gap asked.

        In groups: small ones answer the clock, and on the CPU a group in the cache is no slower.
        """
        groups = torch.arange(len(tasks)).split(self._at_once(V.shape[2]))  # type: ignore[no-untyped-call]
        return torch.cat([self._descend(tasks[group], V[group]) for group in groups])

    def grown(
        self, tasks: Int64[Tensor, " some"], largest: int
    ) -> tuple[Int64[Tensor, " grown"], Float[Tensor, "grown n wider"]]:
        """The tasks with a direction of negative curvature to leave along, and their factors moved along it.

        Eigenvectors of S of negative eigenvalue go into new columns, up to twice as many and at most `largest`, and
        into those hardly in use once rotated (a factor of signs, or one at a saddle, has such at any width).
        """
        full = self.full(tasks)
        squares, W = torch.linalg.eigh(full.mT @ full)
        k = full.shape[2]
        new = max(0, min(2 * k, largest) - k)
        rotated = torch.nn.functional.pad(full @ W.flip(2), (0, new))
        free = torch.nn.functional.pad(squares.flip(1) <= DEPENDENT**2 * squares[:, -1:], (0, new), value=True)
        least, vectors = lowest(self.family, tasks, -self.raw[tasks], min(DIRECTIONS, k + new))
        count = vectors.shape[2]
        step = NEW_COLUMNS * math.sqrt(vectors.shape[1]) * vectors.flip(2)
        rotated[:, :, -count:] += step * free[:, None, -count:]
        allowed = self.gap * self.value[tasks].abs().clamp(min=1) / vectors.shape[1]
        leaving = free[:, -1] & (least < -0.5 * allowed)
        return tasks[leaving], gauged(rotated[leaving])

    def full(self, tasks: Int64[Tensor, " some"]) -> Float[Tensor, "some rows k"]:
        """Factors with their homogenising row, the last."""
        return with_last_row(self.factor[tasks])

    def close(self) -> None:
        """Better bounds for the tasks that ended without the gap asked; few at a time, within the grace of a limit."""
        start = time.perf_counter()
        still = (~self.closed).nonzero()[:, 0]
        for chunk in self.family.chunks(still):
            part = still[chunk]
            if self.certify == "none" or time.perf_counter() > self.deadline + self.grace:
                break
            weight = 3 * self.residual[part]
            for multipliers in (self.raw[part], self._polished(part, self.full(part), self.raw[part], weight)):
                found = best_bounds(self.family, part, multipliers)
                better = found.sum(1) < self.diagonal[part].sum(1)
                self.diagonal[part[better]] = found[better]
        self.certifying += time.perf_counter() - start

    def floor(self) -> Float[Tensor, " T"]:
        """The difference of value and bound that the rounding of a factorisation alone costs."""
        return 2 * rounding_margins((-self.raw).clamp(min=0)).sum(1)

    def unprovable(self) -> Bool[Tensor, " T"]:
        """Tasks whose proof failed where rounding alone costs more than the gap allowed."""
        beyond = self.floor() > self.gap * self.value.abs().clamp(min=1)
        return beyond & ~self.closed & (self.certify == "rigorous")

    def _at_once(self, k: int) -> int:
        n = len(self.family.off)
        by_memory = ENTRIES_AT_ONCE // (12 * n * (k + 8))
        by_time = FLOPS_AT_ONCE / (2.0 * n * n * (k + 8) * LOOK_EVERY)
        return max(1, int(min(by_memory, by_time) if self.problems.off.device.type == "cpu" else by_memory))

    def _descend(self, tasks: Int64[Tensor, " some"], V: Float[Tensor, "some n k"]) -> Int64[Tensor, " left"]:
        descent = self._descent(tasks, V)
        failed_at = torch.full((len(tasks),), math.inf, dtype=torch.float64)  # residual of the last look
        left = [tasks[:0]]
        while len(tasks):
            descent.run(LOOK_EVERY if time.perf_counter() <= self.deadline else 0)
            residual = descent.residual
            aim = self._aim(tasks, descent)
            due = ((residual <= FIRST_LOOK * aim.sqrt()) & (residual <= failed_at / FALL)).nonzero()[:, 0]
            closed = torch.zeros(len(tasks), dtype=torch.bool)
            closed[due] = self._look(tasks[due], descent, due)
            failed_at[due] = residual[due]
            ended = self._ended(tasks, descent, ~closed, aim)
            leaving = closed | ended
            if leaving.any():
                self._record(tasks, leaving.nonzero()[:, 0], descent)
                left.append(tasks[ended])
                staying = (~leaving).nonzero()[:, 0]
                tasks, failed_at = tasks[staying], failed_at[staying]
                descent.take(staying)
        found = torch.cat(left)
        return found[torch.as_tensor(np.isin(self.status[found.numpy()], ["stationary", "stalled"]))]

    def _descent(self, tasks: Int64[Tensor, " some"], V: Float[Tensor, "some n k"]) -> BatchedDescent | NativeDescent:
        problems = self.problems.take(tasks.to(self.problems.off.device))
        if self.problems.off.device.type != "cpu":
            return BatchedDescent(problems, V)
        if extension.allowed():
            return NativeDescent(problems, V)
        extension.warn_once()
        return BatchedDescent(problems, V)

    def _aim(self, tasks: Int64[Tensor, " some"], descent: BatchedDescent | NativeDescent) -> Float[Tensor, " some"]:
        """The gap asked, relative to the scale of C_t, the sum of the |y_i|, as residuals are."""
        everyone = torch.arange(len(tasks))
        scale = self._multipliers(descent, everyone).abs().sum(1)
        allowed = self.gap * self._value(tasks, descent, everyone).abs().clamp(min=1)
        return allowed / torch.maximum(allowed, scale)

    def _ended(
        self,
        tasks: Int64[Tensor, " some"],
        descent: BatchedDescent | NativeDescent,
        still: Bool[Tensor, " some"],
        aim: Float[Tensor, " some"],
    ) -> Bool[Tensor, " some"]:
        """Those of the tasks `still` open that will not get further at this rank, or must stop; their status says why.

        Where several reasons hold, the last of these is given.
        """
        reasons = {
            "stationary": descent.residual <= (STATIONARY * aim).clamp(min=1e-13),
            "stalled": descent.stalled,
            "iteration_limit": still & (descent.iterations >= MOST_ITERATIONS),
            "time_limit": still & (time.perf_counter() > self.deadline),
        }
        for status, where in reasons.items():
            self.status[tasks[still & where].numpy()] = status
        return still & torch.stack(list(reasons.values())).any(0)

    def _look(
        self, tasks: Int64[Tensor, " due"], descent: BatchedDescent | NativeDescent, due: Int64[Tensor, " due"]
    ) -> Bool[Tensor, " due"]:
        """Whether the gap asked holds, for these tasks at this point; keeps what proves it."""
        if self.certify == "none" or not len(tasks):
            self.status[tasks.numpy()], self.closed[tasks] = "stationary", True
            return torch.ones(len(tasks), dtype=torch.bool)
        start = time.perf_counter()
        value, weight = self._value(tasks, descent, due), 3 * descent.residual[due]
        y = self._polished(tasks, with_last_row(descent.rows(due)), self._multipliers(descent, due), weight)
        allowed = SAFETY * self.gap * value.abs().clamp(min=1) - (value - self.sums[tasks] - y.sum(1))
        closed = torch.zeros(len(tasks), dtype=torch.bool)
        for shape in shapes(y):
            trial = (~closed & (allowed > 0)).nonzero()[:, 0]
            diagonal = allowed[trial, None] * shape[trial] - y[trial]
            success = proven(self.family, tasks[trial], diagonal)
            self.diagonal[tasks[trial[success]]] = diagonal[success]
            closed[trial[success]] = True
        self.closed[tasks[closed]] = True
        self.status[tasks[closed].numpy()] = "certified" if self.certify == "rigorous" else "estimated"
        self.certifying += time.perf_counter() - start
        return closed

    def _value(
        self, tasks: Int64[Tensor, " some"], descent: BatchedDescent | NativeDescent, where: Int64[Tensor, " some"]
    ) -> Float[Tensor, " some"]:
        return self.sums[tasks] + descent.value[where] * self.unit

    def _multipliers(
        self, descent: BatchedDescent | NativeDescent, where: Int64[Tensor, " some"]
    ) -> Float[Tensor, "some rows"]:
        return descent.multipliers(where) * self.unit

    def _polished(self, tasks: Tensor, factors: Tensor, raw: Tensor, weight: Tensor) -> Tensor:
        # Beside 1, the diagonal of X o X; at stationary points of full precision it still keeps the system regular.
        return polished(self.family, tasks, factors, raw, weight=weight.clamp(min=1e-12))

    def _record(
        self, tasks: Int64[Tensor, " some"], where: Int64[Tensor, " gone"], descent: BatchedDescent | NativeDescent
    ) -> None:
        rows, gone = descent.rows(where), tasks[where]
        wider = rows.shape[2] - self.factor.shape[2]
        if wider > 0:
            self.factor = torch.nn.functional.pad(self.factor, (0, wider))
        self.factor[gone, :, : rows.shape[2]] = rows
        self.value[gone] = self._value(gone, descent, where)
        self.raw[gone], self.residual[gone] = self._multipliers(descent, where), descent.residual[where]
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
