"""What a problem is: its description, its splits, and the errors of a problem that cannot be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, Shaped
from numpy import ndarray
from torch import Tensor

from core.architectures import InputForm
from core.problems.evaluator import TestSet


class UnknownProblem(ValueError):
    """No problem has this name; the message has the nearest name, the list, and how to bring one's own data."""


class ProblemUnavailable(Exception):
    """The data are missing, malformed or not the ones expected. The first line says what, the rest what to do."""


@dataclass(frozen=True)
class FileSpec:
    """One file of a problem. gzipped: it may also lie there gzip-compressed, with .gz added to its name.

    path: below the data folder, of the plain file. size, sha256: of the plain content, bytes and hex digest.
    """

    path: str
    size: int
    sha256: str
    gzipped: bool = False


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is known of a problem without reading data: its default network, batch, schedule and budget, its files."""

    name: str
    title: str
    network: str = "mlp"
    network_options: Mapping[str, Any] = field(default_factory=dict)
    batch: int
    schedule: str = "cosine"
    epochs: int
    files: tuple[FileSpec, ...] = ()


@dataclass(frozen=True, eq=False)
class Standardisation:
    """What real features go through before a network sees them: (raw - mean) / deviation, of the training rows.

    mean, deviation: float64 arrays of the shape of one example; deviation 1 where a feature is constant in training.
    """

    mean: Float64[ndarray, " *shape"]
    deviation: Float64[ndarray, " *shape"]

    def data(self) -> dict[str, list[float]]:
        """Mean and deviation as plain lists, features in the order of one flattened example."""
        return {"mean": self.mean.ravel().tolist(), "deviation": self.deviation.ravel().tolist()}

    def __call__(self, raw: Shaped[ndarray, " N *shape"]) -> Float32[ndarray, " N *shape"]:
        """The inputs of the network, formed in float64 and rounded once."""
        made: ndarray = ((raw.astype(np.float64) - self.mean) / self.deviation).astype(np.float32)
        return made


@dataclass(frozen=True, eq=False)
class Split:
    """Examples resident as tensors. inputs: raw values, uint8 pixels or float32 features; labels: classes 0..C-1.

    indices: positions in the problem's source order. The order is shuffled and stratified: every prefix holds each
    class in its share, so the first k examples are a fair sample of the split.
    """

    inputs: Shaped[Tensor, " N *shape"]
    labels: Int64[Tensor, " N"]
    indices: Int64[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """The same split with all three tensors on `device`."""
        return Split(self.inputs.to(device), self.labels.to(device), self.indices.to(device))


@dataclass(frozen=True, eq=False)
class Problem:
    """Data and what to know of them: the form of the inputs, the classes, two open splits and a sealed test set.

    class_names: class c is the label class_names[c] of the source. checksums: SHA-256 hex digest of each source.
    standardisation: what made the inputs of the source's features; None where inputs are the source's own pixels.
    """

    description: Description
    form: InputForm
    classes: int
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    test: TestSet
    checksums: Mapping[str, str]
    standardisation: Standardisation | None = None

    def to(self, device: torch.device | str) -> Problem:
        """The same problem on `device`; the test set keeps its seal and its log of reads."""
        return replace(
            self, train=self.train.to(device), validation=self.validation.to(device), test=self.test.to(device)
        )
