"""A population of good sign vectors, recombined and improved by tabu search: a memetic algorithm.

Wu and Hao 2012 (PPSN XII) is one for max-cut. Two members, turned to agree where they can (x and -x cost the same),
leave what they agree on to the child, and chance decides the rest; tabu search improves it; it replaces a worse one.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int8

from solvers.sdp.signs.tabu import OneFlip

MEMBERS = 10
SPELL = 100  # flips of one tabu search, per sign
TENURE = 25  # a sign is barred for n / 25 .. 2 n / 25 flips
NEAR = 0.01  # members that differ in this share of the signs or less are one
CLOSE = 0.02  # parents that differ in less than this share have a child by chance alone:
SHAKEN = 0.1  # the first of them with this share of the signs flipped


def evolve(
    moves: OneFlip,
    starts: Int8[np.ndarray, "m n"],
    rng: np.random.Generator,
    *,
    flips: int,
    seconds: float = math.inf,
    bound: float = -math.inf,
) -> Int8[np.ndarray, " n"]:
    """The best vector met on `flips` flips (rounded up to whole searches of 100 n).

    starts: the first ten found the population; fewer are shaken into ten. seconds: no search begins later than that;
    an answer then depends on the machine's speed. bound: of x'Cx; a vector that reaches it ends the search.
    """
    ends = time.perf_counter() + seconds
    family = _Family(moves.cost.n)
    spell = SPELL * moves.cost.n
    for searched in range(max(1, -(-flips // spell))):
        start = starts[searched] if searched < min(len(starts), MEMBERS) else family.child(rng)
        family.admit(*_searched(moves, start, min(spell, flips), rng))
        if family.best[0] <= bound or time.perf_counter() > ends:
            break
    return family.best[1]


def _searched(moves: OneFlip, start: np.ndarray, flips: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    n = moves.cost.n
    tenure = n // TENURE
    found = moves.tabu(start, flips=flips, seed=int(rng.integers(2**63)), tenure=tenure, spread=max(1, tenure))
    return moves.cost.value(found), found


@dataclass
class _Family:
    n: int
    members: list[tuple[float, np.ndarray]] = field(default_factory=list)

    @property
    def best(self) -> tuple[float, np.ndarray]:
        return min(self.members, key=lambda member: member[0])

    def child(self, rng: np.random.Generator) -> np.ndarray:
        i, j = rng.choice(len(self.members), 2, replace=len(self.members) < 2)
        one, other = self.members[i][1], self.members[j][1]
        other = other if one.astype(np.int64) @ other >= 0 else -other
        differ = one != other
        if np.count_nonzero(differ) < CLOSE * self.n:
            flipped = np.zeros(self.n, dtype=bool)
            flipped[rng.choice(self.n, math.ceil(SHAKEN * self.n), replace=False)] = True
        else:
            flipped = differ & (rng.random(self.n) < 0.5)
        return np.asarray(np.where(flipped, -one, one))

    def admit(self, value: float, signs: np.ndarray) -> None:
        """Room for one more, or in place of the nearest if that is near and worse, else of the worst if worse."""
        if not self.members:
            self.members.append((value, signs))
            return
        agreement = [abs(int(signs.astype(np.int64) @ member)) for _, member in self.members]
        replaced = int(np.argmax(agreement))
        if self.n - agreement[replaced] > 2 * NEAR * self.n:
            if len(self.members) < MEMBERS:
                self.members.append((value, signs))
                return
            replaced = max(range(MEMBERS), key=lambda i: self.members[i][0])
        if value <= self.members[replaced][0]:
            self.members[replaced] = (value, signs)
