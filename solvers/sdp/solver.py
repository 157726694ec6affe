"""min <C, X>, diag X = 1, X psd, to a proven gap: low-rank descent steered by predicted bounds, ended by a proof.

Burer & Monteiro 2003; Boumal, Voroninski & Bandeira 2016 (no spurious local optima from rank sqrt(2n) on, generically).
"""

from __future__ import annotations

import math
import time
from typing import Literal

import numpy as np
from jaxtyping import Float

from solvers.sdp.bounding import Bounder
from solvers.sdp.certificate import Proof, below
from solvers.sdp.device import DeviceDescent, check_device
from solvers.sdp.growth import escape
from solvers.sdp.lbfgs import Descent
from solvers.sdp.multipliers import Bounding
from solvers.sdp.options import check_options
from solvers.sdp.problem import Cost, Matrix, cost, next_attainable
from solvers.sdp.reduction import Reduced, reduce
from solvers.sdp.solution import Certify, Look, Seconds, Solution, Status
from solvers.sdp.start import starting_factor
from solvers.sdp.threads import one_thread

MOST_ITERATIONS = 200_000  # products with C
FIRST_LOOK = 0.12  # residual of the first look, relative to the root of the gap asked
GRACE = 1.0  # seconds, or the time limit where that is more, that a last proof may take beyond the limit
PIECE = 2e8  # flops between two looks at the clock
SPARE = 1e-3  # share of the gap asked that the factor returned may give up for fewer columns
NEGLIGIBLE = 1e-8  # singular values below this share of the largest are rounding


@one_thread()
def solve(
    C: Matrix,
    *,
    gap: float = 1e-6,
    rank: int | Literal["auto"] = "auto",
    warm: Float[np.ndarray, "n k"] | Solution | None = None,
    certify: Certify = "rigorous",
    seed: int = 0,
    device: str = "cpu",
    time_limit: float | None = None,
) -> Solution:
    """Solve to gap = |value - bound| / max(1, |value|), the bound proven in floating point (certify="rigorous").

    C: symmetric, dense or sparse; its diagonal is a constant. rank: columns to start with; "auto": near 2 log2 n; more
    along negative curvature where a stationary point cannot be certified, at most ceil(sqrt(2n)) + 1.
    warm: a factor or a solution to start from. certify: "estimate" stops on a Ritz estimate of the bound and is
    labelled so; "none" stops where the descent's relative residual is below 0.12 sqrt(gap), without any bound.
    device: "cpu" (native kernels), or a torch device for the descent of a dense C; proofs are made on the CPU.
    time_limit: seconds; the best certified interval by then is returned, with status "time_limit"; last proofs may take
    as long again, or a second.
    One thread, but for large factorisations. The same seed on the same machine gives the same answer. Raises ValueError
    and TypeError for what cannot be solved, also for a gap below what float64 can prove; MemoryError before a
    factorisation that would not fit.
    """
    started = time.perf_counter()
    whole = cost(C)
    check_options(gap, rank, certify, seed, time_limit)
    if device != "cpu":
        check_device(device)
    reduced = reduce(whole)
    if reduced is None:
        return _constant(whole, certify, time.perf_counter() - started)
    planning, bounder = time.perf_counter(), Bounder(reduced.cost)
    if certify == "rigorous":
        bounder.check_memory()
    planning = time.perf_counter() - planning
    start = starting_factor(whole.n, reduced, rank, warm, seed)
    descent = Descent(reduced.cost, start) if device == "cpu" else DeviceDescent(reduced.cost, start, device)
    run = _Run(whole, reduced, descent, bounder, gap, certify, seed)
    run.certifying = planning
    run.limit(started, time_limit)
    return run.solution(run.descend(), started)


