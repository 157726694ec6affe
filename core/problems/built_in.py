"""The built-in problems: where their rows come from, their fixed normalisation and split, their default budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.architectures import InputForm
from core.problems import cifar, cifar_jpeg, embedded, image_files
from core.problems.assemble import Source
from core.problems.interface import Description


@dataclass(frozen=True)
class BuiltIn:
    """A problem of ours. form: its fixed normalisation, None for standardised features.

    split: SHA-256 of the index arrays of its split (`splits.digest`); a test recomputes it, loading asserts it. None:
    not known, since no copy of the data was at hand; the files' checksums fix labels and order, and so the split.
    """

    description: Description
    read: Callable[[Description, Path | None], Source]
    form: InputForm | None
    split: str | None


def _images(pool: int) -> Callable[[Description, Path | None], Source]:
    return lambda description, root: image_files.read_known(description, root, pool=pool)


def _pixels(shape: tuple[int, int, int], mean: float, deviation: float, maximum: float) -> InputForm:
    return InputForm(math.prod(shape), mean, deviation, maximum, integer=True, shape=shape)


MNIST_FILES = image_files.mnist_files(
    "MNIST",
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
FASHION_MNIST_FILES = image_files.mnist_files(
    "FashionMNIST",
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
# Mean and deviation of all pixels together, to four decimals. digits: of the training split, in raw units.
# MNIST, Fashion-MNIST: of the 60,000 training images in units of the full range, as the literature has them.
# CIFAR: of the 50,000 training images, in raw units, all channels together: one shift and one scale keep the first
# layer's integer sums exact.
DIGITS_PIXELS = _pixels((1, 8, 8), 4.8793, 6.0118, 16.0)
MNIST_PIXELS = _pixels((1, 28, 28), 0.1307 * 255, 0.3081 * 255, 255.0)
FASHION_MNIST_PIXELS = _pixels((1, 28, 28), 0.2860 * 255, 0.3530 * 255, 255.0)
CIFAR10_PIXELS = _pixels(cifar.SHAPE, 120.7076, 64.1501, 255.0)
CIFAR10_JPEG_PIXELS = _pixels(cifar.SHAPE, 120.6882, 63.8562, 255.0)

_BUILT_IN = (
    BuiltIn(
        Description(
            name="digits",
            title="8x8 handwritten digits (scikit-learn)",
            network_options={"widths": (128,)},
            batch=32,
            epochs=30,
        ),
        read=lambda description, root: embedded.digits(),
        form=DIGITS_PIXELS,
        split="552d1b25565355cca38f8749aca8d9cc9695b2ffd7f133c6220ba688681e8ef6",
    ),
    BuiltIn(
        Description(
            name="breast-cancer",
            title="breast cancer Wisconsin, 30 features (scikit-learn)",
            network_options={"widths": (64,)},
            batch=32,
            epochs=30,
        ),
        read=lambda description, root: embedded.breast_cancer(),
        form=None,
        split="bde6b000cca2c56ab17f7e8bcd9774bfbd2f9b5f92ed18ae49bfbbe9fab99a01",
    ),
    BuiltIn(
        Description(
            name="moons",
            title="two moons in the plane (generated)",
            network_options={"widths": (64, 64)},
            batch=32,
            epochs=60,
        ),
        read=lambda description, root: embedded.moons(),
        form=None,
        split="d798113d6adcdd75e6f41bcaa3972535f8dee386cd699bf04251d94135c5f7fd",
    ),
    BuiltIn(
        Description(
            name="mnist",
            title="MNIST, 28x28 handwritten digits",
            network_options={"widths": (512, 512)},
            batch=100,
            epochs=5,
            files=MNIST_FILES,
        ),
        read=_images(60_000),
        form=MNIST_PIXELS,
        split="35681c4fadb8e2f6e79ebbd4b12dbdc6a82d500ef273d79bcc9e7ac90d6db449",
    ),
    BuiltIn(
        Description(
            name="mnist-10k",
            title="MNIST, the first 10,000 training images",
            network_options={"widths": (256,)},
            batch=100,
            epochs=5,
            files=MNIST_FILES,
        ),
        read=_images(10_000),
        form=MNIST_PIXELS,
        split="459605e1eefa73150ac57961221081143d40498627fffad4d929ce51337b9fb5",
    ),
    BuiltIn(
        Description(
            name="fashion-mnist",
            title="Fashion-MNIST, 28x28 articles of clothing",
            network_options={"widths": (512, 512)},
            batch=100,
            epochs=5,
            files=FASHION_MNIST_FILES,
        ),
        read=_images(60_000),
        form=FASHION_MNIST_PIXELS,
        split="95ee4265b4afc150caea30a747e360bddb9f1b63fea2f3f13722438bb8df8150",
    ),
    BuiltIn(
        Description(
            name="cifar10",
            title="CIFAR-10, 32x32 colour photographs",
            network="vgg-small",
            batch=50,
            epochs=1,
            files=cifar.FILES,
        ),
        read=cifar.read,
        form=CIFAR10_PIXELS,
        split=None,
    ),
    BuiltIn(
        Description(
            name="cifar10-jpeg",
            title="CIFAR-10 (JPEG q75), 32x32 colour photographs, a lossy copy",
            network="vgg-small",
            batch=50,
            epochs=1,
            files=cifar_jpeg.FILES,
        ),
        read=cifar_jpeg.read,
        form=CIFAR10_JPEG_PIXELS,
        split="d7d88cec1258a050a449ff8caed5d048ae07a3e7bcbfd0c5e393fb1f01af4c09",
    ),
)
BUILT_IN: Mapping[str, BuiltIn] = {entry.description.name: entry for entry in _BUILT_IN}
