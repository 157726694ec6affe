"""What export refuses: by the layer's name, with the reason and the way out."""

from __future__ import annotations

from torch import Tensor


class ExportError(ValueError):
    """A network that the packed form cannot hold; the message names the layer, the reason and the way out."""


def require_finite(name: str, what: str, values: Tensor) -> None:
    """Raises ExportError for a nan or an infinity, with its place in the flattened tensor."""
    finite = values.isfinite().flatten()
    if not finite.all():
        place = int((~finite).nonzero()[0])
        raise ExportError(
            f"{name}: {what} must be finite (got {values.flatten()[place]:g} at {place}); a sign hides such numbers "
            "in training, so look for the step at which they came"
        )
