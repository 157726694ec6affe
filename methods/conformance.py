"""The kit every method passes, ours and a third party's: `check("mine")`, or one test a law under pytest:

    @pytest.mark.parametrize("law", CHECKS)
    def test_mine(law):
        law("mine")

Keyword arguments are the method's hyperparameters. Each law trains networks of some hundred weights for a moment.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from methods.kit.audit import NonConformant
from methods.kit.prediction import (
    activation_bits_are_true,
    draws_follow_the_law,
    laws_state_facts,
    mode_comes_first,
    mode_survives_export,
    networks_are_counted,
    weight_bits_are_true,
)
from methods.kit.training import (
    both_precisions_work,
    every_parameter_claimed_once,
    loss_falls,
    noise_is_passed_in,
    runs_on_cuda,
    same_seed_same_weights,
    state_round_trip,
)

__all__ = ["CHECKS", "Check", "Finding", "NonConformant", "check"]

Check = Callable[..., None]


@dataclass(frozen=True)
class Finding:
    """What one check said of a method."""

    check: str
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""


def check(name: str, **hyperparameters: Any) -> list[Finding]:
    """Run every check on the method `name`. Raises NonConformant listing all that fail, each with reason and hint."""
    findings = [_find(law, name, hyperparameters) for law in CHECKS]
    failed = [f for f in findings if f.status == "failed"]
    if failed:
        listed = "\n".join(f"- {f.check}: {f.reason}" for f in failed)
        raise NonConformant(f"method {name!r} fails {len(failed)} of {len(findings)} checks:\n{listed}")
    return findings


CHECKS: tuple[Check, ...] = (
    loss_falls,
    same_seed_same_weights,
    state_round_trip,
    every_parameter_claimed_once,
    weight_bits_are_true,
    activation_bits_are_true,
    mode_comes_first,
    mode_survives_export,
    networks_are_counted,
    noise_is_passed_in,
    both_precisions_work,
    laws_state_facts,
    draws_follow_the_law,
    runs_on_cuda,
)


def _find(law: Check, name: str, hyperparameters: dict[str, Any]) -> Finding:
    label: str = law.__name__
    try:
        law(name, **hyperparameters)
    except NonConformant as error:
        return Finding(label, "failed", str(error))
    except unittest.SkipTest as skip:
        return Finding(label, "skipped", str(skip))
    except Exception as error:  # the method's own failure is a finding; the pytest form shows its traceback
        return Finding(label, "failed", f"raised {type(error).__name__}: {error}")
    return Finding(label, "passed")
