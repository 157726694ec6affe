"""`python -m solvers solve`: the instance's own sense, what its JSON says, its words, its refusals and exit codes."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from solvers import command
from solvers.__main__ import main
from solvers.sdp.files.readers import read
from solvers.sdp.signs.enumeration import enumerate_signs
from solvers.sdp.signs.rounding import round as round_signs
from solvers.sdp.solution import Seconds
from solvers.sdp.solver import solve as solve_cost

FIELDS = "instance n sense value bound bound_integer gap proven rank cut seconds seconds_certify".split()


@pytest.fixture
def files(tmp_path):
    """A graph with weights of both signs, a quadratic program and an SDPA problem, each small enough to enumerate."""
    rng = np.random.default_rng(5)
    pairs = [(i, j) for i in range(1, 13) for j in range(i + 1, 13) if rng.random() < 0.6]
    weights = rng.integers(-3, 8, size=len(pairs))
    body = "".join(f"{i} {j} {w}\n" for (i, j), w in zip(pairs, weights, strict=True))
    loops = "".join(f"{i} {i} {q}\n" for i, q in enumerate(rng.integers(-20, 10, size=12), 1))
    cost = "".join(f"0 1 {i} {j} {w / 4}\n" for (i, j), w in zip(pairs, weights, strict=True))
    fixed = "".join(f"{i} 1 {i} {i} 1\n" for i in range(1, 13))
    texts = {
        "graph": f"12 {len(pairs)}\n{body}",
        "program.sparse": f"12 {len(pairs) + 12}\n{loops}{body}",
        "cone.dat-s": f"12\n1\n12\n{' 1' * 12}\n{cost}{fixed}",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name: tmp_path / name for name in texts}


@pytest.mark.parametrize("name", ["graph", "program.sparse", "cone.dat-s"])
def test_json_bounds_the_optimum_over_signs_from_the_right_side(files, capsys, name):
    assert main(["solve", str(files[name]), "--json", "--cut", "--gap", "1e-5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == FIELDS
    instance = read(files[name])
    optimum = instance.objective(enumerate_signs(instance.C).value)
    side = 1 if found["sense"] == "max" else -1
    assert side * (found["bound"] - found["value"]) >= 0
    assert side * (found["bound"] - found["bound_integer"]) >= 0
    assert side * (found["bound_integer"] - optimum) >= 0
    assert side * (optimum - found["cut"]) >= 0
    assert (found["instance"], found["n"], found["proven"]) == (name, 12, True)
    assert found["gap"] <= 1e-5 and found["gap"] == pytest.approx(
        abs(found["value"] - found["bound"]) / max(1, abs(found["value"]))
    )
    assert 0 <= found["seconds_certify"] <= found["seconds"]
    if name != "cone.dat-s":  # its entries are quarters: what signs attain is not whole
        assert found["bound_integer"] == int(found["bound_integer"])


def test_words_give_the_numbers_of_the_json_rounded_outwards(files, capsys):
    main(["solve", str(files["graph"]), "--json", "--cut"])
    found = json.loads(capsys.readouterr().out)
    main(["solve", str(files["graph"]), "--cut"])
    printed = capsys.readouterr().out
    words = {line.split()[0]: line for line in printed.splitlines()[1:]}
    low, high = (float(end) for end in words["interval"].split("[")[1].split("]")[0].split(","))
    assert (
        low <= found["value"] and found["bound"] <= high and high - low < 2 * (found["bound"] - found["value"]) + 1e-9
    )
    assert "certified" in words["interval"] and "factorisation" in words["gap"]
    assert words["cut"].split()[1] == f"{found['cut']:.15g}"
    assert printed.startswith("graph: max-cut of a graph, 12 nodes,")


@pytest.mark.parametrize("weight", ["1e200", "1e-200", "0.1", "-3", "0"])
def test_words_hold_numbers_of_every_size_and_bounds_that_are_no_tighter(tmp_path, capsys, weight):
    (tmp_path / "g").write_text(f"2 1\n1 2 {weight}\n")
    assert main(["solve", str(tmp_path / "g"), "--json", "--cut"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["solve", str(tmp_path / "g"), "--cut"]) == 0
    words = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    low, high = (float(end) for end in words["interval"].split("[")[1].split("]")[0].split(","))
    over_signs = float(words["over"].split()[2])
    assert low <= found["value"] and high >= found["bound"] >= found["bound_integer"] and over_signs >= found["cut"]
    assert found["cut"] == max(0.0, float(weight)) and found["bound_integer"] >= found["cut"]
    assert "E" not in words["interval"]
    assert ("optimal" in words["cut"]) == (found["cut"] == found["bound_integer"])


def test_words_of_a_file_speak_of_its_own_points(files, capsys):
    """A quadratic program over bits has no cut and no signs, a cone's points are signs."""
    spoken = {"graph": "cut", "program.sparse": "0-1 point", "cone.dat-s": "+-1 point"}
    for name, point in spoken.items():
        main(["solve", str(files[name]), "--cut"])
        printed = capsys.readouterr().out
        body = printed.split("\n", 1)[1]
        assert f"every {point} is at {'least' if name == 'program.sparse' else 'most'} this" in body
        assert f"\n  {point} " in body and f"more for the {point}" in body
        assert not any(other in body for other in set(spoken.values()) - {point})
        assert ("over signs" in body) == (name == "cone.dat-s")


