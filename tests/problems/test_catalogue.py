"""Every built-in problem: split, normalisation, checksums and names; the file problems where the real data are."""

import functools
import hashlib
import os

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits

from core import problems
from core.architectures import ARCHITECTURES, InputForm, defaults
from core.fit import SCHEDULES
from core.problems import Problem, ProblemUnavailable, UnknownProblem, cache, cifar_jpeg, embedded, splits
from core.problems.built_in import BUILT_IN

EMBEDDED = [name for name in problems.names() if not problems.describe(name).files]
needs_data = [
    pytest.mark.data,
    pytest.mark.skipif(not os.environ.get("BITRELAX_DATA"), reason="BITRELAX_DATA is not set: real MNIST files"),
]


def _at_hand(name: str) -> bool:
    """Whether a CIFAR problem can be loaded at once: few have the original, and the copy is decoded on first use."""
    try:
        problems.locate(name, None)
    except ProblemUnavailable:
        return False
    return name == "cifar10" or (cache.folder() / cifar_jpeg.cache_name(*cifar_jpeg.FILES)).exists()


def _marks(name: str) -> list[pytest.MarkDecorator]:
    if name.startswith("cifar10"):
        return [pytest.mark.data, pytest.mark.skipif(not _at_hand(name), reason="no folder, or not decoded yet")]
    return [] if name in EMBEDDED else needs_data


ALL = [pytest.param(name, marks=_marks(name), id=name) for name in problems.names()]
SIZES = {
    "digits": (1079, 359, 359),
    "breast-cancer": (343, 113, 113),
    "moons": (200, 500, 2000),
    "mnist": (54_000, 6_000, 10_000),
    "mnist-10k": (9_000, 1_000, 10_000),
    "fashion-mnist": (54_000, 6_000, 10_000),
    "cifar10": (45_000, 5_000, 10_000),
    "cifar10-jpeg": (45_000, 5_000, 10_000),
}


@functools.cache
def _loaded(name: str) -> Problem:
    """One copy for the tests that only look."""
    return problems.load(name, None)


def _moments(inputs: torch.Tensor, form: InputForm) -> tuple[float, float]:
    """Mean and variance of all normalised inputs together, in float64, in blocks: MNIST as float64 is 340 MB."""
    total = squares = 0.0
    for block in inputs.split(1000):
        x = (block.double() - form.shift) / form.scale
        total, squares = total + x.sum().item(), squares + x.square().sum().item()
    mean = total / inputs.numel()
    return mean, squares / inputs.numel() - mean**2  # no cancellation to speak of: the mean is below the deviation


@pytest.mark.parametrize("name", ALL)
def test_split_is_the_stored_partition(name: str) -> None:
    problem = _loaded(name)
    parts = [part.indices.numpy() for part in (problem.train, problem.validation, problem.test)]
    assert tuple(len(part) for part in parts) == SIZES[name]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(sum(SIZES[name])))
    assert splits.digest(parts) == BUILT_IN[name].split or name == "cifar10"  # its digest is not known


@pytest.mark.parametrize("name", ALL)
def test_training_inputs_have_mean_zero_and_variance_one(name: str) -> None:
    problem = _loaded(name)
    if not problem.form.integer:
        x = problem.train.inputs.double()
        assert x.mean(0).abs().max() < 1e-6  # float32 values below 12, to 2^-21
        assert (x.var(0, correction=0) - 1).abs().max() < 1e-5
        return
    # digits: constants to 5e-5 of a scale of 6. MNIST: of the whole pool, to 5e-5 of scales .31 and .35 (1.6e-4), and
    # the split or subset differs from the pool by chance: images' mean brightness varies by .1/.31 of a deviation, so
    # 9,000 of 60,000 are off by .32/sqrt(9000) = 3.4e-3; 5e-3 is generous for the mean and twice that for the variance
    bound = 1e-4 if name == "digits" else 5e-3
    mean, variance = _moments(problem.train.inputs, problem.form)
    assert abs(mean) < bound
    assert abs(variance - 1) < 2 * bound


