"""A problem from a file: its matrix, and the map from <C, X> back to the file's own objective."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import scipy.sparse as sp

Sense = Literal["min", "max"]
Point = Literal["cut", "0-1 point", "+-1 point"]


@dataclass(frozen=True, eq=False)
class Instance:
    """A file's problem as min <C, X>, diag X = 1, X psd; its own objective is offset + scale <C, X>.

    C: CSR (n, n), symmetric. variables: of the file's problem; n, or n - 1 where the last row homogenises.
    sense: whether the file's problem minimises or maximises its objective; scale > 0 goes with "min", scale < 0 with
    "max". exact: C, scale and offset are the file's numbers, none of them rounded. point: what a sign vector is to the
    file's problem.
    """

    name: str
    kind: str
    variables: int
    C: sp.csr_array
    sense: Sense
    scale: Fraction
    offset: Fraction
    exact: bool
    point: Point

    @property
    def n(self) -> int:
        """Rows of C."""
        return int(self.C.shape[0])

    def objective(self, value: float) -> float:
        """The file's objective where <C, X> = `value`, correctly rounded; infinities map to infinities."""
        if not math.isfinite(value):
            return value if self.scale > 0 else -value
        return float(self.offset + self.scale * Fraction(value))

    def bound(self, lower: float) -> float:
        """The bound on the file's objective that <C, X> >= `lower` gives, rounded outwards.

        A lower bound where the file minimises, an upper one where it maximises.
        """
        if not math.isfinite(lower):
            return self.objective(lower)
        exact = self.offset + self.scale * Fraction(lower)
        near = float(exact)
        if self.sense == "min":
            return near if Fraction(near) <= exact else math.nextafter(near, -math.inf)
        return near if Fraction(near) >= exact else math.nextafter(near, math.inf)

    def folded(self) -> Instance:
        """The same problem with its offset as the last diagonal entry of C, where offset / scale is a float64.

        A relative gap of <C, X> is then the relative gap of the file's objective. What rounding leaves of the offset
        stays in `offset`, exactly.
        """
        constant = float(self.offset / self.scale)
        if not constant:
            return self
        last = sp.csr_array(([constant], ([self.n - 1], [self.n - 1])), shape=self.C.shape)
        left = self.offset - self.scale * Fraction(constant)
        return replace(self, C=sp.csr_array(self.C + last), offset=left)
