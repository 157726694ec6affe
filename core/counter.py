"""Counter-based noise: entry i of a draw is a function of the draw's key and of i, so that a draw can be made again.

Two rounds of a 32-bit mixer (Wellons' "lowbias32" constants) over index and key. The native kernels compute the same
bits; a key is drawn from the generator of the pass, so all noise still comes from the generator that was passed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.interface import Rng

Key = tuple[int, int]  # two 32-bit words
_WORD = 2**32


def new_key(rng: Rng) -> Key:
    """A key from the generator: 64 bits."""
    first, second = torch.randint(_WORD, (2,), generator=rng, device=rng.device).tolist()
    return first, second


def random_bits(size: int, key: Key, *, device: torch.device | str = "cpu") -> Int[Tensor, " n"]:
    """32 random bits for each of `size` entries, as int32 (two's complement)."""
    index = torch.arange(size, dtype=torch.int32, device=device)
    h = index.mul_(_signed(0x9E3779B9)).add_(_signed(key[0]))
    return _mixed(_mixed(h).add_(_signed(key[1])))


def logistic(like: Float[Tensor, "*shape"], key: Key) -> Float[Tensor, "*shape"]:
    """delta ~ Logistic(0, 1/2) shaped, typed and placed as `like`: log(u / (1 - u)) / 2, |delta| <= 11.4.

    u = t or 1 - t by the sign bit, t = (m + 1/2) 2^-32 for the other 31 bits m: the smaller tail keeps its digits.
    """
    h = random_bits(like.numel(), key, device=like.device)
    side = h.to(like.dtype)
    tail = h.bitwise_and_(0x7FFFFFFF).to(like.dtype).add_(0.5).mul_(2.0**-32)
    size = (1 - tail).div_(tail).log_().mul_(0.5)
    return size.copysign_(side).view(like.shape)


def _mixed(h: Tensor) -> Tensor:
    h = h.bitwise_xor_(_shifted(h, 16)).mul_(_signed(0x7FEB352D))
    h = h.bitwise_xor_(_shifted(h, 15)).mul_(_signed(0x846CA68B))
    return h.bitwise_xor_(_shifted(h, 16))


def _shifted(h: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: int32's is arithmetic."""
    return (h >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def _signed(word: int) -> int:
    """A 32-bit word as the int32 of the same bits."""
    return word - _WORD if word >= _WORD // 2 else word
