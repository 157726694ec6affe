"""The printed table: fits its width, ranks within bits, and says what its marks mean."""

import io

import pytest
from rich.console import Console

from studies.analysis import tables, text, tidy


def printed(records):
    return text.plain(tables.summary(tidy.rows(records)))


def lines_with(output, word):
    return [line for line in output.splitlines() if word in line]


def test_no_line_is_wider_than_a_log(study, make):
    long = make(method="bayesbinn-published", hyperparameters={"lr": 0.001, "momentum": 0.9}, accuracy={"mode": 0.9})
    other = make(method="bayesbinn-published", hyperparameters={"lr": 0.002, "momentum": 0.8})
    output = printed([*study, long, other])
    assert max(map(len, output.splitlines())) <= text.WIDTH
    assert "\x1b" not in output


def test_rows_stand_under_their_bits_and_networks_best_first(study):
    output = printed(study)
    digits = output[output.index("digits") :]
    words = ("W1/A32\n", "bop", "W1/A32, 10 networks", "ensemble(10)", "W32/A32", "full-precision", " mean ")
    order = [digits.index(word) for word in words]
    assert order == sorted(order)


def test_numbers_of_a_row_are_percent_and_seconds(make):
    (line,) = lines_with(printed([make(seed=s, accuracy=0.9 + 0.01 * s) for s in range(3)]), "ste")
    # mean 0.91, sd 0.01, half-width 4.3027 x 0.01 / sqrt(3) = 0.0248; nll 3 x 0.09; ece 0.2 x 0.09; seconds 1.1
    assert line.split() == ["ste", "mode", "91.00", "1.00", "88.52–93.48", "0.270", "0.018", "1.1", "3"]


@pytest.mark.parametrize(("n", "note"), [(2, "p of an exact paired test is 0.5"), (5, "is 0.0625"), (6, None)])
def test_few_seeds_are_told_what_they_cannot_show(make, n, note):
    output = " ".join(printed([make(seed=s) for s in range(n)]).split())
    assert (note or "exact paired test") in output or note is None
    assert ("cannot" in output or "no difference can be significant" in output) == (note is not None)


def test_unequal_passes_are_told_by_problem_and_equal_ones_are_not(make):
    cells = [make(problem=p, method=m, seed=s) for p in ("digits", "moons") for m in ("ste", "bop") for s in range(2)]
    assert "equally many passes" not in printed(cells)
    for record in cells:
        if (record["problem"], record["method"]) == ("moons", "bop"):
            record["spent"] = {**record["spent"], "passes": 2 * record["spent"]["passes"]}
    said = " ".join(printed(cells).split())
    assert "Not all rows of moons spent equally many passes over a batch: see `passes` in table.csv." in said


def test_one_seed_is_not_ranked(make):
    output = printed([make(), make(method="bop", accuracy=0.5)])
    assert "With 1 seed there is no interval" in output
    assert not lines_with(output, "*")


def test_failures_and_stale_rows_are_explained_only_where_there_are_some(make):
    clean = printed([make(seed=s) for s in range(2)])
    assert "diverged" not in clean and "stale" not in clean
    output = printed([make(seed=0), {**make(seed=1), "stale": True}, make(seed=2, status="diverged")])
    assert lines_with(output, "diverged") and lines_with(output, "stale")


def test_a_method_that_only_failed_is_shown_without_numbers(make):
    (line,) = lines_with(printed([make(), make(method="bop", status="unavailable")]), "bop")
    assert line.split()[-2:] == ["0", "1"]  # n, failures
    assert "nan" not in line.lower()


def test_a_terminal_gets_the_same_words(study):
    summary = tables.summary(tidy.rows(study))
    screen = Console(file=io.StringIO(), force_terminal=True, width=160, color_system="truecolor")
    text.show(summary, screen)
    shown = screen.file.getvalue()
    assert "\x1b[1m" in shown and "W1/A32" in shown


def test_no_cells_are_told_plainly():
    assert printed([]).strip() == "no cells, so no table"
