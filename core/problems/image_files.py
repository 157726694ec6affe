"""Problems from idx files: known sets with checksums, and a user's folder of train-/t10k- pairs of any image size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from core.problems import idx, known_files
from core.problems.assemble import Source
from core.problems.interface import Description, FileSpec, ProblemUnavailable

IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
Rows = tuple[UInt8[ndarray, "N H W"], UInt8[ndarray, " N"]]


def mnist_files(folder: str, *sums: str) -> tuple[FileSpec, ...]:
    """The four files of a set laid out as MNIST is, given the SHA-256 of their uncompressed contents in this order."""
    names = [f"{part}-{kind}" for part in ("train", "t10k") for kind in (IMAGES, LABELS)]
    sizes = [16 + 60_000 * 28 * 28, 8 + 60_000, 16 + 10_000 * 28 * 28, 8 + 10_000]
    rows = zip(names, sizes, sums, strict=True)
    return tuple(FileSpec(f"{folder}/raw/{name}", size, sum_, gzipped=True) for name, size, sum_ in rows)


def read_known(description: Description, root: Path | None, *, pool: int) -> Source:
    """The four files of a known set, each checked by SHA-256; only the first `pool` training images are used."""
    arrays, sums = [], {}
    for spec, path in zip(description.files, known_files.locate(description, root), strict=True):
        array, sums[spec.path] = idx.read(path, dimensions=3 if spec.path.endswith(IMAGES) else 1)
        known_files.check(description.name, path, spec, sums[spec.path], otherwise=_unchecked(path))
        arrays.append(array)
    images, labels, test_images, test_labels = arrays
    rows = np.concatenate([images[:pool], test_images]), np.concatenate([labels[:pool], test_labels])
    return Source(*rows, blocks=(pool, len(test_labels)), checksums=sums)


def locate_folder(name: str, folder: Path) -> dict[str, tuple[Path, Path]]:
    """The (images, labels) files of the complete pairs in `folder`, by "train" and "t10k".

    Raises ProblemUnavailable where there is no pair, or half of one.
    """
    pairs = {}
    for part in ("train", "t10k"):
        images, labels = idx.find(folder / f"{part}-{IMAGES}"), idx.find(folder / f"{part}-{LABELS}")
        if images and labels:
            pairs[part] = (images, labels)
        elif images or labels:
            missing = LABELS if images else IMAGES
            raise ProblemUnavailable(f"{name}: {folder / part}-{missing} is missing\nImages and labels come in pairs.")
    if not pairs:
        raise ProblemUnavailable(
            f"{name}: no idx files in {folder}\n"
            f"Expected train-{IMAGES} with train-{LABELS}, or t10k-{IMAGES} with t10k-{LABELS}, or both pairs; "
            "plain or with .gz. Name the folder that holds the files themselves (often one called raw)."
        )
    return pairs


def read_folder(name: str, folder: Path) -> Source:
    """The pairs in a user's folder: with both, t10k- is the test set; a pair alone is split three ways."""
    sums: dict[str, str] = {}
    pairs = {part: _read_pair(name, part, paths, sums) for part, paths in locate_folder(name, folder).items()}
    images, labels = zip(*pairs.values(), strict=True)
    if len({array.shape[1:] for array in images}) > 1:
        shapes = " and ".join(f"{part}: {rows[0].shape[1]} x {rows[0].shape[2]}" for part, rows in pairs.items())
        raise ProblemUnavailable(f"{name}: image sizes differ ({shapes})\nResize one set to the other's size.")
    blocks = tuple(len(array) for array in labels)
    return Source(np.concatenate(images), np.concatenate(labels), blocks=blocks, checksums=sums)


def _read_pair(name: str, part: str, paths: tuple[Path, Path], sums: dict[str, str]) -> Rows:
    images, sums[f"{part}-{IMAGES}"] = idx.read(paths[0], dimensions=3)
    labels, sums[f"{part}-{LABELS}"] = idx.read(paths[1], dimensions=1)
    if len(images) != len(labels):
        raise ProblemUnavailable(
            f"{name}: {paths[0]} has {len(images):,} images, {paths[1].name} {len(labels):,} labels\n"
            "The two files do not belong together; fetch both from the same source."
        )
    return images, labels


def _unchecked(path: Path) -> str:
    return f", or use the files as they are, unchecked and under another name, with idx:{path.parent}"
