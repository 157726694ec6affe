"""torch as a peer, one thread: float32 and int8 products and convolutions, each in every form that may be its fastest.

int8: dynamic and static quantized linear and convolution through both engines, and `torch._int_mm`. Which form is the
fastest depends on the shape, so all are timed and the best one is the peer.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studies.deploying.bench.goals import Missing

Runs = dict[str, Callable[[], object]]
ENGINES = ("x86", "onednn")
FP32, INT8 = "torch fp32", "torch int8"


def best(medians: Mapping[str, float], peer: str) -> float:
    """Seconds of a peer's fastest form."""
    return medians[fastest(medians, peer)]


def fastest(medians: Mapping[str, float], peer: str) -> str:
    """The name of a peer's fastest form. Raises Missing where torch runs none here."""
    forms = [name for name in medians if name.startswith(peer)]
    if not forms:
        raise Missing(f"torch {torch.__version__} has no form of {peer} that runs here")
    return min(forms, key=lambda name: medians[name])


def linear(rows: int, outputs: int, inputs: int, rng: torch.Generator) -> Runs:
    """Products of random float32 inputs (rows, inputs) and weights (outputs, inputs), in float32 and int8."""
    x, w = torch.randn(rows, inputs, generator=rng), torch.randn(outputs, inputs, generator=rng)
    across = w.t().contiguous()
    runs: Runs = {f"{FP32} mm": lambda: torch.mm(x, across), f"{FP32} linear": lambda: F.linear(x, w)}
    pixels, signed = _quantized(x, torch.quint8), _quantized(w, torch.qint8)
    for engine in _engines():
        with _engine(engine):
            packed = torch.ops.quantized.linear_prepack(signed, None)
        runs[f"{INT8} dynamic, {engine}"] = lambda p=packed: torch.ops.quantized.linear_dynamic(x, p)
        runs[f"{INT8} static, {engine}"] = lambda p=packed: torch.ops.quantized.linear(pixels, p, 1.0, 64)
    if rows > 16:  # torch._int_mm refuses fewer rows
        a, b = x.mul(30).to(torch.int8), across.mul(30).to(torch.int8)
        runs[f"{INT8} _int_mm"] = lambda: torch._int_mm(a, b)
    return _quiet(runs)


def convolution(channels: int, side: int, batch: int, rng: torch.Generator) -> Runs:
    """3 x 3 convolutions, padded by 1, of channels-last images, in float32 and int8."""
    x = torch.randn(batch, channels, side, side, generator=rng).to(memory_format=torch.channels_last)
    w = torch.randn(channels, channels, 3, 3, generator=rng).to(memory_format=torch.channels_last)
    runs: Runs = {f"{FP32} channels_last": lambda: F.conv2d(x, w, padding=1)}
    pixels = _quantized(x, torch.quint8).contiguous(memory_format=torch.channels_last)
    signed = _quantized(w, torch.qint8)
    for engine in _engines():
        with _engine(engine):
            packed = torch.ops.quantized.conv2d_prepack(signed, None, [1, 1], [1, 1], [1, 1], 1)
        runs[f"{INT8} static, {engine}"] = lambda p=packed: torch.ops.quantized.conv2d(pixels, p, 1.0, 64)
    return _quiet(runs)


def mlp(widths: tuple[int, ...], batch: int, rng: torch.Generator) -> Runs:
    """A float32 network of these widths, batch norm folded into the biases, relu in place (sign is slower)."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True)]
    return _network(nn.Sequential(*layers[:-1]), torch.randn(batch, widths[0], generator=rng))


def binarynet(batch: int, rng: torch.Generator, *, width: int = 1) -> Runs:
    """The CIFAR network in float32, channels last, batch norm folded into the biases, pooling before relu in place.

    width: divides every layer's.
    """
    layers: list[nn.Module] = []
    n_in = 3
    for index, n_out in enumerate((128, 128, 256, 256, 512, 512)):
        n_out, pooled = n_out // width, index % 2
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), *[nn.MaxPool2d(2)] * pooled, nn.ReLU(inplace=True)]
        n_in = n_out
    layers.append(nn.Flatten())
    widths = (8192 // width, 1024 // width, 1024 // width, 10)
    for wide, narrow in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(wide, narrow), nn.ReLU(inplace=True)]
    x = torch.randn(batch, 3, 32, 32, generator=rng).to(memory_format=torch.channels_last)
    return _network(nn.Sequential(*layers[:-1]).to(memory_format=torch.channels_last), x)


def _network(model: nn.Module, x: Tensor) -> Runs:
    """As users run it, and traced, frozen and optimised (weights laid out ahead for the batch)."""
    model.eval().requires_grad_(False)
    with _silent():
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(model, x)))
    return _quiet({FP32: lambda: model(x), f"{FP32} frozen": lambda: frozen(x)})


def _quiet(runs: Runs) -> Runs:
    """Without gradients, and run twice: torch warns of its first quantized tensor, and specialises the frozen graph.

    Forms that this build of torch does not run on this processor are left out, and named on stderr.
    """
    quiet: Runs = {}
    for name, call in runs.items():
        run = torch.inference_mode()(call)
        with _silent():
            try:
                run(), run()
            except (RuntimeError, NotImplementedError) as error:
                reason = str(error).partition("\n")[0][:200]
                print(f"{name}: left out, torch {torch.__version__} does not run it here: {reason}", file=sys.stderr)
                continue
        quiet[name] = run
    return quiet


def _quantized(x: Tensor, dtype: torch.dtype) -> Tensor:
    with _silent():
        return torch.quantize_per_tensor(x, 0.05, 64 if dtype == torch.quint8 else 0, dtype)


def _engines() -> list[str]:
    return [name for name in ENGINES if name in torch.backends.quantized.supported_engines]


@contextmanager
def _engine(name: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


@contextmanager
def _silent() -> Iterator[None]:
    """Quantized tensors and traces are deprecated in torch, and still its fastest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
