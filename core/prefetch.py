"""Draws made ahead: a solver's fused pass leaves the next draw of each law here, and the reading `Prefetched` takes it.

A slot holds one law's drawn weights and the noise they were drawn with. What the pass draws from its generator is the
noise of the draw after it, which the solver's step then makes in the same sweep as pull-back and update.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from core.interface import Contract, Drawn, Rng, Signal, Surrogate, Tape, WeightLaw
from core.readings import Draw, plain


class Slot(ABC):
    """One law's draw made ahead. `state` is the solver's own state of the parameter, so that it is saved with it.

    A solver calls `move` in its step and `forget` when gradients are cleared. Everything but state["noise"] is derived:
    after a load, or when the parameter was written to from outside (but through `.data`), the draw is made again.
    """

    def __init__(self, law: WeightLaw, parameter: nn.Parameter, state: dict[str, Any]) -> None:
        self.law, self.parameter, self.state = law, parameter, state
        self.gradient: Tensor | None = None  # of the loss with respect to the drawn weights, once pulled back
        self.surrogate: Surrogate | None = None
        self._weights: Tensor | None = None
        self._next: Any = None
        self._taken = self._spent = False
        self._stamp: tuple[int, int, torch.dtype] | None = None

    @abstractmethod
    def serves(self, surrogate: Surrogate) -> bool:
        """Whether this slot can draw its law through `surrogate`."""

    @abstractmethod
    def new_noise(self, rng: Rng) -> Any:
        """Everything random about one draw: plain numbers or a tensor in the parameter's dtype."""

    @abstractmethod
    def draw(self, weights: Tensor, noise: Any, surrogate: Surrogate) -> None:
        """The draw of `noise` from the parameter as it is, into `weights`."""

    @abstractmethod
    def law_noise(self, noise: Any) -> Tensor | None:
        """The same noise as the law's own `latent` and `pull_back` take it."""

    def take(self, surrogate: Surrogate, rng: Rng) -> Drawn | None:
        """The draw of this pass; None where the reading must draw itself: a second pass in one step, a CUDA parameter
        (where reading the noise would stall the device), a surrogate this slot does not know.
        """
        if self._taken or self.parameter.is_cuda or not self.serves(surrogate):
            return None
        if self._spent:  # a pass took this draw and no step followed: the next pass gets a draw of its own
            self.state["noise"], self._weights = self._next, None
        elif "noise" not in self.state:
            self.state["noise"] = self.new_noise(rng)
        if self._weights is None or surrogate != self.surrogate or self._stamp != stamp(self.parameter):
            self._weights, self.surrogate = torch.empty_like(self.law_shaped()), surrogate
            with torch.no_grad():
                self.draw(self._weights, self.state["noise"], surrogate)
            self._stamp = stamp(self.parameter)
        self._next, self._taken, self._spent = self.new_noise(rng), True, False
        return Ahead(self, self._weights.detach().requires_grad_(), surrogate)

    def pulled_back(self) -> Tensor:
        """The gradient of the parameter, by the law's own pull-back, where a fused pass does not apply."""
        assert self.gradient is not None and self.surrogate is not None
        noise = self.law_noise(self.state["noise"])
        (pulled,) = self.law.pull_back(noise, self.gradient * self.surrogate.slope(self.law.latent(noise)))
        return pulled

    def law_shaped(self) -> Tensor:
        """A tensor of the weights' shape, dtype and device."""
        return self.parameter.detach()

    def moved(self) -> None:
        """The solver has moved the parameter and drawn with `next_noise` into `weights`."""
        self.state["noise"], self.gradient, self._taken = self._next, None, False
        torch.autograd.graph.increment_version((self.parameter, self.weights))  # native code writes unseen
        self._stamp = stamp(self.parameter)

    def forget(self) -> None:
        """Gradients are cleared: a draw that was taken and not stepped on is spent."""
        self._spent, self._taken, self.gradient = self._taken or self._spent, False, None

    def undraw(self) -> None:
        """The parameter moved without a new draw: the next pass makes it, with the noise that was to come."""
        self.state["noise"], self._weights, self.gradient, self._taken = self._next, None, None, False

    def reset(self, state: dict[str, Any]) -> None:
        """Another state was loaded: the next pass makes its draw again."""
        self.state, self._weights, self.gradient = state, None, None
        self._taken = self._spent = False

    @property
    def weights(self) -> Tensor:
        """The drawn weights, to be overwritten by the next draw."""
        assert self._weights is not None, "a slot holds no weights before its first pass"
        return self._weights

    @property
    def next_noise(self) -> Any:
        """The noise of the draw that the step is to make."""
        return self._next


class Ahead(Drawn):
    """A draw made ahead, on the tape: its pull-back leaves the weights' gradient with the slot, for the solver.

    Noise and latent are made again when asked for, from the law as it is: ask before the solver's step.
    """

    _slot: Slot
    _noise: Any

    def __init__(self, slot: Slot, weights: Tensor, surrogate: Surrogate) -> None:
        # the fields of the frozen parent, but for the two that are properties here
        vars(self).update(law=slot.law, weights=weights, surrogate=surrogate, _slot=slot, _noise=slot.state["noise"])

    @property
    def noise(self) -> Tensor | None:
        """As the law's own `latent` takes it."""
        noise: Tensor | None = self._slot.law_noise(self._noise)
        return noise

    @property
    def latent(self) -> Tensor:
        """The latent under the weights."""
        return self.law.latent(self.noise).detach()

    def pull_back(self) -> None:
        """Keep the weights' gradient for the step, which pulls it back, moves and draws in one pass."""
        self._slot.gradient = self.weights.grad


@dataclass(frozen=True)
class Slots:
    """The slots of every law that a solver draws ahead; a method's reading and its solver share one."""

    of: WeakKeyDictionary[WeightLaw, Slot] = field(default_factory=WeakKeyDictionary)


@dataclass(frozen=True)
class Prefetched:
    """Draw(surrogate), with the draw made ahead where a solver keeps a slot for the law, else by Draw itself."""

    surrogate: Surrogate
    slots: Slots

    def __call__(self, law: WeightLaw, contract: Contract, x: Signal, rng: Rng, tape: Tape | None) -> Tensor:
        x = plain(x, "Prefetched")
        slot = self.slots.of.get(law)
        drawn = None if slot is None or tape is None else slot.take(self.surrogate, rng)
        if drawn is None:
            return Draw(self.surrogate)(law, contract, x, rng, tape)
        assert tape is not None
        tape.drawn.append(drawn)
        return contract(x, drawn.weights)


def stamp(parameter: Tensor) -> tuple[int, int, torch.dtype]:
    """Changes whenever the tensor is written to or replaced."""
    return parameter._version, parameter.data_ptr(), parameter.dtype
