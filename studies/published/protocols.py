"""The protocols of the parity study, as data: on which networks which methods are trained, for how long.

`full` is the papers': their networks, epochs and batches, on a GPU. `short` fits a CPU: smaller or shorter, its
schedule annealed to zero inside its own budget (a truncated long schedule would be no short run), and called "short
protocol" wherever its numbers stand. In both the training set is split as ours always is, and augmentation is none.
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
EVERY_METHOD = (
    "full-precision",
    "ste",
    "bop",
    "bayesbinn",
    "bayesbinn-published",
    "blrnet",
    "blrnet-propagate",
    "gaussian-vi",
    "lowrank-sdp",
    "lowrank-sdp-published",
)


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


_PUBLISHED_STE = {"lr": 1e-2}  # of the straight-through runs in the BayesBiNN paper and its reproduction
_LONG: dict[str, Mapping[str, Any]] = {
    "full-precision": {"lr": 1e-3},
    "ste": _PUBLISHED_STE,
    "bop": {},
    "bayesbinn": {},
    "bayesbinn-published": {"lr": 1e-4},
    "blrnet": {},
    "blrnet-propagate": {},
    "gaussian-vi": {},
    "lowrank-sdp": {},
    "lowrank-sdp-published": {},
}

FULL = Protocol(
    name="full",
    label="full protocol",
    seeds=5,
    boards=(
        Board(
            name="mnist-mlp",
            title="MNIST, 784-2048x3-10, dropout 0.2, W1/A32",
            problem="mnist",
            network={"name": "mlp", **architectures.MLP_BAYESBINN},
            epochs=500,
            batch=100,
            methods=_LONG,
            recipes=("mnist-mlp", "mnist-mlp-again", "mnist-mlp-again-ste"),
        ),
        Board(
            name="mnist-lenet",
            title="MNIST, 32C3-MP2-64C3-MP2-512FC-10, W1/A1",
            problem="mnist",
            network={"name": "lenet", **architectures.LENET_PBNET},
            epochs=200,
            batch=100,
            methods={name: _LONG[name] for name in ("blrnet", "blrnet-propagate", "ste", "bop")},
            recipes=("mnist-lenet", "mnist-bnn"),
        ),
        Board(
            name="mnist-lenet-real",
            title="MNIST, 32C3-MP2-64C3-MP2-512FC-10, W1/A32",
            problem="mnist",
            network={"name": "lenet", "activation": "relu", "affine": True},
            epochs=200,
            batch=100,
            methods={name: _LONG[name] for name in ("full-precision", "ste", "bayesbinn-published", "blrnet")},
            recipes=("mnist-fpnet", "mnist-lrnet"),
        ),
        Board(
            name="cifar10-vgg",
            title="CIFAR-10, VGG-BinaryConnect, W1/A32",
            problem="cifar10",
            network={"name": "vgg-small", **architectures.VGG_BAYESBINN, "activation": "relu"},
            epochs=500,
            batch=50,
            methods={
                "full-precision": {"lr": 1e-4},
                "ste": _PUBLISHED_STE,
                "bayesbinn": {},
                "bayesbinn-published": {"lr": 3e-4},
            },
            recipes=("cifar10-vgg", "cifar10-vgg-again", "cifar10-vgg-again-ste", "cifar10-fpnet"),
        ),
        Board(
            name="cifar10-vispa-vgg",
            title="CIFAR-10, VGG-Small, real first and last layer, W1/A1",
            problem="cifar10",
            network={"name": "vgg-small", **architectures.VGG_VISPA},
            epochs=600,
            batch=256,
            methods={
                "ste": _PUBLISHED_STE,
                "bop": {},
                "blrnet": {},
                "gaussian-vi": {},
                "lowrank-sdp": {"rank": 4},
                "lowrank-sdp-published": {"rank": 4, "lr": 0.5, "weight_decay": 1e-5},
            },
            recipes=("cifar10-vispa-vgg", "cifar10-bop", "cifar10-bnn"),
        ),
        Board(
            name="cifar10-pbnet",
            title="CIFAR-10, PBNet's VGG, W1/A1",
            problem="cifar10",
            network={"name": "vgg-small", **architectures.VGG_PBNET},
            epochs=200,
            batch=100,
            methods={"ste": _PUBLISHED_STE, "blrnet": {}, "blrnet-propagate": {}},
            recipes=("cifar10-pbnet",),
        ),
        Board(
            name="cifar10-vispa-resnet18",
            title="CIFAR-10, ResNet-18, real first and last layer, W1/A1",
            problem="cifar10",
            network={"name": "resnet18", **architectures.RESNET18_VISPA},
            epochs=600,
            batch=256,
            methods={
                "ste": _PUBLISHED_STE,
                "lowrank-sdp": {"rank": 4},
                "lowrank-sdp-published": {"rank": 4, "lr": 0.5, "weight_decay": 1e-5},
            },
            recipes=("cifar10-vispa-resnet18",),
        ),
        Board(
            name="cifar10-vispa-resnet18-real",
            title="CIFAR-10, ResNet-18, real first and last layer, W1/A32",
            problem="cifar10",
            network={"name": "resnet18", **architectures.RESNET18_VISPA, "activation": "relu"},
            epochs=500,
            batch=256,
            methods={
                "full-precision": {"lr": 1e-3},
                "ste": _PUBLISHED_STE,
                "gaussian-vi": {},
                "lowrank-sdp": {"rank": 8},
                "lowrank-sdp-published": {"rank": 8, "lr": 0.1, "weight_decay": 5e-4},
            },
            recipes=("cifar10-vispa-resnet18-real",),
        ),
    ),
)
SHORT = Protocol(
    name="short",
    label="short protocol",
    seeds=1,
    boards=(
        Board(
            name="mnist-mlp",
            title="MNIST, 784-512-512-10, W1/A32",
            problem="mnist",
            network={"name": "mlp", "widths": (512, 512)},
            epochs=10,
            batch=100,
            methods=dict.fromkeys(EVERY_METHOD, {}),
            recipes=("mnist-mlp", "mnist-mlp-again", "mnist-mlp-again-ste"),
            milliseconds=dict(zip(EVERY_METHOD, (7.3, 6.8, 9.0, 7.6, 8.2, 20.0, 26.0, 13.3, 92.0, 24.3), strict=True)),
        ),
        Board(
            name="mnist-lenet",
            title="MNIST, 32C3-MP2-64C3-MP2-512FC-10, W1/A1",
            problem="mnist",
            network={"name": "lenet", **architectures.LENET_PBNET},
            epochs=3,
            batch=100,
            methods={"blrnet": {}, "ste": {}},
            recipes=("mnist-lenet", "mnist-bnn"),
            milliseconds={"blrnet": 222.0, "ste": 73.7},  # blrnet: its full-precision start included
        ),
        Board(
            name="mnist-lenet-real",
            title="MNIST, 32C3-MP2-64C3-MP2-512FC-10, full precision",
            problem="mnist",
            network={"name": "lenet", "activation": "relu", "affine": True},
            epochs=3,
            batch=100,
            methods={"full-precision": {}},
            recipes=("mnist-fpnet",),
            milliseconds={"full-precision": 73.0},
        ),
    ),
)
PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in (SHORT, FULL)}
