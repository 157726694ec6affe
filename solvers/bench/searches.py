"""Q3, Q4: what hyperplane rounding and tabu search find from the factor, within seconds that include the solve."""

from __future__ import annotations

from functools import partial

from solvers.bench.clock import once
from solvers.bench.goals import Goal, Measured, Setting, instance
from solvers.bench.optima import published
from solvers.sdp.signs.rounding import round as round_signs
from solvers.sdp.solver import solve

FLIPS = 10**9  # no limit but the seconds
GAP = 1e-4  # of the solve: the factor is a start, the bound may end the search


def found(file: str, seconds: float) -> float:
    """The best objective over signs after `seconds` of solving and searching."""
    of = instance(file)
    took, solution = once(partial(solve, of.C, gap=GAP))
    left = max(seconds - took, 0.01)
    signs = round_signs(solution.factor, of.C, flips=FLIPS, seconds=left, bound=solution.bound_integer)
    return of.objective(signs.value)


def optima(_setting: Setting) -> Measured:
    """Percent of the instances, n <= 250, whose published optimum is found within 2 s."""
    missed, files = [], 0
    for file, name, _kind, value in published():
        if file.startswith("biqmac/") or (file.startswith("bqp/") and not name.startswith("bqp500")):
            best = found(file, 2.0)
            files += 1
            missed += [f"{name}: {best:g}, published {value}"] * (best != float(value))
    detail = f"{files - len(missed)} of {files}; missed: {'; '.join(missed) or 'none'}"
    return Measured(100 * (files - len(missed)) / files, detail)


def deficit(name: str, _setting: Setting) -> Measured:
    """Percent that the best cut found within 5 s lacks to the best published."""
    file = f"gset/{name}.gz"
    best = next(float(value) for of, _name, _kind, value in published() if of == file)
    cut = found(file, 5.0)
    return Measured(100 * (best - cut) / best, f"cut {cut:g}, published {best:g}")


def goals() -> list[Goal]:
    """Q3, Q4."""
    allowed = {"G1": 0.0, "G14": 0.1, "G22": 0.1, "G43": 0.03, "G51": 0.1}
    return [
        Goal("Q3", "published optimum found in 2 s, Biq Mac and BQP n <= 250", 100, "%", optima),
        *(
            Goal(f"Q4 {name}", f"deficit of the cut found in 5 s, {name}", most, "%", partial(deficit, name), False)
            for name, most in allowed.items()
        ),
    ]
