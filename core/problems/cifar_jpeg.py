"""CIFAR-10 (JPEG q75): CIFAR-10 re-encoded as JPEG (quality 75, 4:2:0 chroma), in one tar.xz, decoded once by Pillow.

The pixels are not the original ones: results compare with each other, not with published CIFAR-10 numbers. They depend
on the archive and, in principle, on the decoder; the checksums are of both the archive and the decoded pixels.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from core.problems import known_files
from core.problems.assemble import Source
from core.problems.cache import cached
from core.problems.cifar import CLASSES, SHAPE
from core.problems.interface import Description, FileSpec, ProblemUnavailable

FILES = (
    FileSpec(
        "cifar10-jpeg/cifar10-jpeg.tar.xz",
        18_559_796,
        "e07e0e30715fb42d2d644bc9d2516ff610c9f7afb891c5e29e2a428db7951aae",
    ),
)
PER_CLASS = {"train": 5_000, "test": 1_000}


def read(description: Description, root: Path | None) -> Source:
    """The images (N, 3, 32, 32), channels R, G, B, in the order of `names`. The first call takes seconds to decode.

    Labels are the class names. Raises ProblemUnavailable where the archive is absent or not the expected one, or where
    Pillow or a cache folder is wanting.
    """
    (spec,), (archive,) = description.files, known_files.locate(description, root)
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    known_files.check(description.name, archive, spec, found)
    order = names()
    pixels, sha256 = cached(cache_name(spec), (len(order), *SHAPE), lambda: decoded(archive, order))
    labels = np.array([name.split("/")[1] for name in order])
    blocks = tuple(count * len(CLASSES) for count in PER_CLASS.values())
    return Source(pixels, labels, blocks, {spec.path: found, "pixels": sha256})


def cache_name(spec: FileSpec) -> str:
    """The file of the cache folder that holds the decoded archive."""
    return f"{Path(spec.path).name}.{spec.sha256[:12]}.pixels"


def names() -> list[str]:
    """The archive's members in source order, PART/CLASS/NNNN.jpg: by part, number, class.

    The archive has them by class; so ordered, every prefix of the test images is fair to the classes.
    """
    return [f"{part}/{name}/{i:04}.jpg" for part, count in PER_CLASS.items() for i in range(count) for name in CLASSES]


def decoded(archive: Path, order: list[str]) -> UInt8[ndarray, "N 3 32 32"]:
    """The members of the archive that `order` names, in that order; it is read no further than the last of them."""
    images = _pillow()
    rows = {name: row for row, name in enumerate(order)}
    pixels = np.empty((len(order), *SHAPE), np.uint8)
    with tarfile.open(archive, "r|xz") as tar:
        for member in tar:
            if (row := rows.pop(member.name, None)) is None:
                continue
            with images.open(tar.extractfile(member)) as image:
                pixels[row] = np.asarray(image).transpose(2, 0, 1)
            if not rows:
                return pixels
    raise ProblemUnavailable(
        f"{archive} has no member {next(iter(rows))}; {len(rows):,} of {len(order):,} are absent\n"
        "Put the original archive there."
    )


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise ProblemUnavailable(
            "cifar10-jpeg: Pillow, which decodes its images, is not installed\n"
            "Install it with pip install -c constraints.txt -e '.[data]'."
        ) from error
    return Image
