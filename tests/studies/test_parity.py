"""The parity study: its published numbers, its protocols, what it says of differences, and the command as a whole."""

import dataclasses
import math

import pandas as pd
import pytest

import methods
from core import architectures, problems
from studies import load, parity
from studies.published import protocols, session
from studies.published.boards import EVERY_METHOD, PROTOCOLS
from studies.published.comparison import differences, unknowns
from studies.published.numbers import NUMBERS, SOURCES, TAGS
from studies.published.protocols import Board, Protocol, plan
from studies.published.recipes import RECIPES
from studies.runner.cells import canonical
from studies.runner.records import Store

SHORT, FULL = PROTOCOLS["short"], PROTOCOLS["full"]
BOARDS = [(protocol, board) for protocol in PROTOCOLS.values() for board in protocol.boards]
NAMES = [f"{protocol.name}-{board.name}" for protocol, board in BOARDS]


def planned(protocol, **changed):
    return plan(protocol, **{"only": None, "seeds": (0,), "device": "cpu", "problems": {}, **changed})


# the published numbers


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: f"{n.recipe}-{n.method}-{n.label}")
def test_every_number_has_a_recipe_a_source_a_tag_and_a_method_of_ours(number):
    assert number.recipe in RECIPES and number.source in SOURCES and number.tag in TAGS
    assert number.method in methods.names()
    assert 50 < number.accuracy < 100, "percent"
    assert set(number.hyperparameters) <= set(methods.signature(number.method))
    assert number.sd is None or 0 < number.sd < 1


def test_no_number_is_only_recalled():
    assert set(TAGS) == {"C", "L", "P", "S"} and {number.tag for number in NUMBERS} <= set(TAGS)


def test_no_number_stands_there_twice():
    told = [(n.recipe, n.method, n.label) for n in NUMBERS]
    assert len(set(told)) == len(told)


def test_every_number_is_shown_by_the_full_protocol():
    """A number on no board, or of a method that its board does not run, would never stand beside ours."""
    shown = {id(number) for board in FULL.boards for method in board.methods for number in board.numbers(method)}
    assert [number for number in NUMBERS if id(number) not in shown] == []


@pytest.mark.parametrize("name", RECIPES)
def test_the_network_of_a_recipe_is_one_we_can_build(name):
    options = dict(RECIPES[name].network)
    if not options:
        pytest.skip("its source names none")
    assert set(options) - {"name"} <= set(architectures.defaults(options["name"]))


# the protocols


@pytest.mark.parametrize(("protocol", "board"), BOARDS, ids=NAMES)
def test_every_cell_of_a_board_is_resolved_and_tracks_its_best_epoch(protocol, board):
    cells = [each.cell for each in planned(protocol) if each.board is board]
    assert {cell.method for cell in cells} == set(board.methods)
    for cell in cells:
        assert cell.track_best and cell.schedule == "cosine"
        assert set(cell.hyperparameters) == set(methods.signature(cell.method))
        assert set(cell.network) == {"name", *architectures.defaults(cell.network["name"])}
        assert cell.problem in problems.names()
        canonical(cell.config())


def test_the_short_protocol_is_what_the_issue_asks_for():
    mlp, *lenets = SHORT.boards
    assert set(mlp.methods) == set(EVERY_METHOD) and mlp.network["widths"] == (512, 512)
    assert sorted(name for board in lenets for name in board.methods) == ["blrnet", "full-precision", "ste"]
    assert all(board.network["name"] == "lenet" and board.epochs <= 4 for board in lenets)


def test_the_short_protocol_is_estimated_to_fit_its_25_minutes_on_two_cores():
    seconds = [each.seconds for each in planned(SHORT)]
    assert None not in seconds
    assert sum(seconds) / (2 * session.EFFICIENCY) <= 25 * 60 and max(seconds) <= 25 * 60


def test_seeds_run_whole_one_after_the_other_longest_cell_first():
    found = planned(SHORT, seeds=(0, 1))
    assert [each.cell.seed for each in found] == [0] * 13 + [1] * 13
    times = [each.seconds for each in found[:13]]
    assert times == sorted(times, reverse=True)


def test_a_stand_in_takes_the_place_of_a_problem():
    cells = [each.cell for each in planned(FULL, problems={"cifar10": "cifar10-jpeg"})]
    assert {cell.problem for cell in cells} == {"mnist", "cifar10-jpeg"}


