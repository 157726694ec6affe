"""Integer thresholds: what a run of scales, batch norms and poolings between integer sums and a sign comes to.

Found by bisection on the layers' own float32 code; the closed form from mean, variance and gain is wrong by one in
about one channel of a hundred, because every step rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.deploy.export.refusals import ExportError, require_finite
from core.deploy.export.stream import Pooled, Reach, Scaled, Step
from core.ops import sign


@dataclass(frozen=True)
class Cut:
    """bit = (s >= at) != flip for each channel, then the poolings. at: (C,) int32; flip: (C,) bool.

    smallest: one (C,) bool a pooling, in order: where the sign falls as the pooled number rises, so that bits are
    joined by *and*.
    """

    at: np.ndarray
    flip: np.ndarray
    smallest: tuple[np.ndarray, ...]


def cut(name: str, steps: Sequence[Step], reach: Reach) -> Cut:
    """What the sign `name` of integer sums within `reach` comes to after `steps`.

    Each step is monotone and so is its rounding: the sign changes at most once over the reachable integers, upwards
    where the product of the scales' signs is not negative. Raises ExportError for a channel whose numbers leave
    float32, or whose sign is not what the threshold says at either side of it or at either end.
    """
    scaled = [step for step in steps if isinstance(step, Scaled)]
    _require_finite_ends(scaled, reach)
    flip = _falls(scaled, len(reach.least))
    at = _first(scaled, flip, reach)
    _verify(name, scaled, at, flip, reach)
    after = (steps[i + 1 :] for i, step in enumerate(steps) if isinstance(step, Pooled))
    smallest = tuple(_falls([s for s in rest if isinstance(s, Scaled)], len(at)) for rest in after)
    return Cut(at.astype(np.int32), flip, smallest)


def _falls(steps: Sequence[Scaled], channels: int) -> np.ndarray:
    """Whether the composition falls; a scale of 0 makes it constant, which counts as rising."""
    direction = torch.ones(channels)
    for step in steps:
        direction = direction * step.scale.sign()
    return (direction < 0).numpy()


def _first(steps: Sequence[Scaled], flip: np.ndarray, reach: Reach) -> np.ndarray:
    """The first integer from which the sign is +1 (-1 where it falls), one beyond the reach where it never is."""
    before, after = reach.least - 1, reach.most + 1
    while (open_ := after - before > 1).any():
        middle = np.where(open_, (before + after) // 2, np.minimum(after, reach.most))
        reached = _positive(steps, middle) != flip
        before, after = np.where(open_ & ~reached, middle, before), np.where(open_ & reached, middle, after)
    return after


def _verify(name: str, steps: Sequence[Scaled], at: np.ndarray, flip: np.ndarray, reach: Reach) -> None:
    for sums in (reach.least, reach.most, np.clip(at - 1, *reach), np.clip(at, *reach)):
        wrong = _positive(steps, sums) != ((sums >= at) != flip)
        if wrong.any():
            channel = int(wrong.argmax())
            raise ExportError(
                f"{name}: the sign of channel {channel} is no threshold of its integer sum (at {sums[channel]}); "
                f"the layers before it ({', '.join(step.name for step in steps)}) are not monotone there"
            )


def _require_finite_ends(steps: Sequence[Scaled], reach: Reach) -> None:
    """Monotone steps that are finite at both ends are finite between them."""
    for sums in reach:
        h = _as_row(sums)
        for step in steps:
            h = step.apply(h)
            require_finite(step.name, f"what it makes of the sum {_worst(h, sums)}", h)


def _worst(h: Tensor, sums: np.ndarray) -> int:
    return int(sums[int((~h[0].isfinite()).int().argmax())])


def _positive(steps: Sequence[Scaled], sums: np.ndarray) -> np.ndarray:
    h = _as_row(sums)
    for step in steps:
        h = step.apply(h)
    return (sign(h)[0] > 0).numpy()


def _as_row(sums: np.ndarray) -> Tensor:
    return torch.from_numpy(sums).to(torch.float32)[None]
