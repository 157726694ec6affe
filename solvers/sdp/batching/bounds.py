"""Bounds of many problems that share a Gram matrix: polished multipliers, and their proof by batched Cholesky.

C_t = [[G, -b_t], [-b_t', constant_t]]; its diagonal is kept apart, so S_t = off_t + Diag(z) is formed without rounding,
and opt_t >= sum(diag C_t) - sum(z) for every z with S_t psd (z = shift - y). Factorisations run on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from solvers.sdp.certificate import UNDERFLOW, UNIT, below, gamma

ENTRIES_AT_ONCE = 2**21  # of the matrices being factored: 16 MiB


@dataclass(frozen=True)
class Family:
    """The C_t without their diagonals, and the sum of each diagonal as the terms that make it up.

    off: (n, n), zero diagonal. linear: (T, n). diagonal: (n,), that of G. constants: (T,).
    """

    off: Float[Tensor, "n n"]
    linear: Float[Tensor, "T n"]
    diagonal: Float[np.ndarray, " n"]
    constants: Float[np.ndarray, " T"]

    def sums(self) -> Float[np.ndarray, " T"]:
        """The sum of each diagonal, to rounding."""
        return self.constants + math.fsum(self.diagonal)

    def matrices(
        self, tasks: Int64[Tensor, " some"], diagonal: Float[Tensor, "some rows"]
    ) -> Float[Tensor, "some rows rows"]:
        """off_t + Diag(diagonal_t)."""
        n = len(self.off)
        stacked = self.off.new_empty(len(tasks), n + 1, n + 1)
        stacked[:, :n, :n] = self.off
        stacked[:, n, :n] = stacked[:, :n, n] = -self.linear[tasks]
        stacked.diagonal(dim1=1, dim2=2).copy_(diagonal)
        return stacked

    def chunks(self, tasks: Int64[Tensor, " some"]) -> list[Tensor]:
        """Positions of `tasks`, few enough at a time for their matrices to stay small."""
        return _few(torch.arange(len(tasks)), len(self.off) + 1)

    def bound(self, task: int, diagonal: Float[np.ndarray, " rows"]) -> float:
        """sum(diag C_t) - sum(diagonal), rounded downwards from the exact sum."""
        return below(np.concatenate([self.constants[task : task + 1], self.diagonal, -diagonal]))

    def dominant(self) -> Float[Tensor, "T rows"]:
        """Diagonals z that make every off_t + Diag(z) diagonally dominant, so psd: a proof without a factorisation."""
        size = self.linear.abs()
        sums = torch.cat([self.off.abs().sum(1) + size, size.sum(1, keepdim=True)], 1)
        return sums * (1 + 4 * (len(self.off) + 2) * UNIT)  # upwards, past the rounding of the sums


def polished(
    family: Family,
    tasks: Int64[Tensor, " some"],
    factors: Float[Tensor, "some rows k"],
    multipliers: Float[Tensor, "some rows"],
    *,
    weight: Float[Tensor, " some"],
) -> Float[Tensor, "some rows"]:
    """Multipliers y + d with V'(S - Diag(d))V near 0, as at an optimum; S = C - Diag(y) and V a nearly optimal factor.

    d minimises ||V'(S - Diag(d))V||^2 + weight ||d||^2, that is (X o X + weight I) d = diag(X S X), X = VV': directions
    that V hardly has count little. The smallest eigenvalue of S then errs by the square of the error of V.
    """
    result = multipliers.clone()
    for part in family.chunks(tasks):
        V = factors[part]
        slack = V.mT @ (family.matrices(tasks[part], -multipliers[part]) @ V)
        system = (V @ V.mT).square_()
        system.diagonal(dim1=1, dim2=2).add_(weight[part, None])
        root, failed = torch.linalg.cholesky_ex(system)
        change = torch.cholesky_solve(((V @ slack) * V).sum(2, keepdim=True), root)[..., 0]
        usable = (failed == 0) & change.isfinite().all(1)
        result[part] += torch.where(usable[:, None], change, 0.0)
    return result


def proven(
    family: Family, tasks: Int64[Tensor, " some"], diagonal: Float[Tensor, "some rows"]
) -> Bool[Tensor, " some"]:
    """Whether off_t + Diag(diagonal_t) is proven positive semidefinite, as in `solvers.sdp.certificate`.

    False says nothing.
    """
    margin = rounding_margins(diagonal)
    success = torch.zeros(len(tasks), dtype=torch.bool)
    tested = torch.nextafter(diagonal - margin, torch.tensor(-math.inf, dtype=torch.float64))
    candidates = (tested > 0).all(1).nonzero()[:, 0]  # False where not a number
    for part in _few(candidates, diagonal.shape[1]):
        shifted = family.matrices(tasks[part], tested[part])
        root, failed = torch.linalg.cholesky_ex(shifted)
        success[part] = (failed == 0) & root.diagonal(dim1=1, dim2=2).isfinite().all(1)
    return success


def rounding_margins(diagonal: Float[Tensor, "some rows"]) -> Float[Tensor, "some rows"]:
    """What a Cholesky factorisation may lose to rounding, row by row: `gamma` r_i sum(r), r = sqrt(z).

    The bound of `solvers.sdp.certificate`, rounded upwards. Not a number where z has a negative entry.
    """
    rows, root = diagonal.shape[1], diagonal.sqrt()
    return gamma(rows) * root.sum(1, keepdim=True) * root * (1 + 16 * rows * UNIT) + UNDERFLOW


def best_bounds(
    family: Family, tasks: Int64[Tensor, " some"], multipliers: Float[Tensor, "some rows"]
) -> Float[Tensor, "some rows"]:
    """Diagonals z = shift - y, proven, of the least shift found; inf where none was.

    The shift starts at the smallest eigenvalue, estimated, and twice what rounding costs a proof, which grows until the
    proof holds; both `shapes` are tried.
    """
    best = torch.full_like(multipliers, math.inf)
    for shape in shapes(multipliers):
        needed = -_smallest(family, tasks, -multipliers, shape.rsqrt()).clamp(max=0) * (1 + 1e-6)
        room = 2 * (rounding_margins((needed[:, None] * shape - multipliers).clamp(min=0)) / shape).amax(1)
        for _ in range(30):
            diagonal = (needed + room)[:, None] * shape - multipliers
            still = (~(best.sum(1) <= diagonal.sum(1))).nonzero()[:, 0]
            if not len(still):
                break
            success = proven(family, tasks[still], diagonal[still])
            best[still[success]] = diagonal[still[success]]
            room[still[~success]] *= 4
    return best


def lowest(
    family: Family, tasks: Int64[Tensor, " some"], diagonal: Float[Tensor, "some rows"], count: int
) -> tuple[Float[Tensor, " some"], Float[Tensor, "some rows count"]]:
    """The least eigenvalue of each off_t + Diag(diagonal_t), estimated, and eigenvectors of the `count` smallest."""
    pairs = [torch.linalg.eigh(family.matrices(tasks[p], diagonal[p])) for p in family.chunks(tasks)]
    return torch.cat([values[:, 0] for values, _ in pairs]), torch.cat([vectors[:, :, :count] for _, vectors in pairs])


def shapes(multipliers: Float[Tensor, "some rows"]) -> tuple[Float[Tensor, "some rows"], Float[Tensor, "some rows"]]:
    """How a shift is spread over the rows, each of sum 1: evenly, and like -y (1 % of the mean at least)."""
    even = torch.full_like(multipliers, 1 / multipliers.shape[1])
    size = -multipliers
    floor = 1e-2 * size.mean(1, keepdim=True)
    scaled = torch.where(floor > 0, torch.maximum(size, floor), 1.0)
    return even, scaled / scaled.sum(1, keepdim=True)


def _smallest(
    family: Family, tasks: Int64[Tensor, " some"], diagonal: Float[Tensor, "some rows"], scaling: Tensor
) -> Float[Tensor, " some"]:
    """An estimate of the smallest eigenvalue of each D (off_t + Diag(diagonal_t)) D, D = Diag(scaling)."""
    found = []
    for part in family.chunks(tasks):
        scaled = family.matrices(tasks[part], diagonal[part]) * (scaling[part, :, None] * scaling[part, None])
        found.append(torch.linalg.eigvalsh(scaled)[:, 0])
    return torch.cat(found)


def _few(tasks: Int64[Tensor, " some"], rows: int) -> list[Tensor]:
    """`tasks` in parts, each with few enough matrices of that many rows."""
    at_once = max(1, ENTRIES_AT_ONCE // rows**2)
    return [tasks[i : i + at_once] for i in range(0, len(tasks), at_once)]
