"""A row of the oracle: one measured quantity beside its exact value, and whether what theory says of it was found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

KEYS = ("problem", "method", "estimator", "quantity", "value", "exact", "stderr", "holds")
Z = 5.0  # standard errors: 6e-7 a comparison if normal, and a run makes some thousand of them
ROUNDING = 1e-9  # relative: what sums of float64 terms may lose


@dataclass(frozen=True)
class Row:
    """One number. exact: what it is or should be, None where nobody knows. stderr: of value (0: computed exactly).

    holds: whether theory's statement about it was found; None where theory makes none. parameter, at: what the figure
    plots it against ("temperature", "rank"), "" and nan for none.
    """

    problem: str
    method: str
    estimator: str
    quantity: str
    value: float
    exact: float | None
    stderr: float
    holds: bool | None
    parameter: str = ""
    at: float = math.nan

    def plain(self) -> dict[str, Any]:
        """The eight fields of the JSON list; numbers that are not finite become None."""
        row = {key: value for key, value in asdict(self).items() if key in KEYS}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def agrees(value: float, exact: float, stderr: float) -> bool:
    """`value` is `exact` to Z standard errors, or to rounding."""
    return abs(value - exact) <= Z * stderr + ROUNDING * max(1.0, abs(exact))


@dataclass(frozen=True)
class Sample:
    """Draws of a gradient: its mean, the covariance of that mean, the total variance of one draw and its error."""

    mean: Tensor
    errors: Tensor  # standard error of each entry of the mean
    covariance: Tensor
    variance: float
    variance_error: float

    @classmethod
    def of(cls, draws: Float[Tensor, "S D"]) -> Sample:
        """From S independent draws of all D entries."""
        mean, count = draws.mean(0), len(draws)
        centred = draws - mean
        squares = (centred**2).sum(1)
        return cls(
            mean,
            draws.std(0) / math.sqrt(count),
            centred.mT @ centred / (count - 1) / count,
            float(squares.sum() / (count - 1)),
            float(squares.std() / math.sqrt(count)),
        )

    def agrees(self, expected: Float[Tensor, " D"], error: Float[Tensor, " D"] | None = None) -> bool:
        """Every entry of the mean is the expected one to Z standard errors, or to rounding. error: of `expected`."""
        spread = self.errors if error is None else (self.errors**2 + error**2).sqrt()
        return bool(((self.mean - expected).abs() <= Z * spread + ROUNDING * expected.norm()).all())

    def error_along(self, direction: Float[Tensor, " D"]) -> float:
        """Standard error of the mean's component along a direction (of any length: per unit of it)."""
        return float((direction @ self.covariance @ direction).clamp_min(0).sqrt())


def cosine(a: Tensor, b: Tensor) -> float:
    """Of the angle between two vectors."""
    return float(torch.dot(a, b) / (a.norm() * b.norm()))
