"""The weights of a linear map under a reading, as the packed form holds them: bases of signs, or real numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.deploy.export.refusals import ExportError, require_finite
from core.interface import BINARY, WeightLaw
from core.readings import Fixed

TERNARY = (-1.0, 0.0, 1.0)


@dataclass(frozen=True)
class Weights:
    """w = factor * sum of `bases`, float32 of one shape: of -1 and +1, or one of real numbers."""

    bases: tuple[np.ndarray, ...]
    factor: float
    binary: bool

    @property
    def fan_in(self) -> int:
        """K, the number of products in one sum."""
        return math.prod(self.bases[0].shape[1:])


def weights_of(name: str, law: WeightLaw, fixed: Fixed, levels: tuple[float, ...] | None) -> Weights:
    """The weights that `fixed` gives `law`, in the law's own shape.

    levels: what the prediction rule says a binary law's weights are, None for the law's own. A ternary weight is half
    the sum of two signs. Raises ExportError for weights of another network, not finite, or of other levels.
    """
    if law not in fixed.weights:
        raise ExportError(f"{name}: the reading has no weights for it; it was made from another network")
    for kind, parameter in law.named_parameters():  # the sign of a nan is -1, and would look sound
        require_finite(name, f"the law's {kind}", parameter.detach())
    weights = fixed.weights[law].detach()
    require_finite(name, "weights", weights)
    real = law.levels is None
    if not real:
        _require_levels(name, weights, levels or law.levels or BINARY)
    array = np.ascontiguousarray(weights.numpy(), dtype=np.float32)
    if real or (array != 0).all():
        return Weights((array,), 1.0, not real)
    return Weights((_signs(array >= 0), _signs(array > 0)), 0.5, True)


def channels_last(weights: Weights, spatial: tuple[int, int] | None = None) -> Weights:
    """Weights (O, C, h, w) as (O, h, w, C). spatial: (H, W) of the value that a linear map (O, C H W) takes whole."""
    return Weights(tuple(_moved(base, spatial) for base in weights.bases), weights.factor, weights.binary)


def _moved(array: np.ndarray, spatial: tuple[int, int] | None) -> np.ndarray:
    shaped = array if spatial is None else array.reshape(len(array), -1, *spatial)
    return np.ascontiguousarray(shaped.transpose(0, 2, 3, 1))


def _signs(positive: np.ndarray) -> np.ndarray:
    return np.where(positive, np.float32(1), np.float32(-1))


def _require_levels(name: str, weights: Tensor, levels: tuple[float, ...]) -> None:
    if not set(BINARY) <= set(levels) <= set(TERNARY):
        raise ExportError(
            f"{name}: weights of levels {levels} have no packed form; it holds -1, +1 and -1, 0, +1 (export the mode)"
        )
    wrong = ~torch.isin(weights, weights.new_tensor(levels)).flatten()
    if wrong.any():
        place = int(wrong.nonzero()[0])
        raise ExportError(
            f"{name}: weights must be {', '.join(f'{v:+g}' for v in levels)} (got {weights.flatten()[place]:g} at "
            f"{place}); export the mode or drawn weights, which are"
        )
