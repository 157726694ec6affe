"""What a network is made of: per layer its output, parameters, memory and multiply-accumulates.

In the manner of the model summary of Larq (Geiger & Team 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from core.architectures import InputForm
from core.interface import Contract, Reading, Rng, Signal, Tape, WeightLaw
from core.layers import BatchNorm, Dropout
from core.ops import StraightThrough
from core.predict import as_float
from core.readings import SignActivation

REAL_BITS = 32
HEADER = ("layer", "kind", "in", "output", "1-bit", "32-bit", "kB", "1-bit kMAC", "32-bit kMAC")


@dataclass(frozen=True)
class Row:
    """One layer of the deployed network and what it costs for one example.

    inputs: 1 where its weights meet signs, 32 where they meet other values, None without weights. binary, real:
    parameters with few levels, and with 32 bits; of a batch norm, the scale and bias that it becomes. bits: memory of
    both. binary_macs: products of a binary weight and a sign; real_macs: of all other weights and inputs. Both count
    taps on padding.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    inputs: int | None = None
    binary: int = 0
    real: int = 0
    bits: int = 0
    binary_macs: int = 0
    real_macs: int = 0


@dataclass(frozen=True)
class Summary:
    """Rows in the order of the pass; printed as a table (of our networks, at most 100 columns).

    There names are without the word `layers`; kB are 1000 bytes and kMAC 1000 multiply-accumulates an example.
    """

    rows: tuple[Row, ...]

    def total(self, column: str) -> int:
        """The sum of binary, real, bits, binary_macs or real_macs over the layers."""
        return sum(getattr(row, column) for row in self.rows)

    @property
    def real_bits(self) -> int:
        """Memory if every parameter had 32 bits."""
        return REAL_BITS * (self.total("binary") + self.total("real"))

    def __str__(self) -> str:
        numbers = ("binary", "real", "bits", "binary_macs", "real_macs")
        whole = ("total", "", "", "", *_numbers(*(self.total(column) for column in numbers)))
        lines = [HEADER, *(_cells(row) for row in self.rows), whole]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
        head, *body, foot = (_aligned(line, widths) for line in lines)
        rule = "-" * max(len(line) for line in (head, *body, foot))
        return "\n".join([head, rule, *body, rule, foot, self._savings()])

    def _savings(self) -> str:
        kilobytes, real_kilobytes = self.total("bits") / 8000, self.real_bits / 8000
        ratio, binary = real_kilobytes / kilobytes, self.total("binary_macs")
        return (
            f"{kilobytes:,.1f} kB; with 32 bits a parameter {real_kilobytes:,.1f} kB, {ratio:.1f} times as much; "
            f"{binary / (binary + self.total('real_macs')):.1%} of MACs binary"
        )


@torch.no_grad()
def summary(network: nn.Module, form: InputForm) -> Summary:
    """The layers of `network` for inputs of `form`, seen in one pass of one example that leaves no trace.

    >>> from core.architectures import build
    >>> from core.laws import Point, initial_uniform
    >>> form = InputForm(64, shape=(1, 8, 8), maximum=16.0, integer=True)
    >>> rng = Rng().manual_seed(0)
    >>> net = build("mlp", form, 10, lambda s, r: Point(initial_uniform(s, r)), rng, widths=(32,), activation="sign")
    >>> print(summary(net, form))
    layer  kind          in  output  1-bit  32-bit   kB  1-bit kMAC  32-bit kMAC
    ----------------------------------------------------------------------------
    0      InputLinear   32      32  2,048          0.3                      2.0
    1      BatchNorm             32             64  0.3
    2      Activation            32
    4      BinaryLinear   1      10    320          0.0         0.3
    5      BatchNorm             10             20  0.1
    ----------------------------------------------------------------------------
    total                            2,368      84  0.6         0.3          2.0
    0.6 kB; with 32 bits a parameter 9.8 kB, 15.5 times as much; 13.5% of MACs binary
    """
    rng = Rng().manual_seed(0)
    inputs = torch.rand(1, *(form.shape or (form.features,)), generator=rng)
    counting, seen = _Counting(rng), list[tuple[str, nn.Module, torch.Size]]()

    def note(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_hook(lambda layer, args, output: seen.append((name, layer, output.shape[1:])))

    hooks = [note(name, layer) for name, layer in _layers(network)]
    try:
        device = next((p.device for p in network.parameters()), inputs.device)
        network(as_float(inputs.to(device), network), Reading(counting, SIGNS, _Unnormalised()), rng)
    finally:
        for hook in hooks:
            hook.remove()
    return Summary(tuple(_row(name, layer, tuple(shape), counting) for name, layer, shape in seen))


SIGNS = SignActivation(StraightThrough())


@dataclass
class _Counting:
    """Reads small random weights, and keeps of each law its products and whether they are with signs alone.

    Sums below 1 keep every real activation apart from -1 and +1, which then are signs.
    """

    rng: Rng
    seen: dict[WeightLaw, tuple[int, bool]] = field(default_factory=dict)

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Tensor:
        assert isinstance(x, Tensor), "nothing in this pass makes a Gaussian"
        fan_in = math.prod(law.shape[1:])
        weights = (torch.rand(law.shape, generator=self.rng) - 0.5) / fan_in
        h = contract(x, weights.to(x))
        self.seen[law] = h[0].numel() * fan_in, bool((x.abs() == 1).all())
        return h


class _Unnormalised:
    """A phase whose batch norm is the identity: one example has no statistics."""

    training = False
    masks = None

    def normalise(self, name: str, h: Signal, norm: nn.Module) -> Signal:
        return h


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that hold nothing but a law and a dropout."""
    inner = (WeightLaw, Dropout)
    for name, module in network.named_modules():
        if not isinstance(module, inner) and all(isinstance(child, inner) for child in module.children()):
            yield name, module


def _row(name: str, layer: nn.Module, output: tuple[int, ...], counting: _Counting) -> Row:
    kind = type(layer).__name__
    law = next((child for child in layer.children() if isinstance(child, WeightLaw)), None)
    if law is None:
        real = 2 * output[0] if isinstance(layer, BatchNorm) else sum(p.numel() for p in layer.parameters())
        return Row(name, kind, output, real=real, bits=REAL_BITS * real)
    macs, signs = counting.seen[law]
    inputs, count = (1 if signs else REAL_BITS), law.shape.numel()
    if law.levels is None:
        kind = kind.removeprefix("Binary")
        return Row(name, kind, output, inputs, real=count, bits=REAL_BITS * count, real_macs=macs)
    bits = count * math.ceil(math.log2(len(law.levels)))
    if signs:
        return Row(name, kind, output, inputs, binary=count, bits=bits, binary_macs=macs)
    return Row(name, kind, output, inputs, binary=count, bits=bits, real_macs=macs)


def _cells(row: Row) -> tuple[str, ...]:
    name = row.name.replace("layers.", "")
    output = "x".join(map(str, row.output))
    inputs = "" if row.inputs is None else str(row.inputs)
    return name, row.kind, inputs, output, *_numbers(row.binary, row.real, row.bits, row.binary_macs, row.real_macs)


def _numbers(binary: int, real: int, bits: int, binary_macs: int, real_macs: int) -> tuple[str, ...]:
    whole = (f"{n:,}" if n else "" for n in (binary, real))
    parts = (f"{n:,.1f}" if n else "" for n in (bits / 8000, binary_macs / 1000, real_macs / 1000))
    return *whole, *parts


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    words = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
    return "  ".join([*words, *(cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True))]).rstrip()
