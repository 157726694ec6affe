"""`table.csv` and paired differences: what seeds say of a method on a problem, on the test split.

Intervals are Student t over seeds: mean +- t(0.975, n - 1) sd / sqrt(n), sd with n - 1; not clipped to a metric's
range; NaN for n < 2. A seed is the unit, so they say how much a rerun varies, not how another test set would.
Differences are paired by seed, which methods share for initial signs, data order and noise. Only rows of the same
study, problem, setting, bits and number of networks averaged are ever ranked together (a BLOCK): a row that averages
ten networks costs ten times as much to run as a single one. Networks of a best-validation epoch, where cells kept
them, are left out: they are another protocol (`studies.parity` shows them beside these).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from studies.analysis.tidy import labelled

CONFIDENCE = 0.95
HIGHER_IS_BETTER = {
    "accuracy": True,
    "nll": False,
    "nll_untempered": False,
    "brier": False,
    "ece": False,
    "ece_mass": False,
}
FAILURES = ("diverged", "crashed", "failed", "unavailable")  # a skipped cell is a method saying no, not failing

Entry = tuple[Any, ...]  # the values of ENTRY

CONFIG = ["study", "problem", "setting", "method", "variant"]
ENTRY = [*CONFIG, "prediction", "networks", "weight_bits", "activation_bits"]
COST = ["weight_bits", "activation_bits", "networks"]
BLOCK = ["study", "problem", "setting", *COST]
SUMMARY = [*ENTRY, "metric", "n", "mean", "sd", "ci_low", "ci_high", "failures", "stale", "standing"]
PAIRED = [*ENTRY, "metric", "reference", "is_reference", "n", "mean", "sd", "ci_low", "ci_high", "tied"]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a configuration, prediction rule and metric, columns SUMMARY, sorted; from the frame `tidy.rows` makes.

    Metrics of the test split, and the facts of whole cells (seconds, steps ...), which have no prediction.
    failures: cells of the configuration that diverged, crashed, failed or lacked their data; its means leave them out.
    A configuration with no finished cell is one row with n = 0. stale: cells kept though their code is outdated.
    standing: "best" or "tied" in its block by this metric (see `paired`); never where seeds failed.
    """
    rows = labelled(rows)
    table = pd.concat([_moments(_numbers(rows)), _unfinished(rows)], ignore_index=True)
    table = table.merge(_counts(rows), on=CONFIG, how="left").merge(_standings(rows), on=[*ENTRY, "metric"], how="left")
    table["standing"] = table["standing"].where(table["failures"] == 0).fillna("")
    return table.sort_values([*ENTRY, "metric"], ignore_index=True)[SUMMARY]


def paired(rows: pd.DataFrame, metric: str, reference: str | None = None) -> pd.DataFrame:
    """Mean difference of each entry to a reference on the seeds they share, test split, columns PAIRED.

    reference: None for the best of each block (by mean, of entries with n >= 2 and no failed cell; a block without one
    or with a single entry is left out), or a method's name: its mode rule, on the same problem and setting, whatever
    its bits. tied: the interval includes 0; never with fewer than three shared seeds. Intervals are not corrected for
    their number.
    Raises ValueError for an unknown metric or reference, or one that has several variants.
    """
    if metric not in HIGHER_IS_BETTER:
        raise ValueError(f"unknown metric {metric!r}; one of {', '.join(HIGHER_IS_BETTER)}")
    return _paired(labelled(rows), metric, reference)