class _Run:
    """One solve. Value, gaps and shifts inside are those of the reduced problem; `_relative` is what a user asked
    for."""

    def __init__(
        self,
        whole: Cost,
        reduced: Reduced,
        descent: Descent | DeviceDescent,
        bounder: Bounder,
        gap: float,
        certify: Certify,
        seed: int,
    ) -> None:
        self.whole, self.reduced, self.gap, self.certify = whole, reduced, gap, certify
        self.rng = np.random.default_rng([seed, 1])
        self.descent, self.bounder = descent, bounder
        self.deadline = self.last_proof = math.inf
        self.escaping = 1e-4
        self.estimate: Bounding | None = None
        self.history: list[Look] = []
        self.certifying = 0.0
        self.begun = time.perf_counter()
        off = reduced.cost.off
        entries = off.size if isinstance(off, np.ndarray) else off.nnz
        self.piece = max(1, min(50, int(PIECE / (2 * entries * descent.rank))))

    def limit(self, started: float, seconds: float | None) -> None:
        """Descend until then; a last proof may begin while it would end within as long again, or within GRACE."""
        if seconds is not None:
            self.deadline = started + seconds
            self.last_proof = self.deadline + max(GRACE, seconds)

    def descend(self) -> Status:
        """Until the gap asked holds, or no more can be had."""
        descent, next_look = self.descent, FIRST_LOOK * math.sqrt(self.gap)
        self._run(25, 0.0)
        if self.certify == "rigorous":
            self.bounder.check_gap(descent, self._allowed(), self._most(), self.gap)
        while True:
            looked, failures = descent.iterations, self.bounder.failures
            if descent.residual <= next_look or descent.stalled:
                status, predicted = self._look()
                if status:
                    return status
                next_look = descent.residual * _fall(predicted / self._allowed())
            if time.perf_counter() > self.deadline:
                return "time_limit"
            if descent.iterations >= MOST_ITERATIONS:
                return "iteration_limit"
            if self.bounder.failures > failures or descent.stalled or descent.residual <= self.escaping:
                if not self._escape() and descent.stalled:
                    return "stalled"
            self._run(max(8, looked // 2), next_look)

    def solution(self, status: Status, started: float) -> Solution:
        """The answer: the factor of least rank, its value, the best proof, all of the whole problem."""
        proof = self._final_proof(status)
        factor = self.reduced.expanded(self._thin(), self.whole.n)
        value = float(np.vdot(factor, self.whole.off @ factor)) + self.whole.constant
        multipliers, bound = self._bound(proof)
        found = abs(value - bound) / max(1.0, abs(value))
        if proof is not None and found <= self.gap:
            status = "certified"  # also where a last proof, after the limit, did it
        bound_integer = next_attainable(bound, self.whole)
        total = time.perf_counter() - started
        return Solution(
            factor=factor,
            value=value,
            multipliers=multipliers,
            bound=bound,
            bound_integer=bound_integer,
            gap=found,
            proven=proof is not None,
            status=status,
            history=tuple(self.history),
            seconds=Seconds(total - self.certifying, self.certifying),
            factorisations=self.bounder.attempts,
            note=_note(status, found, self.gap),
        )

    def _run(self, iterations: int, residual: float) -> None:
        """Iterations in pieces short enough for the time limit."""
        end = self.descent.iterations + iterations
        while self.descent.iterations < end and self.descent.residual > residual and not self.descent.stalled:
            self.descent.run(min(end - self.descent.iterations, self.piece), residual=residual)
            if time.perf_counter() > self.deadline:
                return

    def _look(self) -> tuple[Status | None, float]:
        """Predict the gap, and try to prove it where the prediction says so. Also returns the prediction."""
        if self.certify == "none":
            return "stationary", 0.0
        clock = time.perf_counter()
        allowed, value, proven = self._allowed(), self.descent.value, math.nan
        self.estimate = bounding = self.bounder.predict(self.descent, allowed)
        predicted = bounding.gap(value)
        late = time.perf_counter() + self.bounder.factoriser.seconds > self.deadline
        if self.certify == "rigorous" and not late and self.bounder.worth_it(predicted, allowed, self.descent.residual):
            proof = self.bounder.attempt(bounding, self.descent, allowed)
            proven = math.nan if proof is None else self._relative(value - proof.bound)
        self.certifying += time.perf_counter() - clock
        since, rank = time.perf_counter() - self.begun, self.descent.rank
        look = Look(self.descent.iterations, self._value(), rank, self._relative(predicted), proven, since)
        self.history.append(look)
        if self.certify == "estimate":
            return "estimated" if 2 * predicted <= allowed else None, predicted
        return "certified" if proven <= self.gap else None, predicted

    def _escape(self) -> bool:
        """Out of a saddle, if this is one; else it is not asked again before the residual has fallen."""
        tolerance = 0.1 * self._allowed() / self.reduced.cost.n
        if escape(self.descent, self.reduced.cost, tolerance, self.rng):
            self._run(25, 0.0)
            return True
        self.escaping = 0.1 * min(self.escaping, self.descent.residual)
        return False

    def _thin(self) -> np.ndarray:
        """Nearly the same Gram matrix in fewer columns, rows of length 1: the value moves by SPARE of the gap at most.

        Dropping directions of total square s from V moves <C, VV'> by less than 2 s max |y|, to first order in s.
        """
        V, y = self.descent.V, self.descent.y
        squares, W = np.linalg.eigh(V.T @ V)
        lost = np.cumsum(np.maximum(squares, 0.0))
        relative = self.gap * min(1.0, float(np.abs(y).sum()))  # a gap that is absolute says nothing of directions
        spare = SPARE * min(self._allowed(), relative) / (2 * float(np.abs(y).max()))
        kept = lost > max(spare, NEGLIGIBLE**2 * squares[-1])
        thin = (V @ W[:, kept])[:, ::-1]
        factor: np.ndarray = np.ascontiguousarray(thin / np.linalg.norm(thin, axis=1, keepdims=True))
        return factor

    def _final_proof(self, status: Status) -> Proof | None:
        if self.certify != "rigorous":
            return None
        clock = time.perf_counter()
        proof = self.bounder.best if status == "certified" else None
        proof = proof or self.bounder.last_resort(self.descent, self._allowed(), self.last_proof)
        self.certifying += time.perf_counter() - clock
        return proof

    def _bound(self, proof: Proof | None) -> tuple[np.ndarray, float]:
        """Multipliers and bound of the whole problem."""
        multipliers = np.zeros(self.whole.n)
        if proof is not None:
            multipliers[self.reduced.rows] = self.reduced.restored(proof.multipliers)
            return multipliers, below(np.concatenate([multipliers, self.whole.diagonal]))
        if self.certify == "none" or self.estimate is None:
            multipliers[self.reduced.rows] = self.descent.y * self.reduced.scale
            return multipliers, -math.inf
        estimate = self.estimate.multipliers + min(0.0, self.estimate.least) * self.estimate.shape
        multipliers[self.reduced.rows] = estimate * self.reduced.scale
        return multipliers, float(multipliers.sum()) + self.whole.constant

    def _value(self) -> float:
        return self.descent.value * self.reduced.scale + self.whole.constant

    def _allowed(self) -> float:
        return self.gap * max(1.0, abs(self._value())) / self.reduced.scale

    def _most(self) -> float:
        """What no value of this problem exceeds by much, as a gap allowed: the first value may be near zero by
        chance."""
        size = abs(self.whole.constant) + 2 * float(np.abs(self.descent.y).sum()) * self.reduced.scale
        return self.gap * max(1.0, size) / self.reduced.scale

    def _relative(self, difference: float) -> float:
        return difference * self.reduced.scale / max(1.0, abs(self._value()))


def _fall(excess: float) -> float:
    """By what factor the residual should fall before the next look, where the predicted gap is `excess` times too
    large.

    Predicted gaps fall with about the power 3/2 of the residual; but no further than to a quarter at once, and by a
    third at least.
    """
    return float(min(0.65, max(0.25, (0.4 / max(excess, 1e-300)) ** (2 / 3))))


def _constant(whole: Cost, certify: Certify, seconds: float) -> Solution:
    """C is diagonal: every feasible X is optimal, and no factorisation is needed to know."""
    statuses: dict[str, Status] = {"rigorous": "certified", "estimate": "estimated", "none": "stationary"}
    bound = -math.inf if certify == "none" else below(whole.diagonal)
    return Solution(
        factor=np.ones((whole.n, 1)),
        value=whole.constant,
        multipliers=np.zeros(whole.n),
        bound=bound,
        bound_integer=next_attainable(bound, whole),
        gap=abs(whole.constant - bound) / max(1.0, abs(whole.constant)),
        proven=certify == "rigorous",
        status=statuses[certify],
        history=(),
        seconds=Seconds(seconds, 0.0),
    )


def _note(status: Status, found: float, asked: float) -> str:
    return {
        "time_limit": f"stopped by the time limit at a gap of {found:.1e}; {asked:g} was asked",
        "iteration_limit": f"stopped after {MOST_ITERATIONS} iterations at a gap of {found:.1e}; {asked:g} was asked",
        "stalled": f"rounding stops the descent at a gap of {found:.1e}; {asked:g} was asked",
    }.get(status, "")
