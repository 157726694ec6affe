"""Laws of the tables: their numbers by independent formulas, equal bytes for equal records, nothing pooled."""

import random

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, special

from studies.analysis import tables, tidy

ACCURACIES = [0.91, 0.95, 0.93, 0.96, 0.90]


def row_of(table, **wanted):
    for name, value in wanted.items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


def t_distribution(x, nu):
    """P(T <= x), x > 0, by integrating Student's density."""
    constant = np.exp(special.gammaln((nu + 1) / 2) - special.gammaln(nu / 2)) / np.sqrt(nu * np.pi)
    return 0.5 + integrate.quad(lambda t: constant * (1 + t * t / nu) ** (-(nu + 1) / 2), 0, x)[0]


def test_moments_and_interval_are_the_textbook_ones(make):
    table = tables.summary(tidy.rows([make(seed=i, accuracy=a) for i, a in enumerate(ACCURACIES)]))
    row = row_of(table, metric="accuracy")
    n, mean = len(ACCURACIES), sum(ACCURACIES) / len(ACCURACIES)
    sd = (sum((a - mean) ** 2 for a in ACCURACIES) / (n - 1)) ** 0.5
    assert (row["n"], row["failures"]) == (n, 0)
    assert row["mean"] == pytest.approx(mean, rel=1e-14)  # rounding of five additions
    assert row["sd"] == pytest.approx(sd, rel=1e-12)  # cancellation in deviations of 1e-2 from values of 1
    # the interval holds 95 % of the t distribution; 1e-8: what quad promises by default
    bound = (row["ci_high"] - row["mean"]) / (sd / n**0.5)
    assert 2 * t_distribution(bound, n - 1) - 1 == pytest.approx(0.95, abs=1e-8)
    assert row["mean"] - row["ci_low"] == pytest.approx(row["ci_high"] - row["mean"], rel=1e-12)


def test_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(4000, 6))
    covered = sum(low <= 0 <= high for low, high in map(tables.interval, draws))
    # binomial(4000, 0.95): standard deviation 13.8; four of them
    assert abs(covered - 3800) < 56


def test_one_seed_has_a_mean_and_no_interval(make):
    row = row_of(tables.summary(tidy.rows([make()])), metric="accuracy")
    assert (row["n"], row["mean"], row["standing"]) == (1, 0.95, "")
    assert np.isnan([row["sd"], row["ci_low"], row["ci_high"]]).all()


def test_order_of_records_changes_no_byte(study):
    written = tables.csv(tables.summary(tidy.rows(study)))
    for seed in range(3):
        shuffled = random.Random(seed).sample(study, len(study))
        assert tables.csv(tables.summary(tidy.rows(shuffled))) == written


def test_only_timed_metrics_change_with_time_and_memory(study):
    def untimed(records):
        table = tables.summary(tidy.rows(records))
        return tables.csv(table[~table["metric"].isin(tidy.TIMED)])

    slower = [{**r, "seconds": {k: v and 2 * v for k, v in r["seconds"].items()}, "peak_memory_mb": 1.0} for r in study]
    assert untimed(slower) == untimed(study)
    assert tables.csv(tables.summary(tidy.rows(slower))) != tables.csv(tables.summary(tidy.rows(study)))


def test_table_is_of_the_test_split(make):
    record = make(accuracy=0.5)
    record["predictions"][0]["metrics"]["validation"]["accuracy"] = 0.9
    table = tables.summary(tidy.rows([record]))
    assert row_of(table, metric="accuracy")["mean"] == 0.5
    assert "temperature" not in set(table["metric"])


def test_failures_are_counted_and_never_averaged(make):
    records = [make(seed=0, accuracy=0.9), make(seed=1, accuracy=0.8)]
    records += [make(seed=2 + i, status=status) for i, status in enumerate(tables.FAILURES)]
    row = row_of(tables.summary(tidy.rows(records)), metric="accuracy")
    assert (row["n"], row["failures"]) == (2, 4)
    assert row["mean"] == pytest.approx(0.85, rel=1e-14)


def test_a_skipped_cell_is_no_failure_and_still_in_the_table(make):
    row = row_of(tables.summary(tidy.rows([make(status="skipped")])), metric="accuracy")
    assert (row["n"], row["failures"]) == (0, 0)


def test_a_method_with_no_finished_cell_is_in_the_table(make):
    table = tables.summary(tidy.rows([make(), *[make(method="bop", seed=s, status="diverged") for s in range(3)]]))
    row = row_of(table, method="bop")
    assert (row["n"], row["failures"], row["metric"], row["weight_bits"]) == (0, 3, "accuracy", 1)
    assert np.isnan(row["mean"])


@pytest.mark.parametrize(
    "change",
    [
        {"hyperparameters": {"lr": 0.5}},
        {"epochs": 30},
        {"setup": {"batch": 8}},
        {"setup": {"schedule": "constant"}},
        {"setup": {"network": {"name": "mlp", "widths": [8]}}},
        {"study": "another"},
        {"activation_bits": 1, "setup": {"network": {"name": "mlp", "widths": [64], "activation": "sign"}}},
    ],
)
def test_different_configurations_are_never_pooled(make, change):
    records = [make(seed=s, accuracy=0.9) for s in range(3)]
    records += [make(seed=s, accuracy=0.6, **change) for s in range(3)]
    table = tables.summary(tidy.rows(records))
    accuracy = table[table["metric"] == "accuracy"]
    assert sorted(accuracy["mean"].round(12)) == [0.6, 0.9]
    assert list(accuracy["n"]) == [3, 3]
    assert not accuracy.duplicated(tables.ENTRY).any()


