"""`python -m solvers bench`: what a row says, what is asked, how peers are found and timed, what is a false proof."""

import dataclasses
import json
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from solvers.bench import adversary, clock, layer, memory, optima, peers, table, throughput
from solvers.bench.goals import Goal, Measured, Missing, Setting
from solvers.sdp.certificate import Proof, prove
from solvers.sdp.conic import reference
from solvers.sdp.least_squares import bordered
from solvers.sdp.problem import cost

KEYS = ["id", "measured", "goal", "holds", "unit", "detail"]
IDS = [f"S{k}" for k in range(1, 14)] + [f"Q{k}" for k in range(1, 7)]


def goal(value, target, least=True, also=True):
    return Goal("S0", "what", target, "x", lambda _setting: Measured(value, "how", also), least)


def test_every_goal_of_the_specification_is_in_the_table_once_and_in_order():
    listed = [entry.id for entry in table.select(None)]
    assert len(set(listed)) == len(listed)
    assert list(dict.fromkeys(id.split()[0] for id in listed)) == IDS


def test_goals_are_chosen_by_their_id_or_by_their_part():
    assert [entry.id for entry in table.select(["S5"])] == ["S5 mcp500-3", "S5 G11", "S5 G22"]
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


def test_json_lists_the_rows_and_keeps_those_before_a_failure(tmp_path, monkeypatch, capsys):
    def broken(_setting):
        raise RuntimeError("peer died")

    entries = [goal(3, 2), Goal("S1", "what", 2, "x", broken)]
    monkeypatch.setattr(table, "select", lambda only: entries)
    with pytest.raises(RuntimeError, match="peer died"):
        table.run(file=tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [list(row) for row in rows] == [KEYS] and rows[0]["holds"] is True
    entries.pop()
    assert table.run(file=tmp_path / "rows.json") == 0
    assert "1 hold, 0 do not, 0 not measured" in capsys.readouterr().out


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


def test_child_gets_the_unpacked_file_and_a_failing_one_is_named(tmp_path):
    import gzip

    packed = tmp_path / "p.dat-s.gz"
    packed.write_bytes(gzip.compress(b"content\n"))
    binary = tmp_path / "csdp"
    binary.write_text('#!/bin/sh\ncat "$1"\n')
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    path = peers.binary("csdp", Setting({"csdp": binary}))
    with peers.child(path, packed) as run:
        assert run() == "content\n"
    binary.write_text("#!/bin/sh\necho sorry >&2\nexit 3\n")
    with peers.child(path, packed) as run, pytest.raises(RuntimeError, match="p.dat-s failed with exit code 3: sorry"):
        run()


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