@pytest.mark.parametrize("used, left", [(0.5, 1.5), (1.95, 0.1), (30.0, 0.1)])
def test_search_for_signs_has_what_the_solve_leaves_of_the_limit(files, monkeypatch, used, left):
    limits = []

    def rounded(factor, C, *, seed, seconds, bound):
        limits.append(seconds)
        return round_signs(factor, C, local="descent", seed=seed)

    def slow(C, **options):
        return replace(solve_cost(C, **options), seconds=Seconds(used, 0.0))

    monkeypatch.setattr(command, "round_signs", rounded)
    monkeypatch.setattr(command, "solve_cost", slow)
    graph = read(files["graph"])
    command.answer(graph, gap=1e-3, time_limit=2.0, cut=True)
    command.answer(graph, gap=1e-3, cut=True)
    assert limits == [pytest.approx(left), math.inf]


def test_limit_ends_the_search_for_signs(tmp_path):
    """2000 flips a sign on 1000 rows, the bound not attained, take a second."""
    rng = np.random.default_rng(0)
    n = 1000
    pairs = sorted({(int(i), int(j)) for i, j in np.sort(rng.integers(1, n + 1, size=(4000, 2))) if i < j})
    (tmp_path / "g").write_text(f"{n} {len(pairs)}\n" + "".join(f"{i} {j} {rng.normal()}\n" for i, j in pairs))
    found = command.answer(read(tmp_path / "g"), gap=1e-2, time_limit=1e-3, cut=True)
    free = command.answer(read(tmp_path / "g"), gap=1e-2, cut=True)
    assert found.seconds_cut < free.seconds_cut / 2
    assert found.cut is not None and found.cut <= found.bound_integer


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_what_is_not_proven_is_not_called_certified_and_has_exit_code_1(files, monkeypatch, capsys, flag):
    def unproven(C, **options):
        found = solve_cost(C, **options)
        return replace(found, proven=False, status="time_limit", bound_integer=found.bound, note="stopped")

    words = ["solve", str(files["graph"]), "--cut", *flag]
    assert main(words) == 0
    proven = capsys.readouterr().out
    monkeypatch.setattr(command, "solve_cost", unproven)
    assert main(words) == 1
    printed = capsys.readouterr().out
    if flag:
        assert json.loads(printed)["proven"] is False and json.loads(proven)["proven"] is True
        return
    assert "certified" not in printed and printed.count("estimated, not proven") == 2
    assert "no proof; time limit: stopped" in printed and "optimal" not in printed
    assert proven.count("certified: ") == 2