@pytest.mark.parametrize(("name", "mean", "deviation"), [("mnist", 0.1307, 0.3081), ("fashion-mnist", 0.2860, 0.3530)])
@pytest.mark.data
@needs_data[1]
def test_mnist_like_normalisation_is_that_of_the_training_images(name: str, mean: float, deviation: float) -> None:
    problem = _loaded(name)
    pixels = torch.cat([problem.train.inputs, problem.validation.inputs])
    found_mean, found_variance = _moments(pixels, InputForm(784, scale=255.0))
    assert round(found_mean, 4) == mean
    assert round(found_variance**0.5, 4) == deviation
    assert (problem.form.shift, problem.form.scale) == (mean * 255, deviation * 255)


def test_digits_normalisation_is_that_of_the_training_split_to_four_decimals() -> None:
    problem = problems.load("digits", None)
    pixels = problem.train.inputs.double()
    assert problem.form.shift == round(pixels.mean().item(), 4)
    assert problem.form.scale == round(pixels.std(correction=0).item(), 4)


@pytest.mark.parametrize("name", ALL)
def test_every_prefix_of_the_training_split_is_stratified(name: str) -> None:
    problem = _loaded(name)
    shares = problem.train.labels.bincount(minlength=problem.classes) / len(problem.train)
    for size in (50, 100):
        counts = problem.train.labels[:size].bincount(minlength=problem.classes)
        # the bound of `stratified_order`, once for the prefix and once for the split's own share of the pool
        assert ((counts - size * shares).abs() <= 2 * (0.5 + shares * problem.classes / 2)).all()


def test_digits_are_scikit_learns_raw_pixels() -> None:
    problem, original = problems.load("digits", None), load_digits()
    assert problem.train.inputs.dtype == torch.uint8
    assert problem.form.integer and problem.form.maximum == original.images.max() == 16
    for split in (problem.train, problem.validation):
        assert np.array_equal(split.inputs.numpy(), original.images[split.indices])
        assert np.array_equal(split.labels.numpy(), original.target[split.indices])


def test_breast_cancer_is_standardised_by_training_rows_alone() -> None:
    problem, original = problems.load("breast-cancer", None), load_breast_cancer()
    rows = original.data[problem.train.indices]
    expected = (original.data - rows.mean(0)) / rows.std(0)
    for inputs, indices in (
        (problem.validation.inputs, problem.validation.indices),
        (problem.test.inputs, problem.test.indices),
    ):
        np.testing.assert_allclose(inputs.numpy(), expected[indices], rtol=1e-6, atol=1e-6)


def test_moons_splits_are_independent_draws() -> None:
    source = embedded.moons()
    draws = np.split(source.inputs, np.cumsum(source.blocks)[:-1])
    for draw, size in zip(draws, embedded.MOONS_SIZES, strict=True):
        assert len(np.unique(draw, axis=0)) == size
    assert len(np.unique(source.inputs, axis=0)) == sum(embedded.MOONS_SIZES)  # no point of one is in another
    assert len(set(embedded.MOONS_SEEDS)) == 3


@pytest.mark.parametrize("name", [*EMBEDDED, pytest.param("mnist-10k", marks=needs_data)])
def test_loading_twice_gives_the_same_bits_and_the_checksums_say_so(name: str) -> None:
    first, second = problems.load(name, None), problems.load(name, None)
    for a, b in ((first.train, second.train), (first.validation, second.validation)):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.labels, b.labels)
    assert torch.equal(first.test.inputs, second.test.inputs)
    assert first.checksums == problems.checksums(name, None) != {}
    assert all(len(value) == 64 and int(value, 16) for value in first.checksums.values())


def test_embedded_checksums_are_of_the_arrays_bytes() -> None:
    source = embedded.digits()
    head = f"|u1 {source.inputs.shape} ".encode()
    assert source.checksums["inputs"] == hashlib.sha256(head + source.inputs.tobytes()).hexdigest()
    head = f"<i8 {source.labels.shape} ".encode()
    assert source.checksums["labels"] == hashlib.sha256(head + source.labels.astype("<i8").tobytes()).hexdigest()


