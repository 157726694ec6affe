"""idx:FOLDER and the known sets: any image size, one pair or two, and a message for every file that is not right."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from core import problems
from core.problems import ProblemUnavailable

PairWriter = Callable[..., None]


def _rows(n: int, side: tuple[int, int] = (5, 7), classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *side)).astype(np.uint8), np.arange(n, dtype=np.uint8) % classes


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("side", [(1, 2), (16, 16), (28, 28), (9, 4)])
def test_two_pairs_make_a_problem_of_any_image_size(
    tmp_path: Path, write_pair: PairWriter, side: tuple[int, int], packed: bool
) -> None:
    pool, test = _rows(100, side), _rows(40, side, seed=1)
    write_pair(tmp_path, "train", *pool, packed=packed)
    write_pair(tmp_path, "t10k", *test, packed=packed)
    problem = problems.load(f"idx:{tmp_path}", None)
    assert (len(problem.train), len(problem.validation), len(problem.test)) == (90, 10, 40)
    assert problem.form.features == side[0] * side[1]
    assert problem.form.integer and problem.form.maximum == 255
    for split in (problem.train, problem.validation):
        assert torch.equal(split.inputs, torch.from_numpy(pool[0])[split.indices])
        assert torch.equal(split.labels, torch.from_numpy(pool[1]).long()[split.indices])
    assert torch.equal(problem.test.inputs, torch.from_numpy(test[0]))


def test_gzip_makes_the_same_problem_as_plain(tmp_path: Path, write_pair: PairWriter) -> None:
    for folder, packed in (("plain", False), ("gzip", True)):
        write_pair(tmp_path / folder, "train", *_rows(50), packed=packed)
    a, b = (problems.load(f"idx:{tmp_path / folder}", None) for folder in ("plain", "gzip"))
    assert a.checksums == b.checksums
    assert a.form == b.form
    assert torch.equal(a.train.inputs, b.train.inputs)


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_a_pair_alone_is_split_three_ways(tmp_path: Path, write_pair: PairWriter, part: str) -> None:
    write_pair(tmp_path, part, *_rows(100))
    problem = problems.load(f"idx:{tmp_path}", None)
    assert (len(problem.train), len(problem.validation), len(problem.test)) == (60, 20, 20)
    indices = torch.cat([problem.train.indices, problem.validation.indices, problem.test.indices])
    assert torch.equal(indices.sort().values, torch.arange(100))


def test_pixels_are_normalised_by_training_pixels_alone(tmp_path: Path, write_pair: PairWriter) -> None:
    images, labels = _rows(100)
    write_pair(tmp_path, "train", images, labels)
    form = problems.load(f"idx:{tmp_path}", None).form
    problem = problems.load(f"idx:{tmp_path}", None)
    normalised = (problem.train.inputs.double() - form.shift) / form.scale
    assert abs(normalised.mean().item()) < 1e-12  # sums of 2100 float64 values of size 1: rounding below 2100 * 2^-52
    assert abs(normalised.var(correction=0).item() - 1) < 1e-12
    outside = np.setdiff1d(np.arange(100), problem.train.indices)
    images[outside] = 255
    write_pair(tmp_path, "train", images, labels)
    assert problems.load(f"idx:{tmp_path}", None).form == form


def test_blank_images_have_scale_one(tmp_path: Path, write_pair: PairWriter) -> None:
    _, labels = _rows(50)
    write_pair(tmp_path, "train", np.full((50, 2, 2), 9, dtype=np.uint8), labels)
    form = problems.load(f"idx:{tmp_path}", None).form
    assert (form.shift, form.scale) == (9.0, 1.0)


def test_folder_without_idx_files_names_what_it_expects(tmp_path: Path) -> None:
    with pytest.raises(ProblemUnavailable) as caught:
        problems.load(f"idx:{tmp_path}", None)
    assert str(caught.value).startswith(f"idx:{tmp_path}: no idx files in {tmp_path}\nExpected train-images-idx3-ubyte")


@pytest.mark.parametrize(("lost", "kept"), [("labels-idx1-ubyte", "images"), ("images-idx3-ubyte", "labels")])
def test_half_a_pair_is_refused(tmp_path: Path, write_pair: PairWriter, lost: str, kept: str) -> None:
    write_pair(tmp_path, "train", *_rows(50))
    write_pair(tmp_path, "t10k", *_rows(50))
    (tmp_path / f"t10k-{lost}").unlink()
    with pytest.raises(ProblemUnavailable, match=f"{tmp_path}/t10k-{lost} is missing"):
        problems.load(f"idx:{tmp_path}", None)


def test_counts_that_differ_are_refused(tmp_path: Path, write_pair: PairWriter) -> None:
    images, labels = _rows(50)
    write_pair(tmp_path, "train", images, labels[:49])
    with pytest.raises(
        ProblemUnavailable, match="train-images-idx3-ubyte has 50 images, train-labels-idx1-ubyte 49 la"
    ):
        problems.load(f"idx:{tmp_path}", None)


def test_image_sizes_that_differ_are_refused(tmp_path: Path, write_pair: PairWriter) -> None:
    write_pair(tmp_path, "train", *_rows(50, (5, 7)))
    write_pair(tmp_path, "t10k", *_rows(50, (7, 5)))
    with pytest.raises(ProblemUnavailable, match=r"image sizes differ \(train: 5 x 7 and t10k: 7 x 5\)"):
        problems.load(f"idx:{tmp_path}", None)


def test_absent_files_of_a_known_set_are_named_with_sizes_and_checksums(tmp_path: Path) -> None:
    with pytest.raises(ProblemUnavailable) as caught:
        problems.load("mnist", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"mnist: 4 of 4 files not found under {tmp_path}/MNIST/raw\n")
    for spec in problems.describe("mnist").files:
        assert f"{spec.path}  {spec.size:,} bytes  SHA-256 {spec.sha256[:12]}" in message
    assert "--data-dir DIR or BITRELAX_DATA=DIR" in message


def test_only_absent_files_are_named(tmp_path: Path, write_pair: PairWriter) -> None:
    write_pair(tmp_path / "FashionMNIST/raw", "train", *_rows(50), packed=True)
    with pytest.raises(ProblemUnavailable) as caught:
        problems.locate("fashion-mnist", tmp_path)
    assert str(caught.value).startswith("fashion-mnist: 2 of 4 files not found under")
    assert "train-" not in str(caught.value)


def test_without_a_data_folder_the_message_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITRELAX_DATA", raising=False)
    with pytest.raises(ProblemUnavailable) as caught:
        problems.load("mnist-10k", None)
    assert str(caught.value).startswith("mnist-10k: 4 of 4 files not found since no data folder is given\n")
    assert "Say where the folder above MNIST/ is with --data-dir DIR or BITRELAX_DATA=DIR." in str(caught.value)


def test_data_folder_is_taken_from_the_environment_unless_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITRELAX_DATA", str(tmp_path / "environment"))
    for given, used in ((None, "environment"), (tmp_path / "argument", "argument")):
        with pytest.raises(ProblemUnavailable, match=f"not found under {tmp_path}/{used}/MNIST/raw"):
            problems.load("mnist", given)


def test_other_files_under_a_known_name_are_refused_with_both_checksums(tmp_path: Path, write_pair: PairWriter) -> None:
    folder = tmp_path / "MNIST/raw"
    for part in ("train", "t10k"):
        write_pair(folder, part, *_rows(50))
    for reads in (problems.load, problems.checksums):
        with pytest.raises(ProblemUnavailable) as caught:
            reads("mnist", tmp_path)
        first, remedy = str(caught.value).split("\n")
        assert first.startswith(f"mnist: {folder}/train-images-idx3-ubyte has SHA-256 ")
        assert first.endswith(", expected ba891046e650 (uncompressed content)")
        assert f"idx:{folder}" in remedy
    assert problems.load(f"idx:{folder}", None).classes == 4  # the way out that the message names
