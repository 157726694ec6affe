"""The limit of one core at sums of signs, and its clock: what the extension's own loops on registers reach here."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from types import ModuleType

from core import extension
from core.deploy.native import chosen_level


@dataclass(frozen=True)
class Limit:
    """Of the CPU level that networks take here; an operation is an xor, or a count, of one bit."""

    module: ModuleType
    level: int

    def clock_ghz(self) -> float:
        """By dependent additions, one a cycle: of this moment."""
        return float(self.module.packed_limits(self.level)[0]) / 1e9

    def seconds_an_operation(self) -> float:
        """One sample of the counting instructions on registers alone."""
        clock, operations = self.module.packed_limits(self.level)
        return 1 / (clock * operations)


def limit() -> Limit | None:
    """None where the extension is not built, or has no counting instructions of this processor to time."""
    module = extension.module()
    if module is None:
        return None
    level = extension.LEVELS.index(chosen_level())
    return Limit(module, level) if module.packed_limits(level)[1] else None


def told(found: Limit | None) -> str:
    """The limit in words."""
    if found is None:
        return "no limit was measured: the native extension is not built here, or knows no counting instructions of it"
    ghz = statistics.median(found.clock_ghz() for _ in range(5))
    rate = statistics.median(1 / found.seconds_an_operation() for _ in range(5))
    level = extension.LEVELS[found.level]
    return f"{ghz:.2f} GHz, limit {rate / ghz / 1e9:.0f} operations a cycle at level {level}"
