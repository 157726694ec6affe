"""The trained network as plain torch layers in float32: what a packed one is timed against.

Batch norm is folded into the layer before it wherever it follows at once, so torch does the least work it can; folding
rounds otherwise than evaluation, so it is timed, never compared to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from core.contractions import Convolution
from core.interface import WeightLaw
from core.layers import Activation, BatchNorm, Chain, Dropout, FirstLayer
from core.spatial import AveragePool, ChannelScale, Flatten, InputConv2d, MaxPool, Residual
from core.statistics import Statistics

Weights = Mapping[WeightLaw, Tensor]


class Sign(nn.Module):
    """-1 or +1 by one comparison and one product."""

    def forward(self, x: Tensor) -> Tensor:
        return (x >= 0).to(x.dtype).mul_(2).sub_(1)


class Sum(nn.Module):
    """branch(x) + shortcut(x)."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.branch(x) + self.shortcut(x)
        return total


class Images(nn.Module):
    """Raw values of any shape as images (B, C, H, W), channels last in memory."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape).to(memory_format=torch.channels_last)


@torch.no_grad()
def plain(model: Chain, weights: Weights, statistics: Statistics) -> nn.Module:
    """Layers of torch alone, float32, in evaluation: float raw inputs (B, *shape) -> logits.

    Raises TypeError, naming it, for a layer that it does not know.
    """
    return nn.Sequential(*_folded(_translated(model, weights, statistics))).to(memory_format=torch.channels_last).eval()


def parameters(network: nn.Module) -> int:
    """How many numbers its layers hold."""
    return sum(p.numel() for p in network.parameters())


def _translated(chain: Chain, weights: Weights, statistics: Statistics) -> Iterator[nn.Module]:
    for layer in chain.layers:
        yield from _one(layer, weights, statistics)


def _one(layer: nn.Module, weights: Weights, statistics: Statistics) -> list[nn.Module]:
    match layer:
        case Dropout():
            return []
        case Residual():
            sides = (_folded(_translated(side, weights, statistics)) for side in (layer.branch, layer.shortcut))
            return [Sum(*(nn.Sequential(*side) for side in sides))]
        case Chain():
            return list(_translated(layer, weights, statistics))
        case BatchNorm():
            return [_affine(*statistics.affine(layer.key, layer))]
        case ChannelScale():
            return [_affine(layer.scale, torch.zeros_like(layer.scale))]
        case MaxPool():
            return [nn.MaxPool2d(layer.size)]
        case AveragePool():
            return [nn.AvgPool2d(layer.size, ceil_mode=True)]
        case Flatten():
            return [nn.Flatten()]
        case Activation():
            return [{"relu": nn.ReLU, "hardtanh": nn.Hardtanh, "sign": Sign}[layer.function]()]
    if isinstance(getattr(layer, "law", None), WeightLaw):
        return _linear(layer, weights[layer.law])
    raise TypeError(f"no plain torch layer is known for {type(layer).__name__}")


def _linear(layer: nn.Module, weights: Tensor) -> list[nn.Module]:
    contract = layer.contract
    if isinstance(contract, Convolution):
        made: nn.Module = nn.Conv2d(
            weights.shape[1] * contract.groups,
            weights.shape[0],
            weights.shape[2:],
            contract.stride,
            contract.padding,
            groups=contract.groups,
        )
    else:
        made = nn.Linear(weights.shape[1], weights.shape[0])
    bias = torch.zeros(len(weights))
    if isinstance(layer, FirstLayer):  # raw inputs: their normalisation goes into weights and bias
        bias = -layer.shift * layer.inverse_scale * weights.flatten(1).sum(1)
        weights = weights * layer.inverse_scale
    _set(made, weights, bias)
    if isinstance(layer, InputConv2d):
        return [Images(layer.shape), made]
    return [nn.Flatten(), made] if isinstance(layer, FirstLayer) else [made]


def _affine(scale: Tensor, bias: Tensor) -> nn.BatchNorm2d:
    """x * scale + bias a channel, as a batch norm of mean 0 and variance 1; folded away after a linear map."""
    norm = nn.BatchNorm2d(len(scale), eps=0.0)
    norm.weight.copy_(scale)
    norm.bias.copy_(bias)
    return norm


def _folded(layers: Iterator[nn.Module]) -> list[nn.Module]:
    """Without the affine maps that follow a linear one at once."""
    kept: list[nn.Module] = []
    for layer in layers:
        before = kept[-1] if kept else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(before, (nn.Linear, nn.Conv2d)):
            shaped = layer.weight.reshape(-1, *[1] * (before.weight.ndim - 1))
            assert before.bias is not None, "every linear map here has a bias"
            _set(before, before.weight * shaped, before.bias * layer.weight + layer.bias)
        else:
            kept.append(layer)
    return kept


def _set(layer: nn.Module, weights: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weights)
    layer.bias.copy_(bias)
