"""From rows to a problem: classes out of labels, the fixed split, the normalisation, resident tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from numpy import ndarray

from core.architectures import InputForm
from core.problems import splits
from core.problems.evaluator import TestSet
from core.problems.interface import Description, Problem, ProblemUnavailable, Split, Standardisation

LARGEST_PIXEL = 255


@dataclass(frozen=True, eq=False)
class Source:
    """All rows of a data set in source order. inputs (N, *shape): uint8 pixels or real features; labels (N,).

    blocks: sizes of consecutive groups of rows: (everything,), (pool, test) or (train, validation, test).
    checksums: SHA-256 hex digest of each file or array the rows came from.
    """

    inputs: Shaped[ndarray, " N *shape"]
    labels: Shaped[ndarray, " N"]
    blocks: tuple[int, ...]
    checksums: Mapping[str, str]


def assemble(
    description: Description, source: Source, *, form: InputForm | None = None, split: str | None = None
) -> Problem:
    """The problem of a source. form: None derives the normalisation from the training split alone.

    split: SHA-256 that the split's index arrays must have; None for a user's data. uint8 inputs stay raw pixels; any
    other dtype is standardised per feature and kept as float32. Raises ProblemUnavailable where the rows cannot make
    a problem.
    """
    name = description.name
    labels, class_names = to_classes(name, source.labels, source.blocks)
    parts = splits.divide(labels, source.blocks)
    if split is not None:
        splits.check(name, parts, split)
    if not all(len(part) for part in parts):
        raise ProblemUnavailable(f"{name}: {len(labels)} rows are too few to split\nAt least 10 are needed.")
    pixels = source.inputs.dtype == np.uint8
    standardisation = None if pixels else standardisation_of(name, source.inputs, parts[0])
    inputs = source.inputs if standardisation is None else standardised(name, source.inputs, standardisation)
    train, validation, test = ([torch.from_numpy(a) for a in (inputs[i], labels[i], i)] for i in parts)
    return Problem(
        description=description,
        form=form or form_of(inputs, parts[0]),
        classes=len(class_names),
        class_names=class_names,
        train=Split(*train),
        validation=Split(*validation),
        test=TestSet(*test),
        checksums=source.checksums,
        standardisation=standardisation,
    )


def to_classes(
    name: str, labels: Shaped[ndarray, " N"], blocks: Sequence[int]
) -> tuple[Int64[ndarray, " N"], tuple[str, ...]]:
    """Classes 0..C-1 in the sorted order of the labels, and the label of each class as text.

    Raises ProblemUnavailable for fewer than 2 classes, a class with a single example to split, or a test label that
    training never sees.
    """
    values, classes = np.unique(labels, return_inverse=True)
    split_off = blocks[0] if len(blocks) > 1 else len(labels)  # what training examples are taken from
    counts = np.bincount(classes[:split_off], minlength=len(values))
    if len(values) < 2:
        raise ProblemUnavailable(f"{name}: all labels are {values[0]!s}\nA problem needs at least 2 classes.")
    if (counts == 0).any():
        raise ProblemUnavailable(
            f"{name}: test label {values[counts == 0][0]!s} is no training label\n"
            "Every class of the test examples must have training examples."
        )
    if (counts == 1).any():  # from 2 on, the split is sure to give each class to training
        raise ProblemUnavailable(
            f"{name}: only one example has label {values[counts == 1][0]!s} ({len(values)} classes in all)\n"
            "Every class needs at least 2. Are the labels numbers to predict rather than classes?"
        )
    return classes.astype(np.int64), tuple(str(value) for value in values)


def form_of(inputs: Shaped[ndarray, " N *shape"], train: Int64[ndarray, " T"]) -> InputForm:
    """Pixels are normalised by one mean and deviation of the training pixels; features have been standardised."""
    features, shape = int(np.prod(inputs.shape[1:])), image_shape(inputs.shape[1:])
    if inputs.dtype != np.uint8:
        return InputForm(features, maximum=float(np.abs(inputs).max()), shape=shape)
    shift, scale = pixel_moments(inputs[train])
    scale = scale or 1.0  # 0: all pixels are equal
    return InputForm(features, shift, scale, float(LARGEST_PIXEL), integer=True, shape=shape)


def image_shape(row: tuple[int, ...]) -> tuple[int, ...]:
    """(channels, height, width) of one example of shape (H, W) or (C, H, W); () for any other, which is no image."""
    return {2: (1, *row), 3: row}.get(len(row), ())


def pixel_moments(pixels: UInt8[ndarray, " *shape"]) -> tuple[float, float]:
    """(mean, population deviation) of all pixels, from their histogram: exact counts, one rounding each."""
    values = np.arange(LARGEST_PIXEL + 1)
    counts = np.zeros_like(values)
    for block in np.array_split(pixels, -(-len(pixels) // 1000)):  # bincount widens its input eightfold
        counts += np.bincount(block.reshape(-1), minlength=len(values))
    mean = counts @ values / counts.sum()
    return float(mean), float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))


def standardisation_of(
    name: str, features: Shaped[ndarray, " N *shape"], train: Int64[ndarray, " T"]
) -> Standardisation:
    """Mean and deviation of each feature over the training rows, in float64.

    A feature that is constant in training is only shifted. Raises ProblemUnavailable where a value is nan or infinite,
    or too large to be squared.
    """
    wide = features.astype(np.float64)
    if not np.isfinite(wide).all():
        row = int(np.argwhere(~np.isfinite(wide))[0][0])
        raise ProblemUnavailable(
            f"{name}: row {row} of x holds nan or infinity\n"
            "Fill in or drop such rows (counted from 0; those of x_test follow those of x)."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = wide[train].mean(0), wide[train].std(0)
        constant = np.ptp(wide[train], axis=0) == 0  # its deviation can be a rounding error instead of 0
    if not np.isfinite(deviation).all():
        raise ProblemUnavailable(f"{name}: x is too large to be standardised\nRescale the features.")
    return Standardisation(mean, np.where(constant, 1.0, deviation))


def standardised(
    name: str, features: Shaped[ndarray, " N *shape"], standardisation: Standardisation
) -> Float[ndarray, " N *shape"]:
    """Features as a network sees them, float32. Raises ProblemUnavailable where one is beyond float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        result = standardisation(features)
    if not np.isfinite(result).all():
        raise ProblemUnavailable(f"{name}: x is too large to be standardised\nRescale the features.")
    return result
