"""The figures: written whole, equal from equal frames, nothing global changed, outliers at the edge."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from studies.analysis import accuracy_figure, curve_figure, figures, marks, tables, tidy


def draw(records, folder, **options):
    rows = tidy.rows(records)
    return figures.draw(rows, tables.summary(rows), tidy.curves(records), folder, **options)


@pytest.fixture(scope="module")
def accuracy(study):
    rows = tidy.rows(study)
    with figures.style():
        return accuracy_figure.accuracy(rows, tables.summary(rows), "")


@pytest.fixture(scope="module")
def by_step(study):
    with figures.style():
        return curve_figure.by_step(tidy.labelled(tidy.curves(study)), "")


def test_figures_are_written_twice_the_same(study, tmp_path):
    few = [record for record in study if record["seed"] < 2]
    first, second = draw(few, tmp_path / "a"), draw(few, tmp_path / "b")
    names = {f"{name}.{kind}" for name in ("accuracy", "curves-by-step", "curves-by-second") for kind in ("png", "pdf")}
    assert {path.name for path in first} == names
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert one.read_bytes()[:4] == (b"%PDF" if one.suffix == ".pdf" else b"\x89PNG")
    pixels = mpl.image.imread(next(path for path in first if path.name == "accuracy.png"))
    assert (
        min(pixels.shape[:2]) > 400 and 0.02 < np.mean(pixels[..., :3].min(axis=2) < 0.9) < 0.5
    )  # neither empty nor black


def test_drawing_changes_nothing_global(study, tmp_path):
    before = dict(mpl.rcParams)
    draw(study[:4], tmp_path)
    assert dict(mpl.rcParams) == before
    assert not mpl._pylab_helpers.Gcf.get_all_fig_managers()


def test_a_study_without_a_finished_cell_has_no_figures(make, tmp_path):
    assert draw([make(status="failed"), make(seed=1, status="diverged")], tmp_path) == []


def test_every_entry_of_every_problem_is_a_row_and_every_seed_a_dot(study, accuracy):
    figure = accuracy
    table = tables.summary(tidy.rows(study))
    table = table[table["metric"] == "accuracy"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    expected = {f"{method} · {rule}" for method, rule in zip(table["method"], table["prediction"], strict=True)}
    assert set(labels) == expected | {"W1/A32", "W1/A32, 10 networks", "W32/A32"}
    for ax, (_, of_problem) in zip(figure.axes, table.groupby("problem"), strict=True):
        dots = sum(len(collection.get_offsets()) for collection in ax.collections if len(collection.get_offsets()) > 1)
        assert dots == of_problem.loc[of_problem["method"] != "bop", "n"].sum()


def test_an_entry_far_below_is_a_number_at_the_edge_and_squashes_nothing(accuracy):
    for ax in accuracy.axes:
        assert ax.get_xlim()[0] > 90
        (note,) = ax.texts
        assert note.get_text() in ("54.9", "55.0", "55.1")


def test_equal_seeds_are_dots_of_their_own(make):
    rows = tidy.rows([make(seed=s, accuracy=0.9) for s in range(4)])
    with figures.style():
        ax = accuracy_figure.accuracy(rows, tables.summary(rows), "").axes[0]
    (dots,) = [c.get_offsets() for c in ax.collections if len(c.get_offsets()) == 4]
    assert len({tuple(dot) for dot in dots}) == 4


def test_real_weights_are_hollow(accuracy):
    ax = accuracy.axes[0]
    faces = {}
    for line in ax.lines:
        if line.get_marker() in "oDsv" and line.get_linestyle() == "None":
            label = ax.get_yticklabels()[round(line.get_ydata()[0])].get_text()
            faces[label] = to_rgb(line.get_markerfacecolor()) == (1.0, 1.0, 1.0)
    hollow = {label for label, is_hollow in faces.items() if is_hollow}
    assert hollow == {"full-precision · mode", "bayesbinn · mean"}
    assert len(faces) == 5


def test_a_curve_is_the_mean_over_finished_seeds(study, by_step):
    curves = tidy.labelled(tidy.curves(study))
    mine = curves[
        (curves["problem"] == "breast-cancer") & (curves["method"] == "bop") & (curves["status"] == "finished")
    ]
    expected = 100 * mine.groupby("step")["validation_accuracy"].mean()
    drawn = [line for line in by_step.axes[0].lines if len(line.get_xdata()) == len(expected)]
    assert any(np.allclose(line.get_ydata(), expected, rtol=1e-12) for line in drawn)


def test_a_diverged_seed_ends_in_a_cross_at_its_last_epoch(study, by_step):
    crosses = [line for line in by_step.axes[2].lines if line.get_marker() == "x"]
    last = next(record for record in study if record["status"] == "diverged")["curve"][-1]["step"]
    assert [line.get_xdata()[-1] for line in crosses] == [last]


@pytest.mark.parametrize(
    ("anchors", "kept"),
    [
        ([97, 96.5, 96, 55], 96),
        ([97, 96, 95, 93], 93),
        ([96.02, 96.01, 96.0, 95.0], 95.0),
        ([96.02, 96.01, 96.0, 90.0], 96.0),
    ],
)
def test_the_floor_leaves_out_only_what_is_far(anchors, kept):
    anchors = pd.Series(anchors, dtype=float)
    assert marks.floor(anchors, anchors, least=0.5) == kept


def test_each_of_thirty_methods_has_its_own_line():
    names = [f"method {i}" for i in range(30)]
    palette, lines = marks.colours(names), marks.dashes(names)
    assert len({(palette[name], lines[name]) for name in names}) == 30


def test_mode_is_always_the_disc():
    assert marks.markers(["ensemble(10)", "mean", "mode"])["mode"] == "o"
    assert marks.markers(["mode"])["mode"] == "o"


@pytest.mark.parametrize("problems", [("digits",), ("digits", "moons"), ("a", "b", "c", "d")])
def test_nothing_is_cut_off_at_the_edges(make, problems):
    rows = tidy.rows(
        [make(p, "bayesbinn-published", s, {"ensemble(10)": 0.9 + 0.01 * s}) for p in problems for s in (0, 1)]
    )
    with figures.style():
        figure = accuracy_figure.accuracy(rows, tables.summary(rows), "A study")
        figure.draw_without_rendering()
        box, whole = figure.get_tightbbox(), figure.bbox_inches
    # in inches; half a pixel at 160 dpi for the rounding of text extents
    assert box.x0 > -0.003 and box.y0 > -0.003 and box.x1 < whole.x1 + 0.003 and box.y1 < whole.y1 + 0.003
