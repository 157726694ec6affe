"""From layer to layer: what each kind of layer adds to the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from core.deploy.export.draft import REAL_ACTIVATIONS, Draft
from core.deploy.export.linear import mapped
from core.deploy.export.refusals import ExportError
from core.deploy.export.stream import Grid, Pooled, Scaled, Stream
from core.deploy.form import Operation
from core.deploy.operations import AveragePool as Average
from core.deploy.operations import HardTanh, Relu
from core.interface import Rng
from core.layers import Activation, BatchNorm, BinaryLinear, Chain, Dropout, InputLinear, Network
from core.readings import SignActivation
from core.spatial import AveragePool, BinaryConv2d, ChannelScale, Flatten, InputConv2d, MaxPool, Residual
from core.statistics import Evaluation

REAL: Mapping[str, Callable[[], Operation]] = {"relu": Relu, "hardtanh": HardTanh}


def walked(draft: Draft, name: str, module: nn.Module, stream: Stream) -> Stream:
    """`stream` after the layer `name`. Raises ExportError for a layer of another kind."""
    layer = LAYERS.get(type(module))
    if layer is None:
        known = ", ".join(sorted(kind.__name__ for kind in LAYERS))
        label = name or "network"
        raise ExportError(f"{label}: there is no packed form for a {type(module).__name__}; there is for {known}")
    return layer(draft, name, module, stream)


def first_map(module: nn.Module) -> nn.Module | None:
    """The first layer with weights, which says how inputs are laid out."""
    return next((m for m in module.modules() if hasattr(m, "law") and hasattr(m, "contract")), None)


def _chain(draft: Draft, name: str, module: Chain, stream: Stream) -> Stream:
    prefix = f"{name}." if name else ""
    for i, layer in enumerate(module.layers):
        stream = walked(draft, f"{prefix}layers.{i}", layer, stream)
    return stream


def _residual(draft: Draft, name: str, module: Residual, stream: Stream) -> Stream:
    if stream.steps:  # both branches read them: made once
        stream = draft.real_numbers(stream)
    branch = walked(draft, f"{name}.branch", module.branch, stream)
    return draft.sum_of(name, branch, walked(draft, f"{name}.shortcut", module.shortcut, stream))


def _batch_norm(draft: Draft, name: str, module: BatchNorm, stream: Stream) -> Stream:
    phase = draft.reading.phase
    assert isinstance(phase, Evaluation), "the draft's reading evaluates"
    if module.key not in phase.statistics.layers:
        raise ExportError(f"{name}: no statistics for batch norm {module.key!r}; re-estimate them with core.predict")
    scale, bias = phase.statistics.affine(module.key, module)
    return draft.then(stream, Scaled(name, scale, bias, lambda h: _evaluated(module, h, draft)))


def _channel_scale(draft: Draft, name: str, module: ChannelScale, stream: Stream) -> Stream:
    scale = module.scale.detach()
    nothing = torch.full_like(scale, -0.0)
    return draft.then(stream, Scaled(name, scale, nothing, lambda h: _evaluated(module, h, draft)))


def _max_pool(draft: Draft, name: str, module: MaxPool, stream: Stream) -> Stream:
    return draft.then(stream, Pooled(name, module.size))


def _average_pool(draft: Draft, name: str, module: AveragePool, stream: Stream) -> Stream:
    if stream.flat:
        raise ExportError(f"{name}: average pooling after a Flatten; the packed form holds it over images only")
    stream = draft.real_numbers(stream)
    height, width = module.size
    entries = min(height, stream.value.shape[0]) * min(width, stream.value.shape[1])
    exact = stream.grid is not None and stream.grid.sums_exactly(entries)
    if not exact:
        draft.of_reals(name, "averages")
    grid = _averaged(stream, height, width) if exact else None
    return Stream(name, draft.add(name, Average(height, width), stream.name), grid=grid)


def _averaged(stream: Stream, height: int, width: int) -> Grid | None:
    """Quotients by a power of two stay on a grid; windows that end outside divide by other counts."""
    count = height * width
    whole = stream.value.shape[0] % height == 0 and stream.value.shape[1] % width == 0
    if stream.grid is None or not whole or count & (count - 1):
        return None
    return Grid(stream.grid.step / count, stream.grid.largest)


def _activation(draft: Draft, name: str, module: Activation, stream: Stream) -> Stream:
    if module.function == "sign":
        if type(draft.reading.activations) is not SignActivation:
            kind = type(draft.reading.activations).__name__
            raise ExportError(f"{name}: {kind} draws activations anew in each pass; export a rule with SignActivation")
        return draft.signs(stream, name)
    stream = draft.real_numbers(stream)
    draft.inexact(REAL_ACTIVATIONS)
    return replace(stream, name=name, value=draft.add(name, REAL[module.function](), stream.name), grid=None)


def _flatten(draft: Draft, name: str, module: Flatten, stream: Stream) -> Stream:
    """Nothing to run: the next linear layer's weights are permuted instead."""
    return replace(stream, flat=stream.value.shape[:2] != (1, 1))


def _dropout(draft: Draft, name: str, module: Dropout, stream: Stream) -> Stream:
    return stream


def _evaluated(module: nn.Module, h: Tensor, draft: Draft) -> Tensor:
    out: Tensor = module(h, draft.reading, Rng())
    return out


LAYERS: Mapping[type[nn.Module], Callable[[Draft, str, Any, Stream], Stream]] = {
    Network: _chain,
    Chain: _chain,
    Residual: _residual,
    InputLinear: mapped,
    InputConv2d: mapped,
    BinaryLinear: mapped,
    BinaryConv2d: mapped,
    BatchNorm: _batch_norm,
    ChannelScale: _channel_scale,
    MaxPool: _max_pool,
    AveragePool: _average_pool,
    Activation: _activation,
    Flatten: _flatten,
    Dropout: _dropout,
}
