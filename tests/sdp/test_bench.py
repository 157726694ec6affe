"""`python -m solvers bench`: what a row says, what is asked, how peers are found and timed, what is a false proof."""

import dataclasses
import gzip
import json
import stat
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cvxpy as cp
import numpy as np
import pytest

from solvers.bench import (
    adversary,
    binaries,
    certificates,
    clock,
    layer,
    manifold,
    memory,
    optima,
    peers,
    table,
    throughput,
)
from solvers.bench.goals import Failed, Goal, Measured, Missing, Setting, instance
from solvers.bench.peers import TrustRegion
from solvers.sdp.batching.solver import solve_batch
from solvers.sdp.certificate import Proof, prove
from solvers.sdp.conic import reference
from solvers.sdp.files.readers import read
from solvers.sdp.least_squares import bordered
from solvers.sdp.problem import cost
from solvers.sdp.solution import Seconds
from solvers.sdp.solver import solve

KEYS = ["id", "measured", "goal", "holds", "unit", "detail"]
TWO = np.array([[0.0, 1.0], [1.0, 0.0]])
FRUSTRATED = 1 - np.eye(3)
CONE = "2\n1\n2\n1 1\n0 1 1 2 -1\n1 1 1 1 1\n2 1 2 2 1\n"  # max -2 x_12: the value is 2
IDS = [f"S{k}" for k in range(1, 14)] + [f"Q{k}" for k in range(1, 7)]


def unproven(solver):
    """A solver whose proof is taken away."""
    return lambda C, **options: replace(solver(C, **options), proven=False)


def goal(value, target, least=True, also=True):
    return Goal("S0", "what", target, "x", lambda _setting: Measured(value, "how", also), least)


def test_every_goal_of_the_specification_is_in_the_table_once_and_in_order():
    listed = [entry.id for entry in table.select(None)]
    assert len(set(listed)) == len(listed)
    assert list(dict.fromkeys(id.split()[0] for id in listed)) == IDS


def test_goals_are_chosen_by_their_id_or_by_their_part():
    five = [f"S5 {name}{best}" for name in ("mcp500-3", "G11", "G22") for best in ("", " best")]
    assert [entry.id for entry in table.select(["S5"])] == five
    assert [entry.id for entry in table.select(["q6", "s5 g22"])] == ["S5 G22", "Q6"]
    with pytest.raises(ValueError, match="--only S14: no such goal; they are S1, S2, .*, Q6"):
        table.select(["S1", "S14"])


@pytest.mark.parametrize(
    "entry, holds",
    [(goal(3, 2), True), (goal(2.0, 2), True), (goal(1.9, 2), False), (goal(3, 2, also=False), False),
     (goal(3, 2, least=False), False), (goal(2, 2, least=False), True), (goal(float("nan"), 2), False)],
)  # fmt: skip
def test_row_holds_where_the_number_and_what_else_is_asked_hold(entry, holds):
    row = entry.row(Setting())
    assert (row.holds, row.detail) == (holds, "what: how")
    value = entry.measure(Setting()).value
    assert row.measured == (value if np.isfinite(value) else None)
    json.dumps(dataclasses.asdict(row), allow_nan=False)
    assert row.goal == (">= 2" if entry.least else "<= 2")


def test_goal_whose_peer_is_missing_has_no_verdict_and_says_why():
    def absent(_setting):
        raise Missing("no such peer")

    row = Goal("S0", "what", 2, "x", absent).row(Setting())
    assert (row.measured, row.holds, row.detail) == (None, None, "what: no such peer")


