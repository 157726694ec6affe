"""What a goal of deployment is, the row it becomes, and what a section of the bench measures with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from solvers.bench.goals import Failed, Measured, Missing, Row, Unmeasured
from studies.deploying.bench import clock
from studies.deploying.bench.clock import Sampler
from studies.deploying.bench.roof import Limit

__all__ = ["Bench", "Case", "Failed", "Found", "Goal", "Measured", "Missing", "Row", "Section", "Timing", "Unmeasured"]

PUBLISHED = "published"  # in place of a bound: the number itself is the aim
LIMIT = "limit"  # the contender that is the machine itself


@dataclass(frozen=True)
class Goal:
    """A line of the table. id: of the goal, and of its part where it has several. least: measured >= target, or <=.

    target: None where the number is to be published, whatever it is.
    """

    id: str
    what: str
    target: float | None
    unit: str = "x"
    least: bool = True

    @property
    def wanted(self) -> str:
        """The goal in words."""
        if self.target is None:
            return PUBLISHED
        return f"{'>=' if self.least else '<='} {self.target:g}"

    def row(self, found: Measured | Unmeasured) -> Row:
        """As measured, or why not: then it does not hold, nor fail."""
        if isinstance(found, Unmeasured):
            return Row(self.id, None, self.wanted, None, self.unit, f"{self.what}: {found}")
        if self.target is None:
            return Row(self.id, found.value, self.wanted, None, self.unit, f"{self.what}, published: {found.detail}")
        reached = found.value >= self.target if self.least else found.value <= self.target
        measured = found.value if math.isfinite(found.value) else None  # JSON has no infinity
        return Row(
            self.id, measured, self.wanted, bool(reached and found.also), self.unit, f"{self.what}: {found.detail}"
        )


@dataclass(frozen=True)
class Case:
    """Some work and its size. operations: xnor or accumulate, so that one product of signs, or of floats, counts 2."""

    kind: str  # gemm, conv, network
    name: str
    operations: float = 0.0


@dataclass(frozen=True)
class Timing:
    """One contender on one case: a line of bench.csv. fraction: of the limit measured in the same rounds."""

    kind: str
    case: str
    contender: str
    seconds: float
    operations: float
    operations_a_cycle: float | None
    fraction: float | None
    clock_ghz: float | None
    busy_cores: float | None


@dataclass
class Bench:
    """How long to measure, beside what, and every timing so far."""

    rounds: int
    least: float  # seconds of one sample
    quick: bool
    limit: Limit | None
    timings: list[Timing] = field(default_factory=list)

    def sampler(self, run: Callable[[], object]) -> Sampler:
        """Of CPU seconds of this process."""
        return clock.repeated(run, least=self.least)

    def time(self, case: Case, samplers: Mapping[str, Sampler]) -> dict[str, float]:
        """Median seconds of each, kept as timings; the limit of the machine runs in the same rounds.

        Raises Failed where one is not positive: a contender may be what one run takes more than another.
        """
        ghz, busy = self.limit.clock_ghz() if self.limit else None, clock.busy_cores()
        with_limit = dict(samplers) | ({LIMIT: self.limit.seconds_an_operation} if self.limit else {})
        medians = clock.interleaved(with_limit, rounds=self.rounds)
        best = medians.pop(LIMIT, None)
        if noise := [name for name, seconds in medians.items() if seconds <= 0]:
            raise Failed(f"{case.name}: {noise[0]} drowns in noise; others keep {busy} cores busy")
        for name, seconds in medians.items():
            rate = case.operations / seconds
            self.timings.append(
                Timing(
                    case.kind,
                    case.name,
                    name,
                    seconds,
                    case.operations,
                    rate / (ghz * 1e9) if ghz and rate else None,
                    rate * best if best and rate else None,
                    ghz,
                    busy,
                )
            )
        return medians

    def fraction(self, case: Case, contender: str) -> float:
        """Of the limit, as last timed. Raises Missing where the limit is not measured here."""
        timing = next(t for t in reversed(self.timings) if (t.case, t.contender) == (case.name, contender))
        if timing.fraction is None:
            raise Missing("the limit of this machine was not measured: no kernels of its own level are here")
        return timing.fraction


Found = Mapping[str, Measured | Unmeasured]


@dataclass(frozen=True)
class Section:
    """Goals that are measured together, by ids."""

    goals: tuple[Goal, ...]
    measure: Callable[[Bench], Found]

    def rows(self, bench: Bench) -> list[Row]:
        """One a goal; what the section cannot measure is a reason. A quick run says that its sizes are others."""
        goals = [
            replace(goal, what=f"QUICK, at small sizes: {goal.what}") if bench.quick else goal for goal in self.goals
        ]
        try:
            found = self.measure(bench)
        except Unmeasured as reason:
            return [goal.row(reason) for goal in goals]
        return [goal.row(found[goal.id]) for goal in goals]
