"""Laws of the tidy frames: every number of a record is in them once, and the order of records is no matter."""

import random

import pandas as pd
import pytest

from studies.analysis import tables, tidy


def test_every_number_of_a_prediction_is_one_row(study):
    rows = tidy.rows(study)
    for record in study:
        found = rows[rows["key"] == record["key"]].set_index(["prediction", "split", "metric"])["value"]
        for rule in record["predictions"]:
            for split, metrics in rule["metrics"].items():
                for metric, value in metrics.items():
                    assert found[rule["prediction"], split, metric] == value
            assert found[rule["prediction"], "validation", "temperature"] == rule["temperature"]
        numbers = sum(len(m) for rule in record["predictions"] for m in rule["metrics"].values())
        expected = numbers + len(record["predictions"]) + len(tidy.CELL_METRICS)
        assert len(found) == (expected if record["status"] == "finished" else 1)


def test_facts_of_a_cell_are_rows_of_the_train_split_without_prediction(make):
    rows = tidy.rows([make(seed=3)])
    facts = rows[rows["split"] == "train"]
    assert facts["prediction"].isna().all()
    values = facts.set_index("metric")["value"]
    assert values["seconds_train"] == 1.3
    assert values["passes"] == 132
    assert values["decided"] == 0.99


@pytest.mark.parametrize("status", ["diverged", "crashed", "failed", "skipped", "unavailable"])
def test_an_unfinished_cell_is_one_row_with_its_reason_and_no_number(make, status):
    (row,) = tidy.rows([make(status=status)]).to_dict("records")
    assert (row["status"], row["reason"]) == (status, f"{status} at step 12")
    assert pd.isna([row["split"], row["metric"], row["prediction"], row["value"]]).all()


def test_order_of_records_is_no_matter(study):
    shuffled = random.Random(0).sample(study, len(study))
    pd.testing.assert_frame_equal(tidy.rows(shuffled), tidy.rows(study))
    pd.testing.assert_frame_equal(tidy.curves(shuffled), tidy.curves(study))


def test_types_are_the_declared_ones_even_without_records(study):
    for records in (study, []):
        assert dict(tidy.rows(records).dtypes.astype(str)) == tidy.ROWS
        assert dict(tidy.curves(records).dtypes.astype(str)) == tidy.CURVES


def test_curves_hold_every_epoch_of_finished_and_diverged_cells(study):
    curves = tidy.curves(study)
    assert len(curves) == sum(len(record["curve"]) for record in study)
    diverged = next(record for record in study if record["status"] == "diverged")
    found = curves[curves["key"] == diverged["key"]]
    assert list(found["train_loss"]) == [point["train_loss"] for point in diverged["curve"]]


def test_null_metric_stays_missing(make):
    record = make()
    record["predictions"][0]["metrics"]["test"]["nll"] = None
    rows = tidy.rows([record])
    value = rows[(rows["split"] == "test") & (rows["metric"] == "nll")]["value"]
    assert len(value) == 1 and value.isna().all()


def test_stale_is_kept_from_the_record(make):
    rows = tidy.rows([make(seed=0), {**make(seed=1), "stale": True}])
    assert set(rows[rows["stale"]]["seed"]) == {1}


def test_two_records_of_one_cell_are_refused_by_their_keys(make):
    with pytest.raises(ValueError, match=r"digits / ste / seed 0: old and new"):
        tidy.rows([make(key="old"), make(key="new")])
    with pytest.raises(ValueError, match="two records of the cell"):
        tidy.rows([make(), make()])


def test_current_keeps_the_record_that_was_tested_last(make):
    old, new = make(key="z", accuracy=0.1), make(key="a", accuracy=0.9)
    new["test_reads"][0]["at"] = "2026-11-22T10:00:00+00:00"
    other = make(seed=1)
    assert {record["key"] for record in tidy.current([new, old, other])} == {"a", other["key"]}


def test_labels_say_what_differs_and_nothing_else(make):
    rows = tidy.labelled(
        tidy.rows(
            [
                make(hyperparameters={"lr": 0.1, "clip": 1.0}),
                make(hyperparameters={"lr": 0.2, "clip": 1.0}),
                make(method="bop", hyperparameters={"threshold": 1e-8}),
                make("moons", method="bop", hyperparameters={"threshold": 1e-8}, epochs=5),
                make("moons", method="ste", setup={"network": {"name": "mlp", "widths": [8, 8]}}, epochs=7),
            ]
        )
    )
    labels = {tuple(row) for row in rows[["problem", "method", "setting", "variant"]].itertuples(index=False)}
    assert labels == {
        ("digits", "ste", "", "lr=0.1"),
        ("digits", "ste", "", "lr=0.2"),
        ("digits", "bop", "", ""),
        ("moons", "bop", "budget.epochs=5, network.widths=[64]", ""),
        ("moons", "ste", "budget.epochs=7, network.widths=[8,8]", ""),
    }


def test_a_best_validation_network_is_in_the_rows_and_in_no_table(make):
    plain = [make(method=method, seed=seed, accuracy=0.9) for method in ("ste", "bop") for seed in range(3)]
    frame = tidy.rows([_with_best(record, 0.99) for record in plain])
    best = frame[(frame["epoch"] == "best") & (frame["split"] == "test") & (frame["metric"] == "accuracy")]
    assert list(best["prediction"]) == ["mode @ best validation"] * 6 and list(best["value"]) == [0.99] * 6
    assert tables.csv(tables.summary(frame)) == tables.csv(tables.summary(tidy.rows(plain)))


def test_cells_that_track_their_best_epoch_are_told_from_those_that_do_not(make):
    frame = tidy.labelled(tidy.rows([make(), make(setup={"track_best": True})]))
    assert set(frame["setting"]) == {"", "track_best=true"}


def _with_best(record, accuracy):
    """The record with the mode of a best-validation epoch beside that of the last."""
    (last,) = record["predictions"]
    metrics = {split: {**found, "accuracy": accuracy} for split, found in last["metrics"].items()}
    best = {**last, "prediction": "mode @ best validation", "epoch": "best", "metrics": metrics}
    return {**record, "predictions": [{**last, "epoch": "last"}, best]}
