"""Layers that pass (x, reading, rng): linear maps over a weight law, batch norm, dropout, activations, Chain.

A layer is bilinear in (signal, weights) and offers only that contraction; how weights are read is the reading's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.claims import laws, real_parameters
from core.contractions import Dense, Map, Pixels
from core.interface import (
    Gaussian,
    GaussianActivationReading,
    Reading,
    Rng,
    Signal,
    SignPair,
    UnsupportedReading,
    WeightLaw,
)
from core.ops import REAL_FUNCTIONS

ACTIVATION_BITS = {"relu": 32, "hardtanh": 32, "sign": 1}
ROLES = ("batch", "stochastic", "per-task")


class BinaryLinear(nn.Module):
    """x (B, I) -> (B, O) through a law over (O, I) weights, no bias (batch norm follows). signs: x is -1 or +1."""

    def __init__(self, law: WeightLaw, *, signs: bool = False) -> None:
        super().__init__()
        self.law = law
        self.contract = Dense(signs)

    def forward(self, x: Signal, reading: Reading, rng: Rng) -> Signal:
        return reading.weights(self.law, self.contract, x, rng, reading.tape)


class FirstLayer(nn.Module):
    """What first layers share: raw values (pixels 0..255), and their normalisation (x - shift) / scale.

    Training contracts normalised, dropped-out inputs. Otherwise the integer pixels are contracted, exactly in float32
    (|sum| <= I * maximum < 2^24), and the normalisation is applied as one multiply and one add per output:
    h = (W x) / scale - shift / scale * sum(W). Padding is pixel value 0 in both: a black frame, pixels like the others.
    """

    shift: Tensor
    inverse_scale: Tensor

    def __init__(
        self, law: WeightLaw, contract: Map, *, shift: float, scale: float, maximum: float, dropout: float
    ) -> None:
        super().__init__()
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"first layer: scale must be finite and > 0 (got {scale})")
        fan_in = math.prod(law.shape[1:])
        if fan_in * maximum >= 2**24:
            raise ValueError(
                f"first layer: {fan_in} inputs up to {maximum} can sum to {fan_in * maximum}, "
                "beyond 2^24, where float32 sums stop being exact"
            )
        self.law = law
        self.contract = contract
        self.dropout = Dropout(dropout)
        self.register_buffer("shift", torch.tensor(shift))
        self.register_buffer("inverse_scale", torch.tensor(1 / scale))

    @abstractmethod
    def arranged(self, x: Tensor) -> Tensor:
        """The batch in the shape that the layer contracts."""

    def forward(self, x: Float[Tensor, " B *shape"], reading: Reading, rng: Rng) -> Signal:
        x, pixels = self.arranged(x), Pixels(self.contract, self.shift, self.inverse_scale)
        if reading.phase is not None and reading.phase.training:
            x = self.dropout(pixels.normalised(x), reading, rng)
            return reading.weights(self.law, self.contract.bare(), x, rng, reading.tape)
        return reading.weights(self.law, pixels, x, rng, reading.tape)


class InputLinear(FirstLayer):
    """A first layer of (O, I) weights: raw values of any shape, flattened -> (B, O)."""

    def __init__(self, law: WeightLaw, *, shift: float, scale: float, maximum: float, dropout: float) -> None:
        super().__init__(law, Dense(), shift=shift, scale=scale, maximum=maximum, dropout=dropout)

    def arranged(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class BatchNorm(nn.Module):
    """Batch norm over dimension 1 with an explicit policy; the phase of the reading says which statistics it uses.

    affine: a trained gain and bias (real parameters). eps is added to the variance. momentum is the weight of the new
    batch in the running averages (torch's convention), which only training-time monitoring uses: predictions
    re-estimate. `name` is its path in the network, the key of its statistics. role: the normalisation that the method
    declares; only "stochastic" takes Gaussian pre-activations (Peters & Welling 2018). "per-task" keeps statistics for
    each task of a sequence, running averages (T, C), and shares gain and bias; `core.tasks` says which task it is.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, affine: bool, eps: float, momentum: float, role: str = "batch") -> None:
        super().__init__()
        if role not in ROLES:
            raise ValueError(f"normalisation must be one of {', '.join(ROLES)} (got {role!r})")
        self.role = role
        if not (eps > 0 and math.isfinite(eps)):
            raise ValueError(f"network.eps must be finite and > 0 (got {eps})")
        if not 0 <= momentum <= 1:
            raise ValueError(f"network.momentum must be in [0, 1] (got {momentum})")
        self.name = ""
        self.task = 0
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        shape = (1, channels) if role == "per-task" else (channels,)
        self.register_buffer("running_mean", torch.zeros(shape))
        self.register_buffer("running_var", torch.ones(shape))

    @property
    def key(self) -> str:
        """Under which its statistics are kept: its name, and the task where each has its own."""
        return f"{self.name}.task{self.task}" if self.role == "per-task" else self.name

    @property
    def averages(self) -> tuple[Tensor, Tensor]:
        """Running mean and variance (C,), the layer's own memory: of the current task where each has its own."""
        if self.role == "per-task":
            return self.running_mean[self.task], self.running_var[self.task]
        return self.running_mean, self.running_var

    @property
    def dtype(self) -> torch.dtype:
        """Of its stored scale and bias."""
        return self.running_mean.dtype

    def forward(self, h: Signal, reading: Reading, rng: Rng) -> Signal:
        if isinstance(h, Gaussian) and self.role != "stochastic":
            raise UnsupportedReading(
                f"batch norm {self.name!r} of role {self.role!r} cannot normalise a Gaussian: a method that reads "
                "weights with Moments() declares normalisation='stochastic'"
            )
        if reading.phase is None:
            raise ValueError(f"batch norm {self.name!r}: the reading has no phase; use reading.during(Training(), ...)")
        return reading.phase.normalise(self.key, h, self)


