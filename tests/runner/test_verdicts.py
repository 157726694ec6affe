"""Verdicts: what runs again, and the words for why."""

import dataclasses

import pytest

from core import extension
from studies.runner.cells import key
from studies.runner.measure import nothing_measured
from studies.runner.provenance import provenance
from studies.runner.records import Store
from studies.runner.verdicts import examine


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "out")
    made.prepare(1)
    return made


def _provenance(store, cell):
    (verdict,) = examine([cell], store, None, reuse_stale=False, keep_states=False)
    return verdict.provenance


def _remember(store, cell, *, status="finished", reason=None, **changes):
    """A record of `cell`, as if run when its provenance differed by `changes`."""
    then = dataclasses.replace(_provenance(store, cell), **changes)
    names = {name: cell.config()[name] for name in ("study", "problem", "method", "seed")}
    body = {**nothing_measured(), "status": status, "reason": reason}
    stamp = {"schema": 1, "key": key(cell, then), "config": cell.config(), "provenance": then.as_dict()}
    return store.write({**stamp, **names, **body}, None)


def _examine(store, cell, *, reuse_stale=False, keep_states=False):
    (verdict,) = examine([cell], store, None, reuse_stale=reuse_stale, keep_states=False)
    return verdict


def test_a_cell_without_record_is_missing(store, cell):
    verdict = _examine(store, cell())
    assert (verdict.state, verdict.reasons, verdict.runs) == ("missing", ("no record",), True)


@pytest.mark.parametrize("status", ["finished", "diverged", "crashed", "skipped"])
def test_a_cell_that_came_to_an_end_is_cached(store, cell, status):
    record = _remember(store, cell(), status=status)
    verdict = _examine(store, cell())
    assert (verdict.state, verdict.key, verdict.runs) == ("cached", record["key"], False)


@pytest.mark.parametrize("status", ["failed", "unavailable"])
def test_a_cell_that_failed_is_tried_again(store, cell, status):
    _remember(store, cell(), status=status, reason="KeyError: 'x'")
    verdict = _examine(store, cell())
    assert (verdict.state, verdict.runs) == ("retry", True)
    assert verdict.reasons == (f"{status} last time: KeyError: 'x'",)


def test_other_seeds_methods_and_problems_are_no_old_records_of_a_cell(store, cell):
    _remember(store, cell(seed=1))
    _remember(store, cell("bop"))
    _remember(store, cell(problem="moons"))
    assert _examine(store, cell()).state == "missing"


def test_a_changed_setting_is_named_with_both_values(store, cell):
    _remember(store, cell(lr=0.001))
    verdict = _examine(store, cell(lr=0.0003, widths=(8, 8)))
    assert verdict.state == "changed"
    assert set(verdict.reasons) == {"hyperparameters.lr 0.001 -> 0.0003", "network.widths [16] -> [8, 8]"}


COMPILED = extension.info().path == "native"


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ({"method_source": "0"}, "methods/ste.py changed"),
        ({"core_source": "0"}, "core/ changed"),
        ({"solvers_source": "0"}, "solvers/ changed"),
        ({"torch_version": "2.12.0"}, "torch 2.12.0 -> "),
        ({"method_version": "0"}, "method version 0 -> 1"),
        ({"compiled": not COMPILED}, f"compiled {not COMPILED} -> {COMPILED}"),
        ({"data": {}}, "data inputs found"),
        ({"data": {"inputs": "0", "labels": "0"}}, "data labels changed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_changed_surroundings_are_named(store, cell, then, words):
    _remember(store, cell(), **then)
    verdict = _examine(store, cell())
    assert verdict.state == "changed"
    assert any(reason.startswith(words) for reason in verdict.reasons)


def test_the_nearest_old_record_is_the_one_compared_with(store, cell):
    _remember(store, cell(lr=0.5, clip=2.0, widths=(9,)))
    _remember(store, cell(lr=0.5))
    assert _examine(store, cell(lr=0.25)).reasons == ("hyperparameters.lr 0.5 -> 0.25",)


def test_a_stale_record_is_kept_on_request_when_only_the_surroundings_changed(store, cell):
    old = _remember(store, cell(), core_source="0")
    verdict = _examine(store, cell(), reuse_stale=True)
    assert (verdict.state, verdict.key, verdict.runs) == ("stale", old["key"], False)
    assert verdict.reasons == ("core/ changed",)


def test_a_record_of_other_settings_never_stands_for_a_cell(store, cell):
    _remember(store, cell(lr=0.5))
    assert _examine(store, cell(lr=0.25), reuse_stale=True).state == "changed"


def test_a_failed_record_is_not_kept_as_stale(store, cell):
    _remember(store, cell(), status="failed", core_source="0")
    assert _examine(store, cell(), reuse_stale=True).state == "changed"


def test_missing_data_are_an_empty_provenance(store, cell, tmp_path):
    (verdict,) = examine([cell(problem="mnist")], store, tmp_path, reuse_stale=False, keep_states=False)
    assert verdict.provenance == provenance(cell(problem="mnist"), {})
    assert verdict.state == "missing"
