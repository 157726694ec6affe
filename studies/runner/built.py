"""A cell with everything built: its problem, method and network, and the generators it draws from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from core import architectures, problems, seeds
from core.architectures import LawFactory
from core.interface import Budget, Method, Preparation, Prepared, Rng, WeightLaw
from core.layers import Network
from studies.runner.cells import Cell


@dataclass(frozen=True)
class Built:
    """A cell with everything built; `own` are the laws the method made, not those of declared real layers."""

    cell: Cell
    problem: problems.Problem
    method: Method
    model: Network
    own: list[WeightLaw]

    @property
    def budget(self) -> Budget:
        """What the cell may spend, in steps."""
        n = len(self.problem.train.labels)
        if self.cell.batch > n:
            raise ValueError(f"problem.batch={self.cell.batch}, but {self.cell.problem} has {n} training examples")
        per_epoch = Budget(n, self.cell.batch, 1).steps_per_epoch
        steps = self.cell.budget["steps"] if "steps" in self.cell.budget else self.cell.budget["epochs"] * per_epoch
        return Budget(n, self.cell.batch, steps)

    def prepared(self) -> Prepared:
        """What the method prepares before the loop, or nothing."""
        if self.method.prepare is None:
            return Prepared()

        def twin(law: LawFactory, **changed: Any) -> Network:
            return network(self.cell, self.problem, law, "batch", **changed).to(self.cell.device)

        order = generator(self.cell, "preparation order")
        rng, masks = self.rng("preparation"), self.rng("preparation dropout")
        given = Preparation(self.model, self.problem, self.budget, self.cell.schedule, rng, order, twin, masks)
        return self.method.prepare(given)

    def rng(self, *purpose: str) -> Rng:
        """A fresh generator on the cell's device, the same for every method."""
        return generator(self.cell, *purpose, device=self.cell.device)


def build(cell: Cell, method: Method, problem: problems.Problem) -> Built:
    """The network of a cell, initialised with the method's laws, on the cell's device."""
    own: list[WeightLaw] = []

    def law(shape: torch.Size, rng: Rng) -> WeightLaw:
        own.append(method.law(shape, rng))
        return own[-1]

    model = network(cell, problem, law, method.normalisation)
    if [rule.name for rule in method.predictors][:1] != ["mode"]:
        raise ValueError(f"{cell.method}: the first prediction rule must be 'mode'; it is what gets exported")
    return Built(cell, problem, method, model.to(cell.device), own)


def network(cell: Cell, problem: problems.Problem, law: LawFactory, role: str, **changed: Any) -> Network:
    """The cell's architecture with these laws, from the cell's own initial draw; `changed` replaces its options."""
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in cell.network.items() if name != "name"}
    init = generator(cell, "initialisation")  # on the CPU: the same start on every device
    form, classes = problem.form, problem.classes
    return architectures.build(cell.network["name"], form, classes, law, init, role, **{**options, **changed})


def generator(cell: Cell, *purpose: str, device: str = "cpu") -> Rng:
    """A generator for one purpose, seeded by study, problem and repetition: the same for every method."""
    return seeds.generator(cell.study, *purpose, cell.problem, cell.seed, device=device)
