"""Values tried out before anything runs: a method is built and its solvers made for a small network, a network is laid
out without memory. What they refuse is told with the key that is to blame and where its value came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

import methods
from core.architectures import InputForm, build, mlp
from core.interface import Budget, Rng
from core.laws import Point
from studies.runner.request import Setting
from studies.runner.schema import Chosen, Key, spelt

TRIAL = 64  # inputs and hidden units of the network a method is tried on: milliseconds, and room for a few columns
IMAGES = InputForm(TRIAL * TRIAL, shape=(1, TRIAL, TRIAL))  # what a network is tried on: any network takes images


def refusals(chosen: Chosen, schema: Mapping[str, Key], attempt: Callable[[dict[str, Any]], str | None]) -> list[str]:
    """The messages for settings that `attempt` (values -> why not, or None) refuses, blamed on the key that is wrong.

    Nothing is said when the defaults are refused too: then no setting is to blame, and the cells say what happens.
    """
    reason = attempt(chosen.values) if chosen.given else None
    defaults = {key: schema[key].default for key in chosen.given}
    if reason is None or attempt({**chosen.values, **defaults}) is not None:
        return []
    guilty = [key for key in chosen.given if attempt({**chosen.values, key: defaults[key]}) is None]
    if len(guilty) == 1:
        return [_refusal(chosen.given[guilty[0]], chosen.values[guilty[0]], reason)]
    # several wrong at once: each is tried alone, so that each is told
    alone = {key: attempt({**chosen.values, **defaults, key: chosen.values[key]}) for key in chosen.given}
    wrong = [_refusal(chosen.given[key], chosen.values[key], text) for key, text in alone.items() if text is not None]
    together = ", ".join(f"{s.path}={spelt(s)} (from {s.origin})" for s in chosen.given.values())
    return wrong or [f"{together} do not go together: {reason}"]


def try_method(name: str, values: dict[str, Any]) -> str | None:
    """Build the method, a small network of its laws, its reading and its solvers; the message of what is raised."""
    rng = Rng().manual_seed(0)
    try:
        method = methods.make(name, **values)
        network = mlp(InputForm(TRIAL), 2, method.law, rng, widths=(TRIAL,))
        method.train(0.0)
        method.solvers(network, Budget(n_train=TRIAL, batch=TRIAL, steps=1))
    except Exception as error:  # a method is anyone's code: whatever it raises is its answer, and is shown
        return _message(error)
    return None


def try_network(name: str, options: dict[str, Any]) -> str | None:
    """Lay the network out with weights that have a shape and no memory; the message of what is raised."""

    def law(shape: torch.Size, rng: Rng) -> Point:
        return Point(torch.empty(shape, device="meta"))

    try:
        build(name, IMAGES, 2, law, Rng().manual_seed(0), **options)
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes that torch cannot hold
        return _message(error)
    return None


def _refusal(setting: Setting, value: Any, reason: str) -> str:
    """The reason with the key, value and origin as the user knows them, where it speaks of this value."""
    said = re.fullmatch(r".+? must be (.+) \(got (.+)\)", reason)
    if said and said[2] in (str(value), repr(value)):
        return f"{setting.path} must be {said[1]} (got {spelt(setting)}, from {setting.origin})"
    return f"{setting.path}={spelt(setting)} (from {setting.origin}) is refused: {reason}"


def _message(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), "")
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
