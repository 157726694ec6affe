"""The whole study: every layer bounded, every entry run on it, the semidefinite program's link to training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from studies.certifying import bounds, heuristics, link, rows, training
from studies.certifying.layers import layers
from studies.certifying.neurons import Layer
from studies.runner import executors

QUICK_STEPS = 60


@dataclass(frozen=True)
class Size:
    """neurons: of a layer, at most. seconds: CPU seconds of a method on a layer, after its tuning. gap: certified,
    relative, of each neuron. link_steps: of each run of the link, on layers of at most `link_largest` weights (its
    cubature takes sqrt(8 n) passes a step). names: of the methods; None: every one that can. seed: of everything drawn.
    restarts, steps: see `training.train`.
    """

    neurons: int = 16
    seconds: float = 1.0
    gap: float = 1e-4
    link_steps: int = 1000
    link_largest: int = 100
    names: tuple[str, ...] | None = None
    seed: int = 0
    restarts: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Certified:
    """What was found on one layer."""

    layer: str
    about: str
    rows: list[rows.Row]
    points: list[link.Point]

    def doubts(self) -> list[str]:
        """What must hold and does not."""
        said = rows.doubts(self.rows)
        last = [point for point in self.points if point.run == link.EXACT][-1:]
        if last and not link.reached(last):
            said.append(f"{self.layer}: {link.EXACT} ends {last[0].worst:.2g} above the certified value")
        return said


def study(
    problems: Sequence[str],
    size: Size,
    data_dir: Path | None,
    *,
    workers: int = 1,
    told: Callable[[str], None] = lambda part: None,
) -> Iterator[Certified]:
    """Every layer of the problems, in order of the layers; `told` hears what begins. Raises ProblemUnavailable."""
    executors.start_server()
    told("training the networks whose layers are certified")
    found = [layer for problem in problems for layer in layers(problem, data_dir, neurons=size.neurons, seed=size.seed)]
    done: dict[str, Certified] = {}
    of = partial(certified, size=size)
    for layer, result in executors.processes(of, found, workers=workers, started=lambda layer: told(layer.name)):
        if isinstance(result, executors.Died):
            raise RuntimeError(f"{layer.name}: {result}")
        done[layer.name] = result
    yield from (done[layer.name] for layer in found)


def certified(layer: Layer, size: Size) -> Certified:
    """One layer: bounds first, then what every entry reaches."""
    bracket = bounds.bounds(layer, gap=size.gap, seed=size.seed)
    answers = list(heuristics.answers(layer, bracket, seed=size.seed))
    descended = next(answer for answer in answers if answer.entry == heuristics.DESCENDED)
    names = training.trainable()[0] if size.names is None else size.names
    train = partial(
        training.train,
        layer=layer,
        seconds=size.seconds,
        noise=descended.values,
        seed=size.seed,
        restarts=size.restarts,
        steps=size.steps,
    )
    answers += [train(name) for name in names]
    points = []
    if layer.n <= size.link_largest:
        tuned = next((answer for answer in answers if answer.entry == link.STE), None) or train(link.STE)
        assert tuned.factor is not None, "what is trained has a rate"
        points = list(link.curves(layer, bracket, tuned.factor, seed=size.seed, steps=size.link_steps))
    return Certified(layer.name, layer.about, list(rows.rows(layer, bracket, answers)), points)


def quick(size: Size) -> Size:
    """A small study of the same parts, to check: two neurons, short runs, no restarts, the link on small layers."""
    return replace(size, neurons=min(2, size.neurons), restarts=0, steps=QUICK_STEPS, link_largest=20)
