"""Linear maps and convolutions: the operation for their kinds of input and weights, and how far its sums reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from core.contractions import Convolution, Dense, Pixels
from core.deploy.export.draft import INPUT, Draft
from core.deploy.export.refusals import ExportError
from core.deploy.export.stream import Grid, Reach, Scaled, Stream
from core.deploy.export.weights import Weights, channels_last, weights_of
from core.deploy.form import Kind, Operation
from core.deploy.operations import Add
from core.deploy.packing import pack
from core.deploy.sums import (
    BinConv2d,
    BinLinear,
    F32BinConv2d,
    F32BinLinear,
    F32Conv2d,
    F32Linear,
    IntConv2d,
    IntLinear,
)
from core.interface import WeightLaw
from core.layers import FirstLayer
from core.readings import Fixed
from core.spatial import InputConv2d

LARGEST_PIXEL = 255
LARGEST_WHOLE = 2**24  # up to here every whole number is a float32

LINEAR: dict[tuple[Kind, bool], Callable[..., Operation]] = {
    ("bits", True): BinLinear,
    ("u8", True): IntLinear,
    ("f32", True): F32BinLinear,
    ("f32", False): F32Linear,
}
CONVOLUTION: dict[tuple[Kind, bool], Callable[..., Operation]] = {
    ("bits", True): BinConv2d,
    ("u8", True): IntConv2d,
    ("f32", True): F32BinConv2d,
    ("f32", False): F32Conv2d,
}


def dense(draft: Draft, name: str, module: Any, stream: Stream) -> Stream:
    """A layer of (O, I) weights over everything that reaches it, flattened."""
    stream, weights = _given(draft, name, module.law, stream)
    height, width, channels = stream.value.shape
    if (height, width) != (1, 1) and not stream.flat:
        raise ExportError(f"{name}: images {stream.value.shape} reach a linear layer; put a Flatten before it")
    if weights.fan_in != height * width * channels:
        raise ExportError(f"{name}: its {weights.fan_in} weights an output do not fit inputs {stream.value.shape}")
    return _sums(draft, name, stream, channels_last(weights, (height, width)), LINEAR, {})


def convolution(draft: Draft, name: str, module: Any, stream: Stream) -> Stream:
    """A layer of (O, I / groups, h, w) weights over images."""
    if stream.flat:
        raise ExportError(f"{name}: a convolution after a Flatten; the packed form holds it over images only")
    stream, weights = _given(draft, name, module.law, stream)
    if isinstance(module, InputConv2d) and module.shape != (stream.value.channels, *stream.value.shape[:2]):
        raise ExportError(f"{name}: it takes images of shape {module.shape}, and inputs are {draft.input.raw_shape}")
    geometry = module.contract
    options = {"stride": geometry.stride, "padding": geometry.padding, "groups": geometry.groups}
    return _sums(draft, name, stream, channels_last(weights), CONVOLUTION, options)


def mapped(draft: Draft, name: str, module: Any, stream: Stream) -> Stream:
    """The linear map of a layer, by its contract; a first layer's normalisation of pixels after it."""
    makes = {Dense: dense, Convolution: convolution}.get(type(module.contract))
    if makes is None:
        raise ExportError(f"{name}: the packed form has no {type(module.contract).__name__}; it has dense and conv2d")
    sums = makes(draft, name, module, stream)
    return draft.then(sums, _normalisation(draft, name, module)) if isinstance(module, FirstLayer) else sums


def _given(draft: Draft, name: str, law: WeightLaw, stream: Stream) -> tuple[Stream, Weights]:
    """Weights, and what reaches them in a kind that a sum takes; weights counted, and what rounding may differ told."""
    assert isinstance(draft.reading.weights, Fixed), "other readings are refused before"
    weights = weights_of(name, law, draft.reading.weights, draft.levels)
    count = weights.bases[0].size
    if weights.binary:
        draft.binary += count
    else:
        draft.real += count
        draft.inexact(f"{name} keeps real weights")
    if stream.steps or stream.value.kind == "i32" or not weights.binary:
        stream = draft.real_numbers(stream)
    if weights.binary and stream.value.kind == "f32" and not _exact(stream, weights):
        if stream.name == INPUT:
            draft.inexact("inputs are real")
        else:
            draft.of_reals(name, "sums")
    return stream, weights


def _exact(stream: Stream, weights: Weights) -> bool:
    return stream.grid is not None and stream.grid.sums_exactly(weights.fan_in * len(weights.bases))


def _sums(
    draft: Draft,
    name: str,
    stream: Stream,
    weights: Weights,
    operations: dict[tuple[Kind, bool], Callable[..., Operation]],
    options: dict[str, int],
) -> Stream:
    operation = operations[stream.value.kind, weights.binary]
    names = [name] if len(weights.bases) == 1 else [f"{name}.base{i}" for i in range(len(weights.bases))]
    for node, base in zip(names, weights.bases, strict=True):
        value = draft.add(node, operation(pack(base) if weights.binary else base, **options), stream.name)
    made = Stream(names[0], value, reach=_reach(draft, name, stream, weights), grid=_grid(stream, weights))
    if len(names) == 1:
        return made
    label = f"{name}.bases"
    both = replace(made, name=label, value=draft.add(label, Add(), *names))
    return draft.then(both, _factor(name, weights.factor, value.channels))


def _reach(draft: Draft, name: str, stream: Stream, weights: Weights) -> Reach | None:
    """Of the sum of all bases."""
    if stream.value.kind == "f32":
        return None
    signs = np.stack([base.reshape(len(base), -1) for base in weights.bases])
    above, below = ((signs * side > 0).sum((0, 2)).astype(np.int64) for side in (1, -1))
    if stream.value.kind == "bits":
        return Reach(-(above + below), above + below)
    reach = Reach(-LARGEST_PIXEL * below, LARGEST_PIXEL * above)
    if max(-reach.least.min(), reach.most.max()) > LARGEST_WHOLE * len(weights.bases):
        draft.inexact(f"{name} sums pixels beyond 2^24, where float32 sums round")
    return reach


def _grid(stream: Stream, weights: Weights) -> Grid | None:
    if stream.grid is None or not weights.binary or not _exact(stream, weights):
        return None
    return Grid(stream.grid.step, stream.grid.largest * weights.fan_in * len(weights.bases))


def _factor(name: str, factor: float, channels: int) -> Scaled:
    """Of the bases' sum: the layer's own values, under the layer's name."""
    scale, nothing = torch.full((channels,), factor), torch.full((channels,), -0.0)
    return Scaled(name, scale, nothing, lambda h: h * factor)


def _normalisation(draft: Draft, name: str, layer: FirstLayer) -> Scaled:
    """(x - shift) / scale of a first layer's raw inputs, after its sums."""
    assert isinstance(draft.reading.weights, Fixed), "other readings are refused before"
    weights = draft.reading.weights.weights[layer.law]
    pixels = Pixels(layer.contract, layer.shift, layer.inverse_scale)
    scale = layer.inverse_scale.expand(len(weights)).clone()
    return Scaled(f"{name}.normalised", scale, pixels.offset(weights), lambda h: pixels.of_sums(h, weights))
