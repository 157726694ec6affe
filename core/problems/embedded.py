"""Problems that need no files: digits and breast-cancer as scikit-learn ships them, two moons as it generates them."""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray
from sklearn.datasets import load_breast_cancer, load_digits, make_moons

from core.problems.assemble import Source

MOONS_SIZES = (200, 500, 2000)  # training as in Meng et al. 2020's toy; the others so that accuracy has small noise
MOONS_SEEDS = (0, 1, 2)  # a draw of its own for each split
MOONS_NOISE = 0.1


def digits() -> Source:
    """1797 images of 8 x 8 pixels 0..16 (UCI optical recognition of handwritten digits, the test part of that set)."""
    images, labels = load_digits(return_X_y=True)
    return _source(images.reshape(-1, 8, 8).astype(np.uint8), labels, (len(labels),))


def breast_cancer() -> Source:
    """569 tumours by 30 real features (UCI breast cancer Wisconsin, diagnostic); 0 malignant, 1 benign."""
    features, labels = load_breast_cancer(return_X_y=True)
    return _source(features, labels, (len(labels),))


def moons() -> Source:
    """Two interleaved half circles with Gaussian noise of deviation 0.1; each split drawn with its own seed.

    float32, since the last bits of a float64 sine differ between processors and would change the checksum.
    """
    draws = [
        make_moons(size, noise=MOONS_NOISE, random_state=seed)
        for size, seed in zip(MOONS_SIZES, MOONS_SEEDS, strict=True)
    ]
    features, labels = (np.concatenate(arrays) for arrays in zip(*draws, strict=True))
    return _source(features.astype(np.float32), labels, MOONS_SIZES)


def _source(inputs: Shaped[ndarray, " N *shape"], labels: Shaped[ndarray, " N"], blocks: tuple[int, ...]) -> Source:
    return Source(inputs, labels, blocks, {"inputs": _checksum(inputs), "labels": _checksum(labels)})


def _checksum(array: ndarray) -> str:
    """SHA-256 hex digest of an array's shape, type and little-endian bytes."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    head = f"{little.dtype.str} {little.shape} ".encode()
    return hashlib.sha256(head + little.tobytes()).hexdigest()
