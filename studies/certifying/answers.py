"""What is compared on a layer: an entry, its signs or values for every neuron, and the seconds it took."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True, eq=False)
class Answer:
    """Values of one entry, in the units of ||y - a X w||^2, one a neuron.

    values: of the signs it stands for. last: of a trained method's final weights, the mean over its restarts at the
    rate best for them; nan where nothing is trained. polished: of `values`' signs after 1-opt. seconds: of the whole
    layer. note: what the table says besides (restarts, rate). factor: of the default rate, tuned.
    """

    entry: str
    values: Float[ndarray, " T"]
    seconds: float
    last: Float[ndarray, " T"] | None = None
    polished: Float[ndarray, " T"] | None = None
    note: str = ""
    factor: float | None = None

    def reached(self) -> Float[ndarray, " T"]:
        """The best of all it found."""
        return self.values if self.polished is None else np.minimum(self.values, self.polished)
