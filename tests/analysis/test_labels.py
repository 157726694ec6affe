"""The lossy copy of CIFAR-10 is called what it is wherever results are read."""

import pytest

from core import problems
from studies.analysis import labels, marks, tables, text, tidy


@pytest.mark.parametrize("setting", ["", "batch=50"])
def test_panels_of_the_lossy_copy_say_so(setting: str) -> None:
    title = marks.panel_title(("compare", "cifar10-jpeg", setting))
    assert title == "\n".join(["CIFAR-10 (JPEG q75)", setting]).rstrip()


def test_tables_and_footnotes_of_the_lossy_copy_say_so(make) -> None:
    records = [make(problem="cifar10-jpeg"), make(problem="cifar10-jpeg", method="bop")]
    records[1]["spent"]["passes"] *= 2
    printed = text.plain(tables.summary(tidy.rows(records)))
    assert "cifar10-jpeg" not in printed and printed.count("CIFAR-10 (JPEG q75)") == 2


def test_other_problems_go_by_their_names() -> None:
    assert [labels.label(name) for name in ("cifar10", "digits", "idx:folder")] == ["cifar10", "digits", "idx:folder"]


@pytest.mark.parametrize("name", labels.LABELS)
def test_a_label_is_how_the_problem_introduces_itself(name: str) -> None:
    assert problems.describe(name).title.startswith(labels.LABELS[name])