def test_without_cut_nothing_is_rounded_and_the_field_is_null(files, capsys):
    main(["solve", str(files["graph"]), "--json"])
    assert json.loads(capsys.readouterr().out)["cut"] is None
    main(["solve", str(files["graph"])])
    assert "\n  cut" not in capsys.readouterr().out


def test_same_seed_gives_the_same_answer(files, capsys):
    answers = []
    for seed in ("3", "3", "4"):
        main(["solve", str(files["graph"]), "--json", "--cut", "--seed", seed])
        answers.append({k: v for k, v in json.loads(capsys.readouterr().out).items() if not k.startswith("seconds")})
    assert answers[0] == answers[1]
    assert answers[0]["value"] != answers[2]["value"]  # another start ends elsewhere within the gap


def test_time_limit_returns_what_is_known_by_then(tmp_path, capsys):
    rng = np.random.default_rng(0)
    n = 300
    body = "".join(f"{i} {j} {rng.normal()}\n" for i in range(1, n + 1) for j in range(i + 1, n + 1))
    (tmp_path / "dense").write_text(f"{n} {n * (n - 1) // 2}\n{body}")
    main(["solve", str(tmp_path / "dense"), "--json", "--gap", "1e-9", "--time-limit", "0.01"])
    found = json.loads(capsys.readouterr().out)
    assert found["gap"] is None or found["gap"] > 1e-9
    assert found["bound"] is None or found["bound"] >= found["value"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["solve", "absent"], "absent: No such file"),
        (["solve", "GRAPH", "--format", "sdpa"], "graph, line 1: expected the number of constraints"),
        (["solve", "loops"], "loops, line 2: expected i != j: no cut contains a loop (--format bqp reads a quadratic"),
        (["solve", "GRAPH", "--gap", "1e-18"], "gap=1e-18 cannot be proven"),
        (["bench", "--only", "S99"], "--only S99: no such goal; they are S1, S2"),
        (["bench", "--peer", "mosek=/bin/true"], "--peer mosek: unknown; the peers run as children are csdp"),
        (["bench", "--only", "S1", "--json", "absent/rows.json"], "absent/rows.json: No such file"),
    ],
)
def test_what_cannot_be_done_is_said_on_one_line_with_exit_code_2(files, capsys, monkeypatch, words, message):
    monkeypatch.chdir(files["graph"].parent)
    Path("loops").write_text("2 1\n1 1 3\n")
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the command sets its threads there
    assert main([str(files["graph"]) if word == "GRAPH" else word for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"python -m solvers {words[0]}: ") and printed.err.count("\n") == 1
    assert message in printed.err


WRONG = ["", "solve", "solve f --gap 0", "solve f --gap nan", "solve f --rank 0", "solve f --time-limit -1",
         "solve f --seed -1", "bench --peer csdp"]  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_is_refused_by_the_parser(words, capsys):
    with pytest.raises(SystemExit) as refused:
        main(words.split())
    assert refused.value.code == 2 and "usage: python -m solvers" in capsys.readouterr().err


def test_help_does_not_wait_for_scipy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "solvers", "solve", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "--time-limit" in done.stdout
    assert "scipy" not in done.stderr and "torch" not in done.stderr


@pytest.mark.data
def test_published_graph_program_and_cone_lie_within_what_is_certified(capsys):
    root = Path(os.environ["BITRELAX_DATA"]) / "sdp"
    for file, published in (("biqmac/g05_60.0.gz", 536), ("bqp/bqp50-1.sparse.gz", -2098)):
        assert main(["solve", str(root / file), "--json", "--cut"]) == 0
        found = json.loads(capsys.readouterr().out)
        side = 1 if found["sense"] == "max" else -1
        assert side * (found["bound_integer"] - published) >= 0 and found["cut"] == published
    assert main(["solve", str(root / "sdplib/mcp100.dat-s.gz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["value"] - 5e-5 <= 226.1574 <= found["bound"] + 5e-5  # the table's last digit
    assert math.isclose(found["bound"], found["value"], rel_tol=1.01e-6)