def test_table_goes_on_where_a_peer_fails_and_keeps_its_rows_where_ours_does(tmp_path, monkeypatch, capsys):
    def failing(_setting):
        raise Failed("SCS gave up")

    def broken(_setting):
        raise RuntimeError("ours died")

    entries = [Goal("S1", "what", 2, "x", failing), goal(3, 2), Goal("S2", "what", 2, "x", broken)]
    monkeypatch.setattr(table, "select", lambda only: entries)
    with pytest.raises(RuntimeError, match="ours died"):
        table.run(file=tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [list(row) for row in rows] == [KEYS] * 2
    assert [(row["measured"], row["holds"]) for row in rows] == [(None, None), (3, True)]
    assert rows[0]["detail"] == "what: SCS gave up"
    entries.pop()
    assert table.run(file=tmp_path / "rows.json") == 0
    assert "1 hold, 0 do not, 1 not measured" in capsys.readouterr().out


def test_without_instances_rows_say_that_the_folder_is_not_named(monkeypatch):
    monkeypatch.delenv("BITRELAX_DATA", raising=False)
    for entry in table.select(["S8", "Q1", "Q2", "Q3", "Q4", "Q5"]):
        row = entry.row(Setting())
        assert row.holds is None and "BITRELAX_DATA" in row.detail


def test_contenders_take_turns_and_an_impatient_clock_stops_the_slow_one():
    turns = []
    timed = clock.interleaved(
        {"slow": lambda: (turns.append("slow"), _burn(0.05)), "fast": lambda: turns.append("fast")}, patience=0.08
    )
    assert turns[:4] == ["slow", "fast", "slow", "fast"]
    assert len(timed["slow"].seconds) == 2 and len(timed["fast"].seconds) == clock.ROUNDS
    assert timed["slow"].median >= 0.05 > timed["fast"].median


def test_clock_counts_the_work_of_children_and_not_sleep():
    code = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.2: pass"
    worked, _ = clock.once(lambda: subprocess.run([sys.executable, "-S", "-c", code], check=True))
    slept, _ = clock.once(lambda: time.sleep(0.2))
    assert worked >= 0.2 and slept < 0.1


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A path relative to the folder we are in, of a program that is a shell script; and a packed SDPA file there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sdp").mkdir()
    (tmp_path / "sdp" / "p.dat-s.gz").write_bytes(gzip.compress(CONE.encode()))
    monkeypatch.setenv("BITRELAX_DATA", str(tmp_path))
    (tmp_path / "bin").mkdir()
    binary = Path("bin") / "solver"

    def write(script: str) -> Path:
        binary.write_text(script)
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
        return binary

    instance.cache_clear()
    yield write
    instance.cache_clear()


def test_child_at_a_relative_path_gets_the_unpacked_file(program, tmp_path):
    path = peers.binary("csdp", Setting({"csdp": program('#!/bin/sh\ncat "$1"; echo $2\n')}))
    for name, words in (("csdp", ""), ("sdpa", "out")):
        with peers.child(name, path, tmp_path / "sdp" / "p.dat-s.gz") as run:
            assert run() == CONE + words + "\n"


def test_word_without_a_slash_names_a_file_here_or_a_program_on_the_path(program, tmp_path, monkeypatch):
    program("#!/bin/sh\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert peers.binary("csdp", Setting({"csdp": Path("solver")})) == str(tmp_path / "bin" / "solver")
    monkeypatch.chdir(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert peers.binary("csdp", Setting({"csdp": Path("solver")})) == str(tmp_path / "bin" / "solver")


BROKEN = {
    "exit code": ("#!/bin/sh\necho sorry >&2\nexit 3\n", "p.dat-s failed with exit code 3: sorry"),
    "time": ("#!/bin/sh\nexec sleep 60\n", "p.dat-s was stopped after 0.3 s"),
    "no program": ("nothing to run", "solver does not run: "),
}


@pytest.mark.parametrize("how", BROKEN)
def test_binary_that_fails_is_a_row_with_the_reason(program, monkeypatch, how):
    script, message = BROKEN[how]
    monkeypatch.setattr(peers, "SECONDS", 0.3)
    measure = partial(binaries.ratio, "csdp", "p.dat-s.gz", 1e-6)
    row = Goal("S6", "what", 2, "x", measure).row(Setting({"csdp": program(script)}))
    assert (row.measured, row.holds) == (None, None) and message in row.detail


@pytest.mark.parametrize("form, solve", [("primal", cp.Problem), ("dual", cp.Problem)])
def test_conic_solver_that_gives_up_or_has_no_solution_is_failed(monkeypatch, form, solve):
    def gives_up(self, **options):
        raise cp.error.SolverError("iterations")

    C = np.array([[0.0, 1.0], [1.0, 0.0]])
    for ended in (gives_up, lambda self, **options: None):
        monkeypatch.setattr(solve, "solve", ended)
        with pytest.raises(Failed, match="SCS (gave up on|found no solution of) 2 rows"):
            getattr(peers, form)(C, "SCS", 1e-3)


PRINTED = {
    "csdp": ("Iter: 13 Pobj:  2.2e+02\nPrimal objective value: 2.2615735e+02 \nDual objective value: 1 \n", 226.15735),
    "sdpa": ("objValPrimal = +2.2615735172653353e+02\nobjValDual   = +1e+02\n", 226.15735172653353),
    "dsdp5": ("P Objective  :  -2.26157325e+02 \nDSDP Solution:  -2.26157352e+02 \n", 226.157352),
    "lorads": ("no objective", None),
}


@pytest.mark.parametrize("name", PRINTED)
def test_objective_is_read_from_what_a_binary_prints(name):
    printed, value = PRINTED[name]
    assert peers.BINARIES[name].value(printed) == value


def test_binary_is_timed_against_ours_with_its_reading_and_its_value_judged_by_the_proven_interval(
    program, monkeypatch
):
    reads = []
    monkeypatch.setattr(binaries, "read", lambda path: (reads.append(path), read(path))[1])
    for value, words in (("2.0", "its value 2 in the proven [2, 2.0000"), ("2.5", "its value 2.5 off by 2e-01 from")):
        setting = Setting({"csdp": program(f"#!/bin/sh\necho 'Primal objective value: {value}'\n")})
        found = binaries.ratio("csdp", "p.dat-s.gz", 1e-6, setting)
        assert found.also and words in found.detail
    assert len(reads) == 2 * (clock.ROUNDS + 1)
    setting = Setting({"csdp": program("#!/bin/sh\necho done\n")})
    assert "printed no value" in binaries.ratio("csdp", "p.dat-s.gz", 1e-6, setting).detail
    monkeypatch.setattr(binaries, "solve", unproven(solve))
    assert not binaries.ratio("csdp", "p.dat-s.gz", 1e-6, setting).also


def test_two_rows_of_the_trust_region_are_of_the_same_runs(monkeypatch):
    studies = []

    def study(C, gap, timer):
        studies.append(gap)
        return TrustRegion(2, 0.04), TrustRegion(2, 0.02)

    monkeypatch.setattr(TrustRegion, "run", lambda self, C: _burn(self.gradient))
    monkeypatch.setattr(manifold, "trust_region", study)
    monkeypatch.setattr(manifold, "instance", lambda file: SimpleNamespace(C=TWO))
    monkeypatch.setattr(manifold, "ours", lambda file, gap: partial(solve, TWO, gap=gap))
    manifold._raced.cache_clear()
    far, near = (measure("file", Setting()) for measure in (manifold.safe, manifold.tuned))
    manifold._raced.cache_clear()
    assert studies == [1e-6] and far.value > 1.5 * near.value > 0
    assert "gradient 0.04" in far.detail and "gradient 0.02" in near.detail and far.also and near.also
    monkeypatch.setattr(manifold, "ours", lambda file, gap: partial(unproven(solve), TWO, gap=gap))
    assert not manifold.safe("file", Setting()).also
    manifold._raced.cache_clear()


@pytest.mark.parametrize(
    "change, holds",
    [({}, True), ({"factorisations": 3}, False), ({"gap": 1e-3}, False), ({"proven": False}, False)],
)
def test_seconds_and_share_hold_only_for_proven_runs_of_few_factorisations(monkeypatch, change, holds):
    found = replace(solve(FRUSTRATED, gap=1e-6), seconds=Seconds(3.0, 1.0), factorisations=2, gap=1e-7, proven=True)
    monkeypatch.setattr(certificates, "ours", lambda file, gap: lambda: replace(found, **change))
    assert certificates.seconds("file", 1e-5, 2, Setting()).also is holds
    share = certificates.share("file", Setting())
    assert share.value == 0.25 and share.also is (holds or "factorisations" in change)


def test_one_unproven_run_of_five_spoils_the_share(monkeypatch):
    runs, turns = iter(range(20)), (solve, unproven(solve))
    monkeypatch.setattr(certificates, "ours", lambda file, gap: lambda: turns[next(runs) == 2](TWO))
    assert not certificates.share("file", Setting()).also


@pytest.mark.parametrize("value, holds", [("2.0000", True), ("2.0001", False), ("1.9999", False), ("2", True)])
def test_published_value_outside_its_interval_spoils_the_goal(program, monkeypatch, value, holds):
    monkeypatch.setattr(optima, "published", lambda: iter([("p.dat-s.gz", "p", "maxcut-sdp", value)]))
    found = optima.sdplib(Setting())
    assert found.also is holds and ("outside: none" in found.detail) is holds and found.value <= 1e-6
    monkeypatch.setattr(optima, "EXCEPTIONS", ("p",))
    assert optima.sdplib(Setting()).also
    monkeypatch.setattr(optima, "ours", lambda file, gap: partial(unproven(solve), instance(file).C, gap=gap))
    assert optima.sdplib(Setting()).value == np.inf


@pytest.mark.parametrize(
    "file, text, attained, beyond",
    [("g", "3 3\n1 2 1\n2 3 1\n1 3 1\n", "2", "3"), ("q.sparse", "2 2\n1 1 -7\n1 2 3\n", "-7", "-8")],
)
def test_bound_on_the_wrong_side_of_a_published_value_is_counted(
    program, monkeypatch, tmp_path, file, text, attained, beyond
):
    """The best cut of a triangle is 2, the least of -7 x + 6 x y is -7: better values would be beyond the bound."""
    (tmp_path / "sdp" / file).write_text(text)
    monkeypatch.setattr(optima, "UNSEEN", 0)
    for value, wrong in ((attained, 0), (beyond, 1)):
        monkeypatch.setattr(optima, "published", lambda value=value: iter([(file, "name", "signs", value)]))
        found = optima.bounds(Setting())
        assert found.value == wrong and ("name: bound" in found.detail) == bool(wrong)


@pytest.mark.parametrize("spoilt", [None, "proven", "gap"])
def test_layer_needs_every_neuron_proven_to_its_gap(monkeypatch, spoilt):
    def batch(G, B, **options):
        found = solve_batch(G, B, **options)
        assert found.proven.all()
        last = np.arange(len(B)) == len(B) - 1
        change = {"proven": {"proven": ~last}, "gap": {"gap": np.where(last, 1.1e-3, found.gap)}, None: {}}[spoilt]
        return replace(found, **change)

    monkeypatch.setattr(layer, "NEURONS", 12)
    monkeypatch.setattr(layer, "solve_batch", batch)
    monkeypatch.setattr(layer, "primal", lambda C, solver, tolerance: 1.02 * solve(C, gap=1e-8).value)
    monkeypatch.setattr(layer, "dual", lambda C, solver, tolerance: 0.97 * solve(C, gap=1e-8).value)
    found = layer.ratio(Setting())
    assert found.also is (spoilt is None)
    assert f"{12 - (spoilt is not None)}/12 proven" in found.detail
    assert (
        "primal form as users write it), its value off by 2e-02" in found.detail
        and "off by 3e-02; ours" in found.detail
    )


def test_missing_binaries_are_missing_and_say_how_to_name_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="sdpa is not installed; --peer sdpa=PATH"):
        peers.binary("sdpa", Setting())
    with pytest.raises(Missing, match="--peer lorads=.*absent: no executable there"):
        peers.binary("lorads", Setting({"lorads": tmp_path / "absent"}))


def test_primal_form_of_the_peer_has_the_value_of_the_dual_form():
    problem = layer.neurons()
    C = bordered(problem.G[:8, :8], problem.B[0, :8], problem.constants[0])
    ours = reference(C, "CLARABEL", tolerance=1e-8).value
    assert peers.primal(C, "CLARABEL", 1e-8) == pytest.approx(ours, rel=1e-6)
    assert peers.primal(C, "SCS", 1e-6) == pytest.approx(ours, rel=1e-4)


def test_neurons_of_the_layer_are_their_least_squares():
    problem = layer.neurons()
    assert problem.G.shape == (layer.PIXELS, layer.PIXELS) and problem.B.shape == (layer.NEURONS, layer.PIXELS)
    assert np.diag(problem.G) == pytest.approx(1797.0)  # standardised
    assert (problem.constants > 0).all() and np.linalg.matrix_rank(problem.G) == layer.PIXELS


@pytest.mark.parametrize("seed", range(3))
def test_adversary_knows_a_false_proof_when_it_sees_one(seed):
    rng = np.random.default_rng(seed)
    of = cost(adversary._matrix(rng))
    scale = float(abs(of.off).sum(axis=1).max())
    least = adversary._least(of, np.zeros(of.n))
    true, false = np.full(of.n, least - 1e-6 * scale), np.full(of.n, least + 1e-9 * scale)
    value = scale * of.n  # an upper bound of everything
    assert not adversary._is_false(of, float(true.sum()), true, value, scale)
    assert adversary._is_false(of, float(true.sum()), false, value, scale)  # indefinite
    assert adversary._is_false(of, value * (1 + 1e-9), true, value, scale)  # above what is attained
    assert prove(of, true) is not None and prove(of, false) is None


def test_adversarial_trials_count_a_gullible_prover_as_false(monkeypatch):
    monkeypatch.setattr(adversary, "MATRICES", 4)
    honest = adversary.trials(Setting())
    assert honest.value == 0 and honest.also and f"{4 * adversary.EACH} trials" in honest.detail

    def gullible(of, y):
        return Proof(float(y.sum()) + of.constant, y) if np.isfinite(y).all() else None

    monkeypatch.setattr(adversary, "prove", gullible)
    assert adversary.trials(Setting()).value >= 4 * 5


def test_unseen_instances_differ_and_are_symmetric():
    made = [optima._unseen(seed) for seed in range(3)]
    assert all(np.array_equal(C, C.T) for C in made) and not np.array_equal(made[0], made[1])


def test_dense_throughput_compares_equal_work():
    assert 0.01 < throughput.dense(130, 8, Setting()).value < 100
    assert 0.01 < throughput.single(130, 16, Setting()).value < 100


@pytest.mark.data
def test_plain_sweep_and_ours_are_timed_for_the_same_answer():
    found = throughput.sparse("biqmac/g05_60.0.gz", 8, Setting())  # raises where they end apart
    assert found.value > 0 and "plain" in found.detail


@pytest.mark.data
def test_memory_of_a_solve_is_measured_in_a_process_of_its_own():
    if not memory.RESET.exists():
        pytest.skip("needs /proc/self/clear_refs")
    found = memory.peak("sdplib/mcp500-3.dat-s.gz", 1e-3, Setting())
    assert 0 < found.value < 100 and "proven" in found.detail  # a dense C alone takes 2 MB


def _burn(seconds: float) -> None:
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        pass
