"""Seeds are hashes of named parts, so that a purpose shares its noise across methods and nothing else does."""

from __future__ import annotations

import hashlib

import torch

from core.interface import Rng


def seed(*parts: str | int) -> int:
    """A 63-bit seed from named parts, e.g. seed("compare", "data order", "digits", 3).

    SHA-256 over length-prefixed parts: ("a", "bc") and ("ab", "c") differ, as do 1 and "1". Leave the method out for
    data order, initialisation and noise, so that methods are compared in pairs.
    """
    text = "".join(f"{type(p).__name__}:{len(str(p))}:{p};" for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: str | int, device: torch.device | str = "cpu") -> Rng:
    """A generator on `device` seeded by named parts."""
    return torch.Generator(device).manual_seed(seed(*parts))
