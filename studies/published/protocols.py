"""What a protocol of the parity study is: networks, the methods trained on each, and the cells that follow.

In all of them the training set is split as ours always is, the schedule is annealed to zero inside the cell's own
budget (a truncated long schedule would be no short run), and augmentation is none. The protocols: `boards`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import methods
from core import architectures
from studies.published.numbers import NUMBERS, Number
from studies.runner.cells import Cell

STUDY = "parity"
BESIDES = 1.25  # of a cell's time to that of its steps: watching the curve, predicting by every rule
HELD_OUT: Mapping[str, int] = {"mnist": 6_000, "cifar10": 5_000, "cifar10-jpeg": 5_000}


@dataclass(frozen=True, kw_only=True)
class Board:
    """One network on one problem, the methods trained on it, and the recipes whose numbers it is set beside.

    methods: name -> hyperparameters other than the defaults. network: options other than the defaults.
    milliseconds: CPU time of a step on one thread, where measured: what `--explain` estimates from.
    """

    name: str
    title: str
    problem: str
    network: Mapping[str, Any]
    epochs: int
    batch: int
    methods: Mapping[str, Mapping[str, Any]]
    recipes: tuple[str, ...]
    schedule: str = "cosine"
    milliseconds: Mapping[str, float] | None = None

    def numbers(self, method: str) -> list[Number]:
        """The published numbers of a method on this board's recipes."""
        return [number for number in NUMBERS if number.recipe in self.recipes and number.method == method]


@dataclass(frozen=True)
class Protocol:
    """Boards that are run together. label: what every table and figure of it is marked with."""

    name: str
    label: str
    seeds: int
    boards: tuple[Board, ...]


@dataclass(frozen=True)
class Planned:
    """A cell, the board it belongs to and its estimated seconds on one CPU thread, None where unknown."""

    board: Board
    cell: Cell
    seconds: float | None


def plan(
    protocol: Protocol, *, only: Sequence[str] | None, seeds: Sequence[int], device: str, problems: Mapping[str, str]
) -> list[Planned]:
    """The cells of a protocol: seed after seed, in each the longest first, so that workers end together.

    only: these methods. problems: a problem's stand-in by name, such as a lossy copy. Raises ValueError for a method
    that is on no board, and what the registry raises.
    """
    on_boards = {name for board in protocol.boards for name in board.methods}
    wanted = on_boards if only is None else set(only)
    if unknown := sorted(wanted - on_boards):
        raise ValueError(
            f"--methods {', '.join(unknown)}: on no board of the {protocol.name} protocol; "
            f"there are {', '.join(sorted(on_boards))}"
        )
    planned = [
        _planned(board, name, seed, device, problems.get(board.problem, board.problem))
        for seed in seeds
        for board in protocol.boards
        for name in board.methods
        if name in wanted
    ]
    return sorted(planned, key=lambda each: (each.cell.seed, -(each.seconds or 0.0)))


def _planned(board: Board, method: str, seed: int, device: str, problem: str) -> Planned:
    cell = Cell(
        study=STUDY,
        problem=problem,
        method=method,
        seed=seed,
        network=_filled(board),
        hyperparameters=_hyperparameters(method, board.methods[method]),
        budget={"epochs": board.epochs},
        batch=board.batch,
        schedule=board.schedule,
        device=device,
        track_best=True,
    )
    step = (board.milliseconds or {}).get(method)
    return Planned(board, cell, None if step is None else BESIDES * step / 1_000 * steps(board))


def steps(board: Board) -> int:
    """Updates of one cell of the board."""
    pool = 60_000 if board.problem == "mnist" else 50_000
    return board.epochs * ((pool - HELD_OUT[board.problem]) // board.batch)


def _filled(board: Board) -> dict[str, Any]:
    """The board's network with every option resolved."""
    options = {key: value for key, value in board.network.items() if key != "name"}
    known = architectures.defaults(board.network["name"])
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"board {board.name}: network {board.network['name']} has no option {', '.join(unknown)}")
    return {"name": board.network["name"], **known, **options}


def _hyperparameters(method: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {name: parameter.default for name, parameter in methods.signature(method).items()}
    if unknown := sorted(set(chosen) - set(defaults)):
        raise methods.UnknownHyperparameter(f"{method} has no hyperparameter {', '.join(unknown)}")
    return {**defaults, **chosen}
