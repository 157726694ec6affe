"""`python -m solvers solve`: an instance's value, what is proven of it, and the best signs found, in its own sense."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any, Literal

from solvers.sdp.files.instance import Instance
from solvers.sdp.files.readers import Format, read
from solvers.sdp.problem import cost
from solvers.sdp.signs.rounding import round as round_signs
from solvers.sdp.solution import Solution
from solvers.sdp.solver import solve as solve_cost

PLAIN = 1e15  # from here on numbers are printed with an exponent
FLAG = "--format {}"  # how the reader's errors name a format here
LEAST = 0.1  # seconds that the search for signs has, whatever the solve has used of the limit
OVER = {"cut": "over cuts", "0-1 point": "over bits", "+-1 point": "over signs"}


@dataclass(frozen=True)
class Answer:
    """A solved instance in its own sense: upper bounds where it maximises, lower bounds where it minimises.

    value: the relaxation's objective at a feasible point. bound: of the relaxation, rounded outwards; bound_integer:
    of the objective over signs. gap = |value - bound| / max(1, |value|). cut: the best objective found over signs.
    """

    instance: Instance
    solution: Solution
    value: float
    bound: float
    bound_integer: float
    gap: float
    cut: float | None
    seconds_cut: float


def solve(
    file: Path,
    *,
    gap: float = 1e-6,
    rank: int | Literal["auto"] = "auto",
    seed: int = 0,
    time_limit: float | None = None,
    cut: bool = False,
    as_json: bool = False,
    format: Format | None = None,
) -> int:
    """Read, solve, print; returns the exit code: 0, or 1 where no bound was proven.

    Raises what `read` raises.
    """
    found = answer(
        read(file, format=format, option=FLAG), gap=gap, rank=rank, seed=seed, time_limit=time_limit, cut=cut
    )
    print(json.dumps(record(found), indent=1) if as_json else text(found))
    return 0 if found.solution.proven else 1


def answer(
    instance: Instance,
    *,
    gap: float,
    rank: int | Literal["auto"] = "auto",
    seed: int = 0,
    time_limit: float | None = None,
    cut: bool = False,
) -> Answer:
    """Solve an instance; the relative gap is that of its own objective, offset included.

    time_limit: seconds of the solve and, with `cut`, of the search for signs after it, which has 0.1 s at least.
    """
    folded = instance.folded()
    of = folded.C
    found = solve_cost(of, gap=gap, rank=rank, seed=seed, time_limit=time_limit)
    begin = time.perf_counter()
    left = math.inf if time_limit is None else max(time_limit - found.seconds.total, LEAST)
    signs = round_signs(found.factor, of, seed=seed, seconds=left, bound=found.bound_integer) if cut else None
    seconds = time.perf_counter() - begin
    value, bound = folded.objective(found.value), folded.bound(found.bound)
    return Answer(
        instance,
        found,
        value,
        bound,
        folded.bound(found.bound_integer),
        abs(value - bound) / max(1.0, abs(value)),
        None if signs is None else folded.objective(cost(of).value(signs.signs)),
        seconds,
    )


def record(of: Answer) -> dict[str, Any]:
    """The fields of the JSON object; what is not finite or was not asked for is null."""
    return {
        "instance": of.instance.name,
        "n": of.instance.variables,
        "sense": of.instance.sense,
        "value": of.value,
        "bound": _finite(of.bound),
        "bound_integer": _finite(of.bound_integer),
        "gap": _finite(of.gap),
        "proven": of.solution.proven,
        "rank": of.solution.rank,
        "cut": of.cut,
        "seconds": of.solution.seconds.total,
        "seconds_certify": of.solution.seconds.certify,
    }


def text(of: Answer) -> str:
    """The same in aligned words; digits as many as the gap supports, bounds rounded outwards."""
    maximum, point = of.instance.sense == "max", of.instance.point
    side, far = ("at most", ROUND_CEILING) if maximum else ("at least", ROUND_FLOOR)
    near = ROUND_FLOOR if maximum else ROUND_CEILING
    width = abs(of.value - of.bound)
    value, bound = _decimal(of.value, width, near), _decimal(of.bound, width, far)
    proven = "certified" if of.solution.proven else "estimated, not proven"
    whole = of.bound_integer.is_integer()
    signs = _decimal(of.bound_integer, 0.0 if whole else width, far)
    interval = f"[{value}, {bound}]" if maximum else f"[{bound}, {value}]"
    lines = [
        ("value", value, f"relaxation, {of.instance.sense}imum; a feasible point of rank {of.solution.rank}"),
        ("interval", interval, f"{proven}: the relaxation's optimum"),
        ("gap", f"{of.gap:.2e}", _how(of.solution)),
        (OVER[point], signs, f"{proven}: every {point} is {side} this"),
    ]
    if of.cut is not None:
        lines.append((point, f"{of.cut:.15g}", _worth(of.cut, of)))
    total, certify = of.solution.seconds.total, of.solution.seconds.certify
    lines.append(("seconds", f"{total:.3f}", f"{certify:.3f} of them for the certificate"))
    if of.cut is not None:
        lines[-1] = (*lines[-1][:2], lines[-1][2] + f"; {of.seconds_cut:.3f} more for the {point}")
    if not of.instance.exact:
        lines.append(("input", "rounded", "some numbers of the file are no float64; the bound is of the rounded ones"))
    wide = max(len(shown) for _, shown, _ in lines)
    head = f"{of.instance.name}: {of.instance.kind}"
    return "\n".join([head, *(f"  {name:<11}{shown:>{wide}}   {remark}" for name, shown, remark in lines)])


def _worth(cut: float, of: Answer) -> str:
    """How near the best found is to the bound."""
    short, over = abs(of.bound_integer - cut) / max(1.0, abs(cut)), f"the bound {OVER[of.instance.point]}"
    if not math.isfinite(short) or not (short or of.solution.proven):
        return "best found"
    return f"best found; within {short:.2%} of {over}" if short else f"optimal: {over} is attained"


def _how(solution: Solution) -> str:
    """By what the gap is proven, or why not the one asked for."""
    count = solution.factorisations
    proof = f"{count} factorisation{'s' * (count != 1)}, rounding errors bounded" if count else "C is diagonal"
    words = proof if solution.proven else "no proof"
    status = "" if solution.status == "certified" else f"; {solution.status.replace('_', ' ')}"
    return words + status + (f": {solution.note}" if solution.note else "")


def _decimal(value: float, width: float, rounding: str) -> str:
    """`value` in decimals three digits below `width`, rounded as told; whole numbers and huge ones as they are."""
    if not math.isfinite(value) or abs(value) >= PLAIN:
        return repr(value)
    if value.is_integer() and not width:
        return str(int(value))
    places = 6 if not 0 < width < math.inf else min(12, max(3, 2 - math.floor(math.log10(width))))
    return format(Decimal(value).quantize(Decimal(1).scaleb(-places), rounding=rounding), "f")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