@pytest.mark.data
def test_the_split_is_the_one_the_page_states():
    problem = problems.load("mnist", None)
    assert len(problem.validation) == protocols.HELD_OUT["mnist"]
    (board,) = [board for board in SHORT.boards if board.name == "mnist-mlp"]
    assert protocols.steps(board) == board.epochs * (len(problem.train) // board.batch)


# differences


@pytest.fixture
def published_cell():
    """The cell of the full protocol that is BayesBiNN's own, and its published number."""
    (cell,) = [
        each.cell
        for each in planned(FULL, only=("bayesbinn-published",))
        if each.board.name == "mnist-mlp"
    ]  # fmt: skip
    (number,) = [n for n in NUMBERS if n.recipe == "mnist-mlp" and n.tag == "P"]
    return cell, number


def test_the_published_recipe_itself_differs_in_nothing(published_cell):
    cell, number = published_cell
    assert differences(number, cell, 5, 1) == [] and unknowns(number) == []


CHANGES = {
    "epochs": ({"budget": {"epochs": 20}}, "epochs 20 for 500"),
    "batch": ({"batch": 128}, "batch 128 for 100"),
    "schedule": ({"schedule": "linear"}, "schedule linear for cosine"),
    "widths": ({"network": {"widths": (512, 512)}}, "widths 512-512 for 2048-2048-2048"),
    "dropout": ({"network": {"dropout": 0.0}}, "dropout 0 for 0.2"),
    "net": ({"network": {"name": "lenet"}}, "net lenet for 784-2048x3-10, dropout 0.2"),
    "rate": ({"hyperparameters": {"lr": 3e-4}}, "lr 0.0003 for 0.0001"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_departure_from_the_recipe_is_said(published_cell, name):
    cell, number = published_cell
    (changed, said) = CHANGES[name]
    merged = {k: {**getattr(cell, k), **v} if isinstance(v, dict) else v for k, v in changed.items()}
    assert differences(number, dataclasses.replace(cell, **merged), 5, 1) == [said]


def test_fewer_seeds_other_ensembles_and_a_copy_of_the_data_are_said(published_cell):
    cell, number = published_cell
    assert differences(number, cell, 1, 1) == ["1 seed for 5"]
    assert differences(number, cell, 5, 10) == ["10 networks averaged for 1"]
    copy = dataclasses.replace(cell, problem="cifar10-jpeg")
    assert "cifar10-jpeg for mnist" in differences(number, copy, 5, 1)


def test_a_number_chosen_on_the_test_set_is_called_that():
    found = [n for n in NUMBERS if n.epoch == "best test"]
    assert found and {n.source for n in found} == {"VISPA"}
    (cell,) = [
        each.cell
        for each in planned(FULL, only=("lowrank-sdp-published",))
        if each.board.name == "cifar10-vispa-vgg"
    ]  # fmt: skip
    (number,) = [n for n in found if n.recipe == "cifar10-vispa-vgg"]
    said = differences(number, cell, 5, 40)
    assert "theirs is its best epoch on the test set" in said and "held out 5000 for 0" in said
    assert "augmentation none for crop from a pad of 4 and flip" in said
    assert "no PReLU for one before each sign" in said


def test_what_a_source_leaves_open_is_named():
    (number,) = [n for n in NUMBERS if n.label == "PBNet-S-16" and n.recipe == "mnist-lenet"]
    assert unknowns(number) == ["batch", "schedule", "validation split", "augmentation"]
    (cell,) = [e.cell for e in planned(SHORT, only=("blrnet",)) if e.board.name == "mnist-lenet"]
    assert differences(number, cell, 1, 16) == [f"epochs {cell.budget['epochs']} for an unknown number"]
    (number,) = [n for n in NUMBERS if n.recipe == "mnist-bnn"]
    assert unknowns(number)[0] == "net"


# the command


TINY = Board(
    name="tiny",
    title="digits, 64-16-10",
    problem="digits",
    network={"name": "mlp", "widths": (16,)},
    epochs=3,
    batch=32,
    methods={"ste": {}, "bayesbinn-published": {}, "blrnet": {}},
    recipes=("mnist-mlp", "mnist-mlp-again-ste", "mnist-lenet"),
)


@pytest.fixture(scope="module")
def tiny():
    """The short protocol with one board that trains in a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(session.PROTOCOLS, "short", Protocol("short", "short protocol", 2, (TINY,)))
        patch.setitem(protocols.HELD_OUT, "digits", 359)
        yield


@pytest.fixture(scope="module")
def out(tiny, tmp_path_factory):
    """The folder of a run of all of it."""
    folder = tmp_path_factory.mktemp("parity")
    assert command(folder) == 0
    return folder


def command(out, *words):
    return parity.main(["--out", str(out), "--backend", "serial", "--no-states", *words])


def test_a_run_leaves_page_table_rows_figure_and_manifest(out):
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    files = {"parity.md", "parity.csv", "rows.parquet", "curves.parquet", "manifest.json"}
    assert files | {"figures/parity.png", "figures/parity.pdf"} <= written
    text = (out / "parity.md").read_text()
    assert text.count("short protocol") >= 3 and "98.86 ± 0.05 (5 runs)" in text and "[P]" in text
    assert "[R]" not in text
    assert set(load(out)["epoch"].dropna()) == {"last", "best"}


@pytest.mark.parametrize(("name", "epoch"), [("mode", "last"), ("mode @ best validation", "best")])
def test_the_table_has_the_means_of_the_records(out, name, epoch):
    (row,) = pd.read_csv(out / "parity.csv").query("method == 'ste' and prediction == 'mode'").to_dict("records")
    values = [
        100 * rule["metrics"]["test"]["accuracy"]
        for record in Store(out).read_all()
        if record["method"] == "ste"
        for rule in record["predictions"]
        if rule["prediction"] == name
    ]
    assert len(values) == row["n"] == 2
    half = abs(values[0] - values[1]) / math.sqrt(2)  # the n - 1 deviation of two values
    assert math.isclose(row[epoch], sum(values) / 2, rel_tol=1e-5)  # the file has six digits
    assert math.isclose(row[f"{epoch}_sd"], half, rel_tol=1e-5)


def test_a_published_number_stands_beside_the_rule_of_its_kind(out):
    table = pd.read_csv(out / "parity.csv").set_index("label")
    assert table.loc["PBNet-S-Ternary", "prediction"] == "ternary"
    assert table.loc["PBNet-S-16", "prediction"] == "ensemble(10)"
    assert "10 networks averaged for 16" in table.loc["PBNet-S-16", "differs"]
    assert table.loc["PBNet-S, not binarised", "prediction"] == "propagate"


def test_no_published_number_stands_there_without_what_differs(out):
    table = pd.read_csv(out / "parity.csv")
    of_others = table[table["published"].notna()]
    assert len(of_others) and of_others["differs"].notna().all()  # each cell of this board departs from its recipe
    for row in of_others.to_dict("records"):
        (line,) = [text for text in (out / "parity.md").read_text().splitlines() if f"| {row['label']}: " in text]
        assert row["differs"] in line and f"[{row['tag']}]" in line


def test_a_rerun_runs_nothing_and_writes_the_same_table(out, capsys):
    first = (out / "parity.csv").read_bytes()
    assert command(out) == 0
    assert "6 cached, 0 to run" in capsys.readouterr().out
    assert (out / "parity.csv").read_bytes() == first


def test_a_failed_cell_is_a_row_with_its_reason_and_exit_code_3(tiny, tmp_path, capsys, monkeypatch):
    def broken(*arguments, **keywords):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("studies.runner.training.fit", broken)
    assert command(tmp_path, "--methods", "ste") == 3
    assert "2 of 2 cells have no result" in capsys.readouterr().out
    text = (tmp_path / "parity.md").read_text()
    assert "seed 0 failed: RuntimeError: out of luck" in text
    assert not (tmp_path / "figures" / "parity.png").exists()


def test_a_look_runs_nothing_and_says_how_long(tiny, tmp_path, capsys):
    assert command(tmp_path, "--explain") == 0
    out = capsys.readouterr().out
    assert "bayesbinn-published / seed 1  missing: no record" in out and "6 missing" in out
    assert "time not known beforehand" in out  # the tiny board has no timings
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--protocol", "full", "--methods", "nosuch"], "--methods nosuch: on no board of the full protocol"),
        (["--protocol", "full", "--boards", "mnist-mpl"], "--boards: no board 'mnist-mpl'. Did you mean 'mnist-mlp'?"),
        (["--seeds", "x"], "--seeds must be a whole number of at least 0 (got x)"),
        (["--protocol", "fast"], "--protocol must be short or full (got fast)"),
        (["--cifar10", "cifar100"], "--cifar10 must be cifar10 or cifar10-jpeg (got cifar100)"),
        (["--workers", "0"], "--workers must be a whole number of at least 1 (got 0)"),
    ],
)
def test_what_cannot_be_run_is_said_and_exits_2(tmp_path, capsys, words, said):
    assert command(tmp_path, *words) == 2
    assert said in capsys.readouterr().err


def test_every_wrong_option_is_told_at_once(tmp_path, capsys):
    assert command(tmp_path, "--seeds", "x", "--protocol", "fast", "--device", "tpu") == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