def interval(values: Sequence[float] | pd.Series) -> tuple[float, float]:
    """The 95 % Student t interval of the mean; (nan, nan) for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    middle = float(np.mean(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1)) / math.sqrt(n)
    return middle - half, middle + half


def cost(weight_bits: float, activation_bits: float, networks: float) -> str:
    """What a prediction takes, as a heading: "W1/A32", "W1/A32, 10 networks"."""
    if pd.isna(weight_bits) or pd.isna(activation_bits):
        return "bits unknown"  # no cell got as far as a network
    bits = f"W{weight_bits}/A{activation_bits}"
    return f"{bits}, {networks} networks" if pd.notna(networks) and networks > 1 else bits


def smallest_p(n: int) -> float:
    """Smallest two-sided p of an exact sign-flip test on n pairs, 2 / 2^n: the most that n seeds can show."""
    return min(1.0, 2.0 / 2.0**n)


def csv(table: pd.DataFrame) -> str:
    """The table as the text of a csv file: equal tables give equal bytes."""
    return table.to_csv(index=False, float_format="%.9g", lineterminator="\n")


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """What goes into a table: numbers of the test split, of last epochs only, and of whole cells."""
    return rows[rows["split"].isin(["test", "train"]) & rows["value"].notna() & (rows["epoch"] != "best")]


def _moments(numbers: pd.DataFrame) -> pd.DataFrame:
    """n, mean, sd and interval of `value` over seeds. Values come in a fixed order, so that sums round equally."""
    by = [*ENTRY, "metric"]
    groups = numbers.sort_values([*by, "seed"]).groupby(by, dropna=False)["value"]
    table = groups.agg(n="size", mean="mean", sd="std").reset_index()
    bounds = [interval(values) for _, values in groups]
    return table.assign(ci_low=[low for low, _ in bounds], ci_high=[high for _, high in bounds])


def _unfinished(rows: pd.DataFrame) -> pd.DataFrame:
    """One row with n = 0 for each configuration of which no cell finished: it must not vanish from the table."""
    finished = (rows["status"] == "finished").groupby([rows[name] for name in CONFIG]).transform("any")
    stubs = rows[~finished].sort_values("weight_bits").drop_duplicates(CONFIG)[ENTRY]  # known bits before unknown ones
    return stubs.assign(metric="accuracy", n=0, mean=math.nan, sd=math.nan, ci_low=math.nan, ci_high=math.nan)


def _counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Failed and stale cells of each configuration."""
    cells = rows.drop_duplicates("key")
    cells = cells.assign(failures=cells["status"].isin(FAILURES))
    return cells.groupby(CONFIG)[["failures", "stale"]].sum().astype("int64").reset_index()


def _standings(rows: pd.DataFrame) -> pd.DataFrame:
    """ "best" or "tied" for the entries that are, by every metric with a direction."""
    found = pd.concat([_paired(rows, metric, None) for metric in HIGHER_IS_BETTER], ignore_index=True)
    found = found[found["is_reference"] | found["tied"]]
    return found[[*ENTRY, "metric"]].assign(standing=np.where(found["is_reference"], "best", "tied"))


def _paired(rows: pd.DataFrame, metric: str, reference: str | None) -> pd.DataFrame:
    chosen = _numbers(rows[(rows["metric"] == metric) & (rows["split"] == "test")])
    scores = chosen.pivot(index=ENTRY, columns="seed", values="value").sort_index()
    complete = _counts(rows).set_index(CONFIG)["failures"] == 0
    references = _named(scores, reference) if reference is not None else _best(scores, complete, metric)
    differences = (row for block, entry in references for row in _against(scores.loc[entry], entry, block))
    types = {
        "networks": "Int64",
        "weight_bits": "Int64",
        "activation_bits": "Int64",
        "is_reference": bool,
        "tied": bool,
    }
    return pd.DataFrame(differences, columns=PAIRED).assign(metric=metric).astype(types)


def _best(scores: pd.DataFrame, complete: pd.Series, metric: str) -> Iterator[tuple[pd.DataFrame, Entry]]:
    """(block, its best entry): the first in order among equals. Nothing is best where it stands alone."""
    for _, block in scores.groupby(level=BLOCK):
        configs = block.index.droplevel([name for name in ENTRY if name not in CONFIG])
        means = block.mean(axis=1)[(block.count(axis=1) >= 2).to_numpy() & complete.loc[configs].to_numpy()]
        if len(means) and len(block) > 1:
            yield block, means.idxmax() if HIGHER_IS_BETTER[metric] else means.idxmin()


def _named(scores: pd.DataFrame, method: str) -> Iterator[tuple[pd.DataFrame, Entry]]:
    """(all entries of a problem and setting, the mode entry of `method` there)."""
    names = scores.index.get_level_values("method")
    if method not in names:
        raise ValueError(f"no finished cell of the reference {method!r}; there are {', '.join(sorted(set(names)))}")
    for place, block in scores.groupby(level=["study", "problem", "setting"]):
        modes = [
            e for e in block.index if e[ENTRY.index("method")] == method and e[ENTRY.index("prediction")] == "mode"
        ]
        if len(modes) > 1:
            variants = "; ".join(entry[ENTRY.index("variant")] for entry in modes)
            raise ValueError(
                f"the reference {method!r} has several variants on {place[1]} ({variants}); keep one's rows"
            )
        if modes:
            yield block, modes[0]


def _against(chosen: pd.Series, entry: Entry, block: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for other, values in block.iterrows():
        differences = (values - chosen).dropna()
        low, high = interval(differences)
        yield {
            **dict(zip(ENTRY, other, strict=True)),
            "reference": " ".join(str(part) for part in entry[3:6] if part),
            "is_reference": other == entry,
            "n": len(differences),
            "mean": differences.mean(),
            "sd": differences.std(),
            "ci_low": low,
            "ci_high": high,
            # an interval of two differences spans anything: it tells nothing apart
            "tied": other != entry and len(differences) > 2 and low <= 0.0 <= high,
        }
