"""`export`: from a trained network and a prediction rule to a packed network.

The truth that it keeps is the network's evaluation on the CPU in float32, denormals included: thresholds are found on
that very code, also where training has switched denormals off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from core.contractions import Convolution
from core.deploy.export.draft import Draft
from core.deploy.export.refusals import ExportError
from core.deploy.export.walk import first_map, walked
from core.deploy.form import Form, FormError, Graph, Input, Kind, Value
from core.deploy.network import PackedNetwork
from core.interface import NoMode, Predictor, Reading, Rng, plain_logits
from core.layers import BatchNorm, Network
from core.ops import StraightThrough
from core.predict import mode, reestimate
from core.readings import Fixed, MeanWeights, SignActivation
from core.spatial import AveragePool, ChannelScale, Flatten, MaxPool
from core.statistics import Evaluation, Statistics

TRUTH = "CPU evaluation in float32 with denormals: one rounded product and one rounded sum a batch norm"
OF_IMAGES = (AveragePool, BatchNorm, ChannelScale, MaxPool)
KINDS: dict[torch.dtype, Kind] = {torch.uint8: "u8", torch.float32: "f32"}


def export(
    model: nn.Module,
    predictor: Predictor | Literal["mode"] = "mode",
    *,
    inputs: Shaped[Tensor, " N *shape"],
    statistics: Sequence[Statistics] | None = None,
    rng: Rng | None = None,
    facts: Mapping[str, Any] | None = None,
) -> PackedNetwork:
    """The networks that `predictor` averages, packed.

    inputs: the training inputs, raw: uint8 pixels or float32 features; batch-norm statistics are re-estimated from
    them, one set a network, where `statistics` is None. rng: draws an ensemble's networks; None: seed 0. facts: plain
    JSON data, kept beside the exporter's own (docs/deploy.md). Raises ExportError for what the form cannot hold.
    """
    rule = _rule(predictor)
    _check_model(model)
    rng = Rng().manual_seed(0) if rng is None else rng
    with torch.no_grad(), _denormals():
        networks = list(_networks(model, rule, inputs.cpu(), statistics, rng))
    _check_count(rule, len(networks), statistics)
    graphs = tuple(graph for _, graph in networks)
    return PackedNetwork(Form(graphs, {**(facts or {}), **_facts(rule, [draft for draft, _ in networks])}))


def kept_in_float(facts: Mapping[str, Any]) -> str:
    """What an export left in float, as a line: "3.1 % of weights kept in float".

    >>> kept_in_float({"weights": {"binary": 969, "real": 31}})
    '3.1 % of weights kept in float'
    """
    counts = facts["weights"]
    return f"{100 * counts['real'] / (counts['real'] + counts['binary']):.1f} % of weights kept in float"


def _networks(
    model: nn.Module, rule: Predictor, inputs: Tensor, statistics: Sequence[Statistics] | None, rng: Rng
) -> Iterator[tuple[Draft, Graph]]:
    packed_input = _input(model, inputs)
    for i, reading in enumerate(_readings(model, rule, rng)):
        _check_reading(rule, reading)
        if statistics is not None and i >= len(statistics):
            raise ExportError(f"rule {rule.name!r} averages more networks than the {len(statistics)} statistics given")
        used = reestimate(model, reading, inputs, rng) if statistics is None else statistics[i]
        draft = Draft(packed_input, reading.during(Evaluation(used)), rule.levels)
        end = draft.real_numbers(walked(draft, "", model, draft.start()))
        if end.flat:
            raise ExportError("the network ends in a Flatten of images; end it in a linear layer")
        if not draft.binary:
            raise ExportError(
                f"rule {rule.name!r}: no layer has binary weights, so there is nothing to pack; export a network of a "
                "method with binary weights"
            )
        yield draft, draft.graph(end)


def _rule(predictor: Predictor | str) -> Predictor:
    rule = mode(SignActivation(StraightThrough())) if predictor == "mode" else predictor
    if not isinstance(rule, Predictor):
        raise ExportError(f"predictor must be 'mode' or a core.interface.Predictor (got {predictor!r})")
    if rule.combine == "probabilities" and rule.networks > 1:
        raise ExportError(
            f"rule {rule.name!r} averages probabilities, and packed networks average logits; export ensemble(k) with "
            "combine='logits'"
        )
    return rule


def _readings(model: nn.Module, rule: Predictor, rng: Rng) -> Iterator[Reading]:
    try:
        yield from rule.readings(model, rng)
    except NoMode as error:
        raise ExportError(f"rule {rule.name!r}: {error}") from error


def _check_reading(rule: Predictor, reading: Reading) -> None:
    if isinstance(reading.weights, MeanWeights):
        raise ExportError(
            f"rule {rule.name!r} predicts with real weights E[w], which no bits hold; export 'mode', ensemble(k) or "
            "ternary"
        )
    if rule.scores is not plain_logits and isinstance(reading.weights, Fixed):
        raise ExportError(f"rule {rule.name!r} makes scores of its own from the output; export a rule of plain logits")
    if not isinstance(reading.weights, Fixed):
        raise ExportError(
            f"rule {rule.name!r} reads weights by {type(reading.weights).__name__}, which fixes no network; export "
            "'mode', ensemble(k) or ternary"
        )


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, Network):
        raise ExportError(f"a core.layers.Network is exported (got a {type(model).__name__})")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise ExportError(f"{name} is on {tensor.device}; the truth is the CPU's: export model.to('cpu')")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(f"{name} is {tensor.dtype}; packed networks compute in float32: export model.float()")


def _check_count(rule: Predictor, found: int, statistics: Sequence[Statistics] | None) -> None:
    for what, count in (("declares", rule.networks), ("came with statistics for", len(statistics or [0] * found))):
        if count != found:
            raise ExportError(f"rule {rule.name!r} {what} {count} networks but made {found}")


def _input(model: nn.Module, inputs: Tensor) -> Input:
    if inputs.dtype not in KINDS:
        raise ExportError(
            f"inputs must be uint8 pixels or float32 features (got {inputs.dtype}); convert them with "
            "inputs.to(torch.float32), where training saw the same numbers"
        )
    if not len(inputs):
        raise ExportError(f"inputs of shape {tuple(inputs.shape)} hold no example; give the training inputs")
    raw, first = tuple(inputs.shape[1:]), first_map(model)
    shape = (1, 1, math.prod(raw))
    if first is not None and not isinstance(first.contract, Convolution) and len(raw) > 1:
        _check_order(model)
    if first is not None and isinstance(first.contract, Convolution):
        channels, height, width = raw if len(raw) == 3 else (1, *raw) if len(raw) == 2 else (0, 0, 0)
        if not channels:
            raise ExportError(f"inputs of shape {raw} are no images (channels, height, width); reshape them so")
        shape = (height, width, channels)
    try:
        return Input(raw, Value(KINDS[inputs.dtype], shape))
    except FormError as error:
        raise ExportError(f"inputs: {error}") from None


def _check_order(model: nn.Module) -> None:
    """A dense first layer takes images as a row of numbers, so what works on channels of images cannot come before."""
    for name, module in model.named_modules():
        if hasattr(module, "law") or isinstance(module, Flatten):
            return
        if isinstance(module, OF_IMAGES):
            raise ExportError(
                f"{name}: a {type(module).__name__} of images before the first layer with weights, a linear one; the "
                "packed form has it after a convolution only. Apply it to the inputs before training and export"
            )


def _facts(rule: Predictor, drafts: Sequence[Draft]) -> dict[str, Any]:
    reasons = list(dict.fromkeys(reason for draft in drafts for reason in draft.reasons))
    return {
        "exact": not reasons,
        "inexact_because": reasons,
        "weights": {"binary": drafts[0].binary, "real": drafts[0].real},
        "predictor": rule.name,
        "truth": TRUTH,
    }


@contextmanager
def _denormals() -> Iterator[None]:
    """Float32 as IEEE has it, whatever the process has set."""
    flushed = (torch.tensor(1e-40) * 1).item() == 0  # torch can set this mode but not tell it
    torch.set_flush_denormal(False)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
