"""What was asked of the parity study, read from its options. Imports nothing heavy; all errors are told at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studies.runner.request import OPTIONS, ConfigErrors

PROTOCOLS = ("short", "full")
CIFAR10 = ("cifar10", "cifar10-jpeg")
OUT = Path("results/parity")


@dataclass(frozen=True)
class Asked:
    """A protocol and how it is to be run; None: the protocol's own."""

    protocol: str
    boards: tuple[str, ...] | None
    methods: tuple[str, ...] | None
    seeds: tuple[int, ...] | None
    cifar10: str
    device: str
    out: Path
    plan: Mapping[str, Any]  # data_dir, backend, workers, checkpoint_every: those given


def asked(arguments: argparse.Namespace) -> Asked:
    """The options read. Raises ConfigErrors with everything that is wrong."""
    errors: list[str] = []
    given = {name: _read(arguments, name, errors) for name in READ}
    for name, allowed in (("protocol", PROTOCOLS), ("cifar10", CIFAR10)):
        if (value := getattr(arguments, name)) not in allowed:
            errors.append(f"--{name} must be {' or '.join(allowed)} (got {value})")
    if errors:
        raise ConfigErrors(errors)
    names = ("data-dir", "backend", "workers", "checkpoint-every")
    plan = {name.replace("-", "_"): given[name] for name in names if given[name] is not None}
    return Asked(
        protocol=arguments.protocol,
        boards=given["boards"],
        methods=given["methods"],
        seeds=given["seeds"],
        cifar10=arguments.cifar10,
        device=given["device"] or "cpu",
        out=given["out"] or OUT / arguments.protocol,
        plan=plan,
    )


READ = {**dict.fromkeys(("methods", "seeds", "device", "out", "data-dir", "backend", "workers", "checkpoint-every"))}
READ = {name: OPTIONS[name] for name in READ} | {"boards": OPTIONS["methods"]}  # a list of names too


def _read(arguments: argparse.Namespace, name: str, errors: list[str]) -> Any:
    value = getattr(arguments, name.replace("-", "_"))
    if value is None:
        return None
    try:
        return READ[name](value)
    except ValueError as error:
        errors.append(f"--{name} {error} (got {value})")
        return None
