"""What tables and figures call a problem where its name on the command line does not say what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping

LABELS: Mapping[str, str] = {"cifar10-jpeg": "CIFAR-10 (JPEG q75)"}  # not the pixels of published CIFAR-10 numbers


def label(problem: str) -> str:
    """The problem's label, or its name where that says enough."""
    return LABELS.get(problem, problem)