def test_rows_of_different_bits_or_budgets_are_not_ranked_together(make):
    records = [
        make(method=method, seed=s, accuracy=a + 0.001 * s, **how)
        for method, a, how in (
            ("full-precision", 0.99, {}),
            ("ste", 0.9, {}),
            ("bop", 0.8, {"activation_bits": 1}),
            ("bayesbinn", 0.7, {"epochs": 30}),
        )
        for s in range(3)
    ]
    table = tables.summary(tidy.rows(records))
    assert set(table[table["metric"] == "accuracy"]["standing"]) == {""}  # each alone in its block: best of nothing


def test_best_is_highest_accuracy_and_lowest_loss(make):
    records = [
        make(method=m, seed=s, accuracy=a + 0.001 * s) for m, a in (("ste", 0.9), ("bop", 0.8)) for s in range(3)
    ]
    table = tables.summary(tidy.rows(records))
    for metric in tables.HIGHER_IS_BETTER:
        assert row_of(table, metric=metric, method="ste")["standing"] == "best"
        assert row_of(table, metric=metric, method="bop")["standing"] == ""


def test_paired_differences_tell_apart_what_means_cannot(make):
    # seeds differ by 0.1, methods by 0.01 on every seed: the means overlap, the difference is clear
    levels = [0.6, 0.7, 0.8, 0.9]
    records = [make(seed=s, accuracy=level) for s, level in enumerate(levels)]
    records += [make(method="bop", seed=s, accuracy=level - 0.01 - 1e-4 * s) for s, level in enumerate(levels)]
    rows = tidy.rows(records)
    table = tables.summary(rows)
    ste, bop = (row_of(table, metric="accuracy", method=m) for m in ("ste", "bop"))
    assert ste["ci_low"] < bop["mean"] < ste["ci_high"]
    assert (ste["standing"], bop["standing"]) == ("best", "")
    difference = row_of(tables.paired(rows, "accuracy"), method="bop")
    assert difference["mean"] == pytest.approx(-0.01015, abs=1e-14)  # differences of numbers below 1
    assert difference["ci_high"] < 0 and not difference["tied"]


def test_entries_whose_difference_changes_sign_are_tied(make):
    records = [make(seed=s, accuracy=0.9) for s in range(4)]
    records += [make(method="bop", seed=s, accuracy=0.9 + d) for s, d in enumerate((0.02, -0.03, 0.02, -0.02))]
    table = tables.summary(tidy.rows(records))
    assert row_of(table, metric="accuracy", method="ste")["standing"] == "best"
    assert row_of(table, metric="accuracy", method="bop")["standing"] == "tied"


def test_paired_uses_shared_seeds_only(make):
    records = [make(seed=s, accuracy=0.9 + 0.01 * s) for s in range(4)]
    records += [make(method="bop", seed=s, accuracy=0.8 + 0.01 * s) for s in (2, 3, 4)]
    row = row_of(tables.paired(tidy.rows(records), "accuracy"), method="bop")
    assert row["n"] == 2
    assert row["mean"] == pytest.approx(-0.1, abs=1e-14)


def test_a_row_with_failures_is_neither_best_nor_tied(make):
    records = [make(seed=s, accuracy=0.9 + 0.01 * s) for s in range(4)]
    records += [make(method="bop", seed=s, accuracy=0.99 + 0.001 * s) for s in range(3)]
    records.append(make(method="bop", seed=3, status="diverged"))
    table = tables.summary(tidy.rows(records))
    assert row_of(table, metric="accuracy", method="bop")["standing"] == ""
    assert row_of(table, metric="accuracy", method="ste")["standing"] == "best"


def test_a_named_reference_is_its_mode_rule_whatever_its_bits(study):
    differences = tables.paired(tidy.rows(study), "accuracy", "full-precision")
    assert set(differences["reference"]) == {"full-precision mode"}
    frame = pd.DataFrame(
        [
            (r["seed"], r["method"], r["predictions"][0]["metrics"]["test"]["accuracy"])
            for r in study
            if r["problem"] == "digits" and r["status"] == "finished"
        ],
        columns=["seed", "method", "value"],
    ).pivot(index="seed", columns="method", values="value")
    row = row_of(differences, problem="digits", method="ste")
    assert row["mean"] == pytest.approx((frame["ste"] - frame["full-precision"]).mean(), abs=1e-14)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tables.interval(frame["ste"] - frame["full-precision"]))


def test_unknown_metric_and_reference_are_named(study):
    rows = tidy.rows(study)
    with pytest.raises(ValueError, match="unknown metric 'acc'; one of accuracy, nll"):
        tables.paired(rows, "acc")
    with pytest.raises(ValueError, match="no finished cell of the reference 'stee'; there are bayesbinn, bop"):
        tables.paired(rows, "accuracy", "stee")


def test_a_reference_of_several_variants_is_refused(make):
    rows = tidy.rows([make(hyperparameters={"lr": lr}) for lr in (0.1, 0.2)])
    with pytest.raises(ValueError, match=r"several variants on digits \(lr=0.1; lr=0.2\)"):
        tables.paired(rows, "accuracy", "ste")


@pytest.mark.parametrize("n", range(1, 8))
def test_smallest_p_is_that_of_all_sign_flips(n):
    differences = np.arange(1.0, n + 1)
    signs = np.array(np.meshgrid(*[[-1, 1]] * n)).reshape(n, -1)
    sums = np.abs(signs.T @ differences)
    assert tables.smallest_p(n) == np.mean(sums >= differences.sum())


def test_no_records_make_an_empty_table():
    assert list(tables.summary(tidy.rows([])).columns) == tables.SUMMARY
