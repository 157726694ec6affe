"""A request resolved against what there is: every method, network and problem setting read, checked and filled in.

Impossible values surface here too, before anything runs (`studies.runner.trial`). All errors are told at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

import methods
from core import problems
from core.architectures import ARCHITECTURES
from core.fit import SCHEDULES
from core.problems import Description
from studies.runner.cells import Cell
from studies.runner.request import CHECKPOINT_EVERY, ConfigErrors, Request, Setting, nearest
from studies.runner.schema import Key, choose, method_keys, network_keys, spelt
from studies.runner.trial import refusals, try_method, try_network

STUDY = "compare"
SHARED = ("network", "problem")  # the sections that are no method's


@dataclass(frozen=True)
class Plan:
    """The cells of a run, resolved, and where and how they are to run."""

    cells: tuple[Cell, ...]
    out: Path
    data_dir: Path | None
    backend: str
    workers: int
    checkpoint_every: float = CHECKPOINT_EVERY


def resolve(asked: Request) -> Plan:
    """The plan that `asked` stands for. Raises ConfigErrors with everything that is wrong, reading errors included."""
    errors = list(asked.errors)
    descriptions = _descriptions(asked, errors)
    chosen_methods = _methods(asked, errors)
    networks = {d.name: _network(d, _section(asked, "network"), errors) for d in descriptions}
    training = {d.name: _training(d, _section(asked, "problem"), errors) for d in descriptions}
    _check_sections(asked, errors)
    _check_device(asked.device, errors)
    if errors:
        raise ConfigErrors(list(dict.fromkeys(errors)))
    cells = tuple(
        Cell(
            study=STUDY,
            problem=d.name,
            method=method,
            seed=seed,
            network=networks[d.name],
            hyperparameters=chosen_methods[method],
            budget=asked.budget or {"epochs": d.epochs},
            batch=training[d.name]["batch"],
            schedule=training[d.name]["schedule"],
            device=asked.device,
        )
        for seed in asked.seeds  # outermost, so that a run cut short has whole seeds, and every row shows up early
        for d in descriptions
        for method in asked.methods
    )
    workers = 1 if asked.backend == "serial" else asked.workers
    return Plan(cells, asked.out, asked.data_dir, asked.backend, workers, asked.checkpoint_every)


def _section(asked: Request, name: str) -> list[Setting]:
    return [setting for setting in asked.settings if setting.section == name]


def _descriptions(asked: Request, errors: list[str]) -> list[Description]:
    found = []
    for name in asked.problems:
        try:
            found.append(problems.describe(name))
        except (problems.UnknownProblem, problems.ProblemUnavailable) as error:
            errors.append(str(error))
    return found


def _methods(asked: Request, errors: list[str]) -> dict[str, dict[str, Any]]:
    """Every hyperparameter of each method asked for; a section of another known method is read for its errors too."""
    sections = [s.section for s in asked.settings if s.section in methods.names()]
    resolved = {}
    for name in dict.fromkeys((*asked.methods, *sections)):
        try:
            schema = method_keys(name)
        except methods.MethodError as error:
            errors.append(str(error))
            continue
        chosen = choose(schema, _section(asked, name), f"method {name}", errors)
        errors += refusals(chosen, schema, partial(try_method, name))
        resolved[name] = chosen.values
    return resolved


def _network(description: Description, settings: list[Setting], errors: list[str]) -> dict[str, Any]:
    named = [s for s in settings if s.key == "name"]
    name = str(named[-1].value) if named else description.network
    if name not in ARCHITECTURES:
        known = list(ARCHITECTURES)
        origin = f" (from {named[-1].origin})" if named else ""
        errors.append(
            f"network.name: unknown network {name!r}{origin}.{nearest(name, known)} Known: {', '.join(known)}"
        )
        return {}
    schema = network_keys(name)
    if name == description.network:
        schema |= {k: Key(k, schema[k].annotation, v) for k, v in description.network_options.items()}
    chosen = choose(schema, [s for s in settings if s.key != "name"], f"network {name}", errors)
    errors += refusals(chosen, schema, partial(try_network, name))
    return {"name": name, **chosen.values}


def _training(description: Description, settings: list[Setting], errors: list[str]) -> dict[str, Any]:
    schedules: Any = Literal[tuple(SCHEDULES)]  # type: ignore[valid-type]
    schema = {
        "batch": Key("batch", int, description.batch),
        "schedule": Key("schedule", schedules, description.schedule),
    }
    chosen = choose(schema, settings, "a problem", errors)
    if chosen.values["batch"] < 2:
        given = chosen.given["batch"]
        errors.append(f"{given.path} must be >= 2, for batch norm (got {spelt(given)}, from {given.origin})")
    return chosen.values


def _check_sections(asked: Request, errors: list[str]) -> None:
    known = [*SHARED, *methods.names()]
    for setting in asked.settings:
        if setting.section not in known:
            close = nearest(setting.section, known)
            errors.append(
                f"{setting.path}: no method or section is called {setting.section!r} (from {setting.origin})."
                f"{close} Sections: {', '.join(known)}"
            )
        elif setting.typed and setting.section not in (*SHARED, *asked.methods):
            errors.append(
                f"{setting.path} (from {setting.origin}) would change nothing: {setting.section} is not among the "
                f"methods of this run ({', '.join(asked.methods)})"
            )


def _check_device(device: str, errors: list[str]) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        errors.append(f"torch sees no CUDA device (build {torch.__version__}). Use --device cpu")
