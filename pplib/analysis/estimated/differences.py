"""How two backends (or links, or depths) differ at the same cuts: paired, with an interval."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pplib.analysis.estimated.estimates import Estimates, estimates, points_of_both
from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.errors import FrameError


def paired_differences(
    summary: pd.DataFrame, columns: Sequence[str], key: str = "backend", level: float = 0.95, resamples: int = 2000
) -> pd.DataFrame:
    """What changes between two configurations that differ in `key` alone, over the cuts that both have.

    Both are measured in turns, and what their stages take at usual speed is estimated from the trials of both: so what
    is common to them is in neither's favour. A difference is the median over the cuts, its interval that of the same
    median over the draws of `estimates`.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        columns: measured ones.
        key: a configuration key.
        level: the share of cases in which an interval should hold.
        resamples: drawn.

    Returns:
        One row per pair and column: the keys that both share, `first`, `second` (their values of `key`, sorted),
        `column`, `cuts` (how many both have), `ratio` of first over second with `ratio_low`, `ratio_high`, and
        `difference` first less second with `difference_low`, `difference_high` in the column's unit. Intervals are NaN
        where nothing was repeated.

    Raises:
        FrameError: an unknown key, or as `estimates`.
    """
    if key not in CONFIGURATION_KEYS:
        raise FrameError(f"key: expected one of {', '.join(CONFIGURATION_KEYS)}, got {key!r}")
    shared = [name for name in CONFIGURATION_KEYS if name != key]
    found = sorted(estimates(summary, columns, resamples), key=lambda one: str(one.keys[key]))
    rows = []
    for first, second in itertools.combinations(found, 2):
        if all(str(first.keys[name]) == str(second.keys[name]) for name in shared):  # NaN is not equal to itself
            keys = {name: first.keys[name] for name in shared}
            keys |= {"first": first.keys[key], "second": second.keys[key]}
            rows += [{**keys, "column": name, **_differs(first, second, j, level)} for j, name in enumerate(columns)]
    ends = [f"{what}{end}" for what in ("ratio", "difference") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*shared, "first", "second", "column", "cuts", *ends])


def _differs(first: Estimates, second: Estimates, column: int, level: float) -> dict[str, float]:
    mine, theirs = points_of_both(first, second)
    row: dict[str, float] = {"cuts": len(mine)}
    if not len(mine):
        return row
    one, other = first.values[mine, column], second.values[theirs, column]
    drawn, others = first.draws[:, mine, column], second.draws[:, theirs, column]
    ends = ((1 - level) / 2, (1 + level) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        for what, value, draws in (("ratio", one / other, drawn / others), ("difference", one - other, drawn - others)):
            low, high = np.quantile(np.median(draws, axis=1), ends)
            row |= {what: float(np.median(value)), f"{what}_low": float(low), f"{what}_high": float(high)}
    return row