class Dropout(nn.Module):
    """Zeroes each entry with probability p in training and divides the rest by 1 - p.

    The mask is drawn from the phase's generator where it has one, else from the passed rng.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"network.dropout must be in [0, 1) (got {p})")
        self.p = p

    def forward(self, x: Signal, reading: Reading, rng: Rng) -> Signal:
        if self.p == 0 or reading.phase is None or not reading.phase.training:
            return x
        like = x.mean if isinstance(x, Gaussian) else x
        keep = torch.rand(like.shape, generator=reading.phase.masks or rng, dtype=like.dtype, device=like.device)
        kept = keep >= self.p
        if isinstance(x, Gaussian):
            return Gaussian(x.mean * kept / (1 - self.p), x.variance * kept / (1 - self.p) ** 2)
        return x * kept / (1 - self.p)


class Activation(nn.Module):
    """relu, hardtanh (both real, 32 bits) or sign (1 bit). The network declares it; a sign, and whatever function of a
    Gaussian, asks the reading.
    """

    def __init__(self, function: str) -> None:
        super().__init__()
        if function not in ACTIVATION_BITS:
            raise ValueError(f"network.activation must be one of {', '.join(ACTIVATION_BITS)} (got {function!r})")
        self.function = function
        self.name = ""

    def forward(self, h: Signal, reading: Reading, rng: Rng) -> Signal:
        if self.function in REAL_FUNCTIONS:
            if isinstance(h, Gaussian):
                return moment_reading(reading, "this activation").real(h, self.function, rng)
            return REAL_FUNCTIONS[self.function](h)
        after = reading.activations(h, rng)
        if reading.tape is not None:
            reading.tape.signs.append(SignPair(self.name, h, after))
        return after


class Chain(nn.Module):
    """Layers in a row, each called with (x, reading, rng)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Signal, reading: Reading, rng: Rng) -> Signal:
        for layer in self.layers:
            x = layer(x, reading, rng)
        return x


def moment_reading(reading: Reading, where: str) -> GaussianActivationReading:
    """The pass's activation reading, which must know Gaussians. Raises UnsupportedReading."""
    if not isinstance(reading.activations, GaussianActivationReading):
        raise UnsupportedReading(
            f"a Gaussian reached {where}, and {type(reading.activations).__name__} reads tensors only; moments are "
            "read by StochasticSign() (samples) or PropagatedSign() (propagates)"
        )
    return reading.activations


class Network(Chain):
    """A Chain whose layers know their names, with the bits of activations it declares."""

    def __init__(self, *layers: nn.Module, activation: str) -> None:
        super().__init__(*layers)
        self.activation = activation
        for name, module in self.named_modules():
            if isinstance(module, (BatchNorm, Activation)):
                module.name = name

    @property
    def activation_bits(self) -> int:
        """32 for real activations, 1 for signs; constant over the network's hidden layers."""
        return ACTIVATION_BITS[self.activation]

    def one_bit_inputs(self) -> dict[str, nn.Module]:
        """The layers, by name, whose every input but padding the architecture declares to be -1 or +1."""
        return {name: m for name, m in self.named_modules() if getattr(getattr(m, "contract", None), "signs", False)}

    def describe(self) -> dict[str, Any]:
        """What the network declares: its activation and its bits, parameters, and the layers with 1-bit inputs.

        An audit with hooks holds predictions to it. binary, real: numbers of parameters.
        """
        return {
            "activation": self.activation,
            "activation_bits": self.activation_bits,
            "binary": sum(math.prod(law.shape) for _, law in laws(self) if law.levels is not None),
            "real": sum(p.numel() for p in real_parameters(self)),
            "one_bit_inputs": sorted(self.one_bit_inputs()),
        }