def test_changed_labels_of_a_built_in_set_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def altered(*, return_X_y: bool) -> tuple[np.ndarray, np.ndarray]:
        images, labels = load_digits(return_X_y=return_X_y)
        labels[0] = 5  # image 0 is a zero
        return images, labels

    monkeypatch.setattr(embedded, "load_digits", altered)
    with pytest.raises(ProblemUnavailable, match="digits: the split has SHA-256 [0-9a-f]{12}, the stored one 552d1b25"):
        problems.load("digits", None)


@pytest.mark.parametrize("name", [*problems.names(), "idx:some/folder", "npz:some.npz"])
def test_description_is_complete_without_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITRELAX_DATA", raising=False)
    description = problems.describe(name)
    assert description.name == name
    assert description.title
    assert description.network in ARCHITECTURES
    assert set(description.network_options) <= set(defaults(description.network))
    assert description.schedule in SCHEDULES
    assert description.batch > 0 and description.epochs > 0


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_problems_are_located_without_a_data_folder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITRELAX_DATA", raising=False)
    problems.locate(name, None)
    problems.load(name, None)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnits", "; did you mean mnist?"),
        ("MNIST", "; did you mean mnist?"),
        ("Digits", "; did you mean digits?"),
        ("brest-cancer", "breast-cancer?"),
    ],
)
def test_unknown_name_is_met_with_the_nearest_one(name: str, hint: str) -> None:
    for call in (problems.describe, lambda n: problems.load(n, None), lambda n: problems.checksums(n, None)):
        with pytest.raises(UnknownProblem) as caught:
            call(name)
        assert str(caught.value).split("\n")[0].startswith(f"unknown problem '{name}'")
        assert hint in str(caught.value)


@pytest.mark.parametrize("name", ["quite-else", "idx:", "npz:", "csv:file.csv", ""])
def test_unknown_name_is_met_with_the_list_and_the_own_data_forms(name: str) -> None:
    with pytest.raises(UnknownProblem) as caught:
        problems.describe(name)
    assert "did you mean" not in str(caught.value)
    for known in (*problems.names(), "idx:FOLDER", "npz:FILE"):
        assert known in str(caught.value)


def test_problem_moves_whole_and_keeps_its_seal() -> None:
    problem = problems.load("moons", None)
    moved = problem.to("meta")
    for tensor in (moved.train.inputs, moved.train.labels, moved.validation.inputs, moved.test.inputs):
        assert tensor.is_meta
    moved.test.score({"mode": torch.zeros(len(moved.test), 2)}, lambda rule, scores, labels: {})
    assert problem.test.reads == moved.test.reads != []


@pytest.mark.data
@needs_data[1]
def test_not_mnist_loads_as_a_folder_and_splits_its_only_pair() -> None:
    problem = problems.load(f"idx:{os.environ['BITRELAX_DATA']}/notMNIST/raw", None)
    assert (len(problem.train), len(problem.validation), len(problem.test)) == (6_000, 2_000, 2_000)
    assert problem.train.labels.bincount().tolist() == [600] * 10
    assert problem.form.features == 784


@pytest.mark.data
@needs_data[1]
def test_mnist_10k_holds_the_first_ten_thousand_images_and_the_official_test_set() -> None:
    small, full = _loaded("mnist-10k"), _loaded("mnist")
    pool = torch.empty(60_000, 28, 28, dtype=torch.uint8)
    for split in (full.train, full.validation):
        pool[split.indices] = split.inputs
    for split in (small.train, small.validation):
        assert torch.equal(split.inputs, pool[:10_000][split.indices])
    assert torch.equal(small.test.inputs, full.test.inputs)


def test_the_standardisation_of_a_problem_makes_its_inputs_of_raw_features() -> None:
    problem = problems.load("breast-cancer", None)
    assert problem.standardisation is not None
    raw = load_breast_cancer().data[problem.train.indices.numpy()]
    assert (problem.standardisation(raw) == problem.train.inputs.numpy()).all()
    assert problems.load("digits", None).standardisation is None
