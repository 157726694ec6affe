"""When to look for a proof, and with which multipliers: predictions steer, proofs decide."""

from __future__ import annotations

import math
import time

import numpy as np

from solvers.sdp.certificate import Proof, dominated, prove, rounding_margin
from solvers.sdp.cholesky import Factoriser
from solvers.sdp.device import DeviceDescent
from solvers.sdp.lbfgs import Descent
from solvers.sdp.multipliers import Bounding, candidates
from solvers.sdp.options import available_memory
from solvers.sdp.problem import Cost

TRUST = 0.5  # a proof is tried where the predicted gap is below this share of the allowed one; halved by each failure
FAR = 20.0  # times the allowed gap: no other candidate will do
ONCE, AGAIN = 0.7, 0.25  # of the residual at a failed proof: from where another is tried, after one failure, after more
SAFETY = 0.99  # share of the allowed gap that a proof uses, so that the last roundings cannot exceed it


class Bounder:
    """Bounds for the iterates of one descent. Gaps and shifts are absolute, in units of C."""

    def __init__(self, of: Cost) -> None:
        self.of, self.factoriser = of, Factoriser(of)
        self.best: Proof | None = None
        self.attempts, self.failures = 0, 0
        self._trust, self._until = TRUST, math.inf

    def predict(self, descent: Descent | DeviceDescent, allowed: float) -> Bounding:
        """The candidate with the least predicted gap; stops at the first that is promising, or far from it."""
        V, y, value = descent.V[:, : descent.rank], descent.y, descent.value
        P = descent.gradient[:, : descent.rank] + y[:, None] * V
        found = []
        for bounding in candidates(self._product, V, P, y, value=value, wanted=self._trust * allowed):
            found.append(bounding)
            predicted = bounding.gap(value)
            if self.promising(predicted, allowed) or predicted > FAR * allowed:
                break
        return min(found, key=lambda bounding: bounding.gap(value))

    def promising(self, predicted: float, allowed: float) -> bool:
        """Whether a predicted gap is worth a factorisation."""
        return predicted <= self._trust * allowed

    def worth_it(self, predicted: float, allowed: float, residual: float) -> bool:
        """Promising, and far enough from where the last proof failed: predictions do not see what misled them."""
        return self.promising(predicted, allowed) and residual <= self._until

    def attempt(self, bounding: Bounding, descent: Descent | DeviceDescent, allowed: float) -> Proof | None:
        """Try to prove the whole gap allowed; keeps the best proof so far."""
        n = self.of.n
        total = float(bounding.multipliers.sum()) - descent.value + SAFETY * allowed
        proof = self._prove(bounding, total / n) if total > 0 else None
        if proof is None:
            self.failures += 1
            self._trust /= 2
            self._until = descent.residual * (ONCE if self.failures == 1 else AGAIN)
        return proof

    def last_resort(self, descent: Descent | DeviceDescent, allowed: float, until: float) -> Proof:
        """The best proof so far, or one with what shift it takes, found to a factor of three.

        until: on the clock of time.perf_counter; a factorisation that would end later is not begun, and at the worst
        the proof is the one that needs none, by rows that dominate.
        """
        if self._late(until):
            return self.best or dominated(self.of)
        bounding = self.predict(descent, allowed)
        total, n = float(bounding.multipliers.sum()), self.of.n
        shift, factor = max(-2 * bounding.least, 2 * rounding_margin(bounding.multipliers) / n), 1.0
        while 0 < factor * shift < math.inf and not self._late(until):
            if self.best is not None and self.best.bound >= total - n * factor * shift:
                break
            if self._prove(bounding, factor * shift) is None:
                factor *= 8
                continue
            if factor > 1 and not self._late(until):
                self._prove(bounding, factor * shift / 8**0.5)
            break
        return self.best or dominated(self.of)

    def check_gap(self, descent: Descent | DeviceDescent, allowed: float, most: float, gap: float) -> None:
        """Raises ValueError where rounding alone costs a proof more than the gap allowed.

        most: the gap that would be allowed at the largest value the problem can have.
        """
        least = 2 * rounding_margin(descent.y)
        if most < least:
            raise ValueError(
                f"gap={gap:g} cannot be proven in float64 here: the rounding of a factorisation of {self.of.n} rows "
                f"alone costs a gap of {gap * least / allowed:.1e}; ask for gap={2 * gap * least / allowed:.0e} or "
                "more, or certify='estimate'"
            )

    def check_memory(self) -> None:
        """Raises MemoryError before a factorisation that would not fit."""
        available = available_memory()
        if self.factoriser.bytes > available:
            raise MemoryError(
                f"a proof for {self.of.n} rows factors a dense core of {self.factoriser.core} rows, "
                f"{self.factoriser.bytes / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are available; "
                "use certify='estimate' (no proof) or a larger machine"
            )

    def _product(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(self.of.off @ X)

    def _late(self, until: float) -> bool:
        return time.perf_counter() + self.factoriser.seconds > until

    def _prove(self, bounding: Bounding, shift: float) -> Proof | None:
        self.attempts += 1
        proof = prove(self.of, bounding.multipliers, shift * bounding.shape, factoriser=self.factoriser)
        if proof is not None and (self.best is None or proof.bound > self.best.bound):
            self.best = proof
        return proof
