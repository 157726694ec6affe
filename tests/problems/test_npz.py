"""npz:FILE: what becomes of features, pixels and labels, and the message for every file that cannot be a problem."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core import problems
from core.problems import Problem, ProblemUnavailable

RNG = np.random.default_rng(0)
X = RNG.normal(3.0, [1.0, 20.0, 1e-3], (60, 3))
Y = np.arange(60) % 3
LOWER = Y * 4 - 5  # integer labels that are no class numbers: -5, -1, 3


def _load(folder: Path, **arrays: Any) -> Problem:
    np.savez(folder / "own.npz", **arrays)
    return problems.load(f"npz:{folder / 'own.npz'}", None)


def test_features_are_standardised_by_training_rows(tmp_path: Path) -> None:
    problem = _load(tmp_path, x=X, y=Y)
    rows = X[problem.train.indices]
    assert problem.train.inputs.dtype == torch.float32
    assert not problem.form.integer and (problem.form.shift, problem.form.scale) == (0.0, 1.0)
    # float32 holds values below 4 to 2^-23: the mean of 36 of them is off by at most that, the variance by 8 times it
    torch.testing.assert_close(problem.train.inputs.double().mean(0), torch.zeros(3).double(), atol=2e-7, rtol=0)
    torch.testing.assert_close(
        problem.train.inputs.double().var(0, correction=0), torch.ones(3).double(), atol=2e-6, rtol=0
    )
    expected = (X[problem.validation.indices] - rows.mean(0)) / rows.std(0)
    np.testing.assert_allclose(problem.validation.inputs.numpy(), expected, rtol=1e-6)
    assert problem.form.maximum == pytest.approx(np.abs((X - rows.mean(0)) / rows.std(0)).max(), rel=1e-6)


def test_a_feature_that_is_constant_in_training_is_only_shifted(tmp_path: Path) -> None:
    x = np.column_stack([X[:, 0], np.full(60, 0.1)])  # 0.1: its mean is not exactly 0.1 in every order of summation
    train = _load(tmp_path, x=x, y=Y).train.indices
    outside = np.setdiff1d(np.arange(60), train)[0]
    x[outside, 1] = 2.1
    problem = _load(tmp_path, x=x, y=Y)
    assert problem.train.inputs[:, 1].abs().max() < 1e-15
    assert problem.form.maximum >= 2.0 - 1e-6


def test_uint8_arrays_are_raw_pixels(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (60, 4, 5)).astype(np.uint8)
    problem = _load(tmp_path, x=x, y=Y)
    assert torch.equal(problem.train.inputs, torch.from_numpy(x)[problem.train.indices])
    assert problem.form.integer and problem.form.features == 20
    assert problem.form.shift == pytest.approx(x[problem.train.indices].mean(), rel=1e-12)
    assert problem.form.scale == pytest.approx(x[problem.train.indices].std(), rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (LOWER, ("-5", "-1", "3")),
        (LOWER.astype(np.int8), ("-5", "-1", "3")),
        (np.array(["b", "a", "ç"])[Y], ("a", "b", "ç")),
        (Y > 0, ("False", "True")),
    ],
    ids=["int64", "int8", "str", "bool"],
)
def test_labels_become_classes_in_sorted_order(tmp_path: Path, labels: np.ndarray, names: tuple[str, ...]) -> None:
    problem = _load(tmp_path, x=X, y=labels)
    assert problem.class_names == names
    assert problem.classes == len(names)
    for split in (problem.train, problem.validation):
        said = [names[c] for c in split.labels]
        assert said == [str(label) for label in labels[split.indices]]


def test_a_given_test_set_is_kept_whole_and_in_order(tmp_path: Path) -> None:
    x_test = X[:10] + 1
    problem = _load(tmp_path, x=X, y=Y, x_test=x_test, y_test=Y[:10])
    assert (len(problem.train), len(problem.validation), len(problem.test)) == (54, 6, 10)
    assert problem.test.indices.tolist() == list(range(60, 70))
    rows = X[problem.train.indices]
    np.testing.assert_allclose(problem.test.inputs.numpy(), (x_test - rows.mean(0)) / rows.std(0), rtol=1e-5)
    scores = torch.eye(3)[torch.from_numpy(Y[:10])]
    right = problem.test.score({"mode": scores}, lambda rule, s, t: {"n": float((s.argmax(1) == t).sum())})
    assert right == {"mode": {"n": 10.0}}


def test_split_and_checksum_depend_on_content_and_not_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    a, b = (_load(folder, x=X, y=Y) for folder in (tmp_path, tmp_path / "elsewhere"))
    assert torch.equal(a.train.indices, b.train.indices)
    assert a.checksums == b.checksums
    changed = _load(tmp_path, x=X + 1e-9, y=Y)
    assert a.checksums != changed.checksums


NAN_ROW = X.copy()
NAN_ROW[7, 1] = np.nan
REFUSED = {
    "x missing": ({"y": Y}, "y without x"),
    "y_test missing": ({"x": X, "y": Y, "x_test": X}, "x_test without y_test"),
    "neither": ({"features": X, "labels": Y}, "holds features, labels"),
    "integer x": ({"x": X.astype(np.int64), "y": Y}, "x has type int64\nPixels must be uint8"),
    "flat x": ({"x": X[:, 0], "y": Y}, r"x has shape \(60,\)\nOne row per example"),
    "no rows": ({"x": X[:0], "y": Y[:0]}, r"x has shape \(0, 3\)"),
    "float y": ({"x": X, "y": Y.astype(float)}, "y has type float64\nLabels must be integers or strings"),
    "lengths": ({"x": X, "y": Y[:59]}, r"y has shape \(59,\), x \(60, 3\)"),
    "one-hot y": ({"x": X, "y": np.eye(3, dtype=int)[Y]}, r"y has shape \(60, 3\), x \(60, 3\)"),
    "nan": ({"x": NAN_ROW, "y": Y}, "row 7 of x holds nan or infinity"),
    "too large": ({"x": X * 1e200, "y": Y}, "x is too large to be standardised"),
    "one class": ({"x": X, "y": np.zeros(60, int)}, "all labels are 0\nA problem needs at least 2 classes"),
    "single example": ({"x": X, "y": np.r_[Y[:59], 9]}, r"only one example has label 9 \(4 classes in all\)"),
    "few rows": ({"x": X[:4], "y": np.array([0, 1, 0, 1])}, "4 rows are too few to split"),
    "unseen test label": ({"x": X, "y": Y, "x_test": X[:3], "y_test": Y[:3] + 2}, "test label 3 is no training label"),
    "test width": ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, r"x has float64 rows of shape \(3,\), x_test"),
    "test type": ({"x": X, "y": Y, "x_test": X.astype("f4"), "y_test": Y}, "x_test float32 rows"),
    "label types": ({"x": X, "y": Y, "x_test": X, "y_test": Y.astype(str)}, "y has type int64, y_test <U21"),
    "unsigned labels": ({"x": X, "y": Y, "x_test": X, "y_test": Y.astype(np.uint64)}, "y_test uint64"),
    "objects": (
        {"x": X, "y": np.array([{}] * 60, dtype=object)},
        "cannot be read as .npz .*\nSave plain arrays, no objects",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_that_cannot_be_a_problem_are_refused_by_name(tmp_path: Path, case: str) -> None:
    arrays, message = REFUSED[case]
    with pytest.raises(ProblemUnavailable, match=message) as caught:
        _load(tmp_path, **arrays)
    assert str(caught.value).startswith(f"npz:{tmp_path / 'own.npz'}: ")


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").rename(tmp_path / "single.npz")
    (tmp_path / "text.npz").write_text("x,y\n1,2\n")
    np.savez(tmp_path / "whole.npz", x=X, y=Y)
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    middle = bytearray(content)
    middle[len(content) // 2] ^= 1
    (tmp_path / "flipped.npz").write_bytes(middle)
    (tmp_path / "empty.npz").touch()
    messages = {
        "single": "holds one unnamed array",
        "text": r"cannot be read as .npz \(ValueError",
        "cut": r"cannot be read as .npz \(",
        "flipped": r"cannot be read as .npz \(BadZipFile",
        "empty": r"cannot be read as .npz \(EOFError",
        "absent": "absent.npz is not a file",
    }
    for stem, message in messages.items():
        with pytest.raises(ProblemUnavailable, match=message):
            problems.load(f"npz:{tmp_path / stem}.npz", None)


def test_a_false_shape_in_a_header_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=X, y=Y)
    content = (tmp_path / "own.npz").read_bytes()
    assert content.count(b"(60, 3), }") == 1
    (tmp_path / "own.npz").write_bytes(content.replace(b"(60, 3), }  ", b"(6000000, 3)"[:9] + b"), }"[:3]))
    with pytest.raises(ProblemUnavailable, match="cannot be read as .npz"):
        problems.load(f"npz:{tmp_path / 'own.npz'}", None)
