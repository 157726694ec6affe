"""The low-rank law as VISPA's released code has it (NeurIPS 2024, github.com/snownus/bnn_vi), and its start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.geometry import EUCLIDEAN
from core.interface import Rng
from core.laws import initial_uniform
from core.low_rank import LowRank, initial_columns


class ReleasedLowRank(LowRank):
    """w = sign(M + sum_k r_k Z_k), r ~ N(0, 1/S), rows (M, Z_1 .. Z_K) as the code stores them.

    pull_back: g for M and sqrt(S) r_k g for Z_k, where the chain rule would give r_k g. It is LowRank's own, which
    takes no notice of the factor 1/sqrt(S) between `rows` and `columns`.
    """

    def __init__(self, rows: Tensor, *, precision: float) -> None:
        super().__init__(rows, geometry=EUCLIDEAN)
        self.precision = precision

    def columns(self) -> Tensor:
        return torch.cat([self.rows[:1], self.rows[1:] / math.sqrt(self.precision)])


def xavier_rows(shape: torch.Size, rank: int, rng: Rng) -> Tensor:
    """(M, Z), Xavier-normal each as one tensor: Z (K, O, I, ...) has fans K and O times those of its trailing shape.

    M's normals are those of `initial_uniform` by quantile, so that its signs are those other methods start from.
    """
    uniform = initial_uniform(shape, rng)
    largest = 1 - torch.finfo(uniform.dtype).eps / 2  # the quantile of 1 is infinite
    means = math.sqrt(2) * torch.erfinv(uniform.clamp(-largest, largest))
    columns = initial_columns(shape, rank, rng)
    return torch.cat([_xavier(means)[None], _xavier(columns)])


def _xavier(normals: Tensor) -> Tensor:
    receptive = math.prod(normals.shape[2:])
    return math.sqrt(2 / ((normals.shape[0] + normals.shape[1]) * receptive)) * normals
