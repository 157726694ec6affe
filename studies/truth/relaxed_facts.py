"""The scale of BayesBiNN's gradient, N (1 - w^2) / (tau (1 - mu^2)): its mean and deviation against quadrature."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Size, Tensor

import methods
from core.interface import Tape
from core.seeds import generator
from studies.truth import theory
from studies.truth.problems import EachCopy
from studies.truth.rows import Row, agrees

SCALES = ((1.0, 0.0), (1.0, 1.0), (1.0, 2.0), (0.5, 0.0), (0.2, 0.0), (0.1, 0.0), (0.1, 2.0))  # (temperature, lambda)


def gumbel_scale(draws: int) -> Iterator[Row]:
    """E[s] / N, which is 1 only as the temperature goes to 0, and the deviation of s / N, which then grows.

    Meng, Bachmann & Khan 2020, the learning rule's s. The method's own law, reading and geometry; a linear loss.
    """
    for temperature, natural in SCALES:
        scale = _scales(temperature, natural, draws)
        mean, deviation = (float(q) for q in theory.gumbel_scale(torch.tensor(natural).double(), temperature))
        about = ("linear", "bayesbinn", f"relaxed sign, temperature {temperature:g}")
        value, error = float(scale.mean()), float(scale.std()) / math.sqrt(draws)
        quantity = f"E[s]/N at lambda {natural:g}"
        yield Row(*about, quantity, value, mean, error, agrees(value, mean, error))
        # delta method: the error of a deviation from the fourth moment
        squares = (scale - value) ** 2
        spread = float(squares.mean().sqrt())
        error = float(squares.std()) / (2 * spread * math.sqrt(draws))
        quantity = f"deviation of s/N at lambda {natural:g}"
        yield Row(*about, quantity, spread, deviation, error, agrees(spread, deviation, error))


def _scales(temperature: float, natural: float, draws: int) -> Tensor:
    """Natural gradients of a loss of slope 1 in one weight: (draws,), each of a weight with |lambda| = natural."""
    method = methods.make("bayesbinn", temperature=temperature, natural0=natural)
    rng, tape = generator("oracle", "scale"), Tape()
    law = method.law(Size((1, draws)), rng).double()
    output = method.train(0.0).weights(law, EachCopy(), torch.ones(1, draws).double(), rng, tape)
    assert isinstance(output, Tensor)
    output.sum().backward()
    tape.pull_back()
    (coordinate,) = law.coordinates()
    assert coordinate.parameter.grad is not None
    return coordinate.geometry.to_tangent(coordinate.parameter.detach(), coordinate.parameter.grad).flatten()
