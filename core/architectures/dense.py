"""Fully connected networks: `mlp` covers those of the literature.

MLP_BAYESBINN is the MNIST net of Meng et al. 2020 (784-2048x3-10, dropout 0.2 before every layer, batch norm without
affine, eps 1e-4, momentum 0.15, all layers binary).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from core.architectures.parts import InputForm, LawFactory, Parts, one_of, positive_integers
from core.interface import Rng
from core.layers import Activation, Network

MLP_BAYESBINN: dict[str, Any] = {"widths": (2048, 2048, 2048), "dropout": 0.2}


def mlp(
    form: InputForm,
    classes: int,
    law: LawFactory,
    rng: Rng,
    role: str = "batch",
    *,
    widths: tuple[int, ...] = (512, 512),
    activation: str = "relu",
    dropout: float = 0.0,
    affine: bool = False,
    eps: float = 1e-4,
    momentum: float = 0.15,
    first: str = "binary",
    last: str = "binary",
) -> Network:
    """[dropout -> linear -> batch norm -> activation] per width, then dropout -> linear -> batch norm (the logits).

    widths: hidden units per layer. activation: relu, hardtanh or sign. dropout: probability, before every linear map,
    the input's included. affine, eps, momentum: batch norm's. first, last: binary (the method's law) or real. role: the
    normalisation that the method declares.
    """
    positive_integers("widths", widths)
    one_of("first", first, ("binary", "real"))
    one_of("last", last, ("binary", "real"))
    if first == last == "real" and len(widths) == 1:
        raise ValueError(
            "network.first=real and network.last=real leave one hidden layer no binary weights; add a width"
        )
    parts = Parts(form, law, rng, role, activation, affine, eps, momentum, dropout)
    layers: list[nn.Module] = [*parts.first_linear(widths[0], first), parts.norm(widths[0]), Activation(activation)]
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        layers += [*parts.linear(n_in, n_out, "binary"), parts.norm(n_out), Activation(activation)]
    return Network(*layers, *parts.linear(widths[-1], classes, last), parts.norm(classes), activation=activation)
