"""What there is and what would run, as text: `--list`, `--summary`, `--dry-run`, `--explain`."""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import methods
from core import problems
from core.architectures import ARCHITECTURES
from core.summary import summary
from studies.runner.built import build
from studies.runner.config import Plan
from studies.runner.schema import method_keys, network_keys
from studies.runner.verdicts import Verdict

WIDTH = 100


def catalogue(data_dir: Path | None) -> str:
    """Every method with its hyperparameters and defaults, every problem with its defaults and whether it has data."""
    lines = ["methods (--methods; hyperparameters by --set METHOD.KEY=VALUE)"]
    for name in methods.names():
        lines += _method(name)
    lines += ["", "problems (--problems; defaults by --set network.KEY=VALUE and --set problem.KEY=VALUE)"]
    for name in problems.names():
        lines += _problem(name, data_dir)
    lines += ["", f"networks (--set network.name=NAME): {', '.join(ARCHITECTURES)}"]
    lines += [
        "",
        "your own data (--problems)",
        "  idx:FOLDER  a user's own images: train-/t10k- idx pairs, .gz or plain",
        "  npz:FILE    a user's own arrays: x, y and, if there, x_test, y_test",
    ]
    return "\n".join(lines)


def summaries(plan: Plan) -> str:
    """The network of every problem and method: layers, parameters, memory, operations; equal ones together.

    Reads the problems' data. Raises problems.ProblemUnavailable.
    """
    found: dict[tuple[str, str], list[str]] = {}
    loaded = {name: problems.load(name, plan.data_dir) for name in {cell.problem for cell in plan.cells}}
    for cell in {(c.problem, c.method): c for c in plan.cells}.values():
        problem = loaded[cell.problem]
        method = methods.make(cell.method, **cell.hyperparameters)
        network = build(cell, method, problem).model
        found.setdefault((cell.problem, str(summary(network, problem.form))), []).append(cell.method)
    return "\n\n".join(f"{problem}: {', '.join(named)}\n{table}" for (problem, table), named in found.items())


def counts(verdicts: Sequence[Verdict]) -> str:
    """How many cells of each problem and method are cached and how many would run."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for verdict in verdicts:
        rows.setdefault((verdict.cell.problem, verdict.cell.method), Counter())[verdict.state] += 1
    lines = [f"  {problem} / {method}: {_tally(states)}" for (problem, method), states in rows.items()]
    return "\n".join([*lines, f"in all: {_tally(Counter(verdict.state for verdict in verdicts))}"])


def reasons(verdicts: Sequence[Verdict]) -> str:
    """Of each cell, whether it would run, and why."""
    width = max((len(verdict.cell.label()) for verdict in verdicts), default=0)
    return "\n".join(f"  {v.cell.label():{width}}  {v.state}: {'; '.join(v.reasons) or v.key}" for v in verdicts)


def _tally(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def _method(name: str) -> list[str]:
    try:
        keys = method_keys(name).values()
    except methods.MethodError as error:
        return [f"  {name}  {error}"]
    first = (sys.modules[methods.origin(name).module].__doc__ or "").strip().splitlines()
    return [
        f"  {name}  {first[0] if first else ''}",
        *_wrapped(_setting(key.name, key.default) for key in keys),
    ]


def _problem(name: str, data_dir: Path | None) -> list[str]:
    description = problems.describe(name)
    try:
        problems.locate(name, data_dir)
        presence = "data present"
    except problems.ProblemUnavailable as error:
        presence = f"no data: {str(error).splitlines()[0]}"
    options = {key.name: key.default for key in network_keys(description.network).values()}
    network = ", ".join(_setting(k, v) for k, v in {**options, **description.network_options}.items())
    facts = (
        f"network={description.network} ({network});",
        f"batch={description.batch}, schedule={description.schedule}, epochs={description.epochs};",
        presence,
    )
    return [f"  {name}  {description.title}", *_wrapped(facts)]


def _setting(key: str, value: Any) -> str:
    spelt = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return f"{key}={spelt}"


def _wrapped(parts: Any) -> list[str]:
    return textwrap.wrap(" ".join(parts), WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
