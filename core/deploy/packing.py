"""Signs as bits: channel c is bit c % 32, least significant first, of word c // 32; 1 is +1, pad bits are 0."""

from __future__ import annotations

import numpy as np

from core.deploy.form import words


def pack(values: np.ndarray) -> np.ndarray:
    """The signs of `values` (..., C) as words (..., words(C)) of uint32: +1 where a value is >= 0.

    So 0 and -0.0 are +1, and nan is -1. Raises ValueError for truth values, none of which is below 0.
    """
    values = np.asarray(values)
    if values.dtype == np.bool_:
        raise ValueError("pack takes numbers and compares them with 0 (got truth values; use pack_bits)")
    return pack_bits(values >= 0)


def pack_bits(positive: np.ndarray) -> np.ndarray:
    """Truth values (..., C), True for +1, as words (..., words(C)) of uint32."""
    positive = np.asarray(positive, dtype=np.bool_)
    *before, channels = positive.shape
    octets = np.packbits(positive, axis=-1, bitorder="little")
    padded = np.zeros((*before, 4 * words(channels)), np.uint8)
    padded[..., : octets.shape[-1]] = octets
    return padded.view("<u4").astype(np.uint32, copy=False)  # the same words on a big-endian machine


def unpack(bits: np.ndarray, channels: int) -> np.ndarray:
    """Words (..., words(channels)) as -1 and +1, (..., channels) of int8."""
    return unpack_bits(bits, channels).astype(np.int8) * np.int8(2) - np.int8(1)


def unpack_bits(bits: np.ndarray, channels: int) -> np.ndarray:
    """Words (..., words(channels)) as truth values (..., channels), True for +1.

    Raises ValueError where the words are not uint32 or not as many as `channels` need.
    """
    if bits.dtype != np.uint32 or bits.ndim == 0 or bits.shape[-1] != words(channels):
        raise ValueError(
            f"{channels} channels are {words(channels)} words of uint32 along the last axis "
            f"(got {bits.dtype} of shape {bits.shape})"
        )
    octets = np.ascontiguousarray(bits, dtype="<u4").view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=channels, bitorder="little").view(np.bool_)
