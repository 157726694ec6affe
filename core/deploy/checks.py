"""What the operations of a packed network ask of their parameters and of the values they are given."""

from __future__ import annotations

import numpy as np

from core.deploy.form import LARGEST_SIDE, FormError, Kind, Value, words

LARGEST_FAN_IN = 1 << 22  # 255 times it fits an int32 with room, and four times a count of bits too


def one(inputs: tuple[Value, ...], *kinds: Kind) -> Value:
    """The only input, of one of these kinds. Raises FormError."""
    if len(inputs) != 1 or inputs[0].kind not in kinds:
        raise FormError(f"needs one value of kind {' or '.join(kinds)} (got {told(inputs)})")
    return inputs[0]


def told(inputs: tuple[Value, ...]) -> str:
    """The values in the words of an error."""
    return ", ".join(f"{v.kind} {v.shape}" for v in inputs) or "none"


def check_whole(name: str, value: int, least: int, most: int) -> None:
    """Raises FormError unless `value` is an int within the bounds."""
    if type(value) is not int or not least <= value <= most:
        raise FormError(f"{name} must be a whole number from {least} to {most} (got {value!r})")


def check_fan_in(fan_in: int) -> None:
    """Raises FormError for sums of more products than the form holds."""
    if fan_in > LARGEST_FAN_IN:
        raise FormError(
            f"{fan_in} inputs a sum are beyond {LARGEST_FAN_IN}, the most that this form holds (255 times as much "
            "must fit an int32); split the layer into some whose sums are added"
        )


def check_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int, ...]) -> None:
    """Raises FormError unless `array` has this dtype and shape."""
    if array.dtype != dtype or array.shape != shape:
        raise FormError(f"{name} must be {np.dtype(dtype)} of shape {shape} (got {array.dtype} {array.shape})")


def check_finite(name: str, array: np.ndarray) -> None:
    """Raises FormError for a nan or an infinity, with its place in the flattened array."""
    finite = np.isfinite(array).ravel()
    if not finite.all():
        place = int(finite.argmin())
        raise FormError(f"{name} must be finite (got {array.ravel()[place]} at {place})")


def check_bits(name: str, array: np.ndarray, channels: int) -> None:
    """Raises FormError unless `array` holds one packed bit a channel."""
    check_array(name, array, np.uint32, (words(channels),))
    check_pad_bits(name, array, channels)


def check_weights(weights: np.ndarray, fan_in: tuple[int, int, int], *, packed: bool) -> None:
    """Raises FormError unless `weights` are (outputs, *fan_in), the channels packed into words or float32."""
    if weights.ndim != 4 or not 1 <= weights.shape[0] <= LARGEST_SIDE:
        raise FormError(f"weights have 4 dimensions, outputs first (got shape {weights.shape})")
    height, width, channels = fan_in
    last = words(channels) if packed else channels
    check_array("weights", weights, np.uint32 if packed else np.float32, (weights.shape[0], height, width, last))
    if packed:
        check_pad_bits("weights", weights, channels)
    else:
        check_finite("weights", weights)


def check_pad_bits(name: str, array: np.ndarray, channels: int) -> None:
    """Raises FormError where a bit beyond the channels is set: the next layer would count it."""
    used = channels % 32
    if used and (array[..., -1] >> np.uint32(used)).any():
        raise FormError(f"{name}: the bits beyond channel {channels} must be 0")
