"""Confidence intervals of a point's median over its repeats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pplib.analysis.repeats import POINT_KEYS, repeats_by_configuration, resampled_medians
from pplib.errors import FrameError

MIN_REPEATS = 3
"""Fewer repeats give no interval: of two, every resample's median is one of three numbers."""


def confidence(
    summary: pd.DataFrame,
    columns: Sequence[str] = ("latency_s", "throughput_img_s"),
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile bootstrap intervals of the median over the ok repeats, per configuration and point.

    **What few repeats can say.** With 3 repeats a resample's median is the smallest of them in 7 of 27
    cases, and so the 95 % interval is exactly their range; so it is with 5. Whatever the distribution,
    the range of n repeats holds the true median in 1 - 2^(1-n) of cases: 75 % for 3, 94 % for 5, 97 %
    for 6. `interval_note` says so wherever `level` is out of reach. The interval covers what differs
    between repeats of one sweep, not what differs between days or devices.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        columns: measured columns.
        level: the share of cases in which the interval should hold the true median, in (0, 1).
        resamples: drawn per point.
        seed: the same seed gives the same intervals.

    Returns:
        `POINT_KEYS`, and per column its median, `<column>_low`, `<column>_high` (in the column's own
        unit), `repeats_ok`, and `interval_note`: None, or why there is no interval (then low and high
        are NaN) or why it is narrower than `level` asks. A trial counts where it is ok and has all
        `columns`.

    Raises:
        FrameError: a column is missing or holds no numbers, or an argument makes no sense.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if not columns:
        raise FrameError("columns: expected at least one, such as 'latency_s', got none")
    if not 0 < level < 1:
        raise FrameError(f"level: expected a share between 0 and 1, such as 0.95, got {level}")
    tails = [(1 - level) / 2, (1 + level) / 2]
    rows = []
    for repeats in (one for points in repeats_by_configuration(summary, columns) for one in points):
        row = dict(repeats.keys)
        medians = resampled_medians(repeats, resamples, seed)
        for j, name in enumerate(columns):
            row[name] = float(np.median(repeats.values[:, j])) if repeats.count else float("nan")
            enough = repeats.count >= MIN_REPEATS
            # Every end is the median of some resample: between two of them nothing was ever measured.
            ends = np.quantile(medians[:, j], tails, method="closest_observation") if enough else [np.nan] * 2
            row[f"{name}_low"], row[f"{name}_high"] = float(ends[0]), float(ends[1])
        row["repeats_ok"] = repeats.count
        row["interval_note"] = _note(repeats.count, level)
        rows.append(row)
    added = [f"{name}{end}" for name in columns for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*POINT_KEYS, *added, "repeats_ok", "interval_note"])


def range_coverage(repeats: int) -> float:
    """In what share of cases the range of this many repeats holds the true median.

    >>> [round(range_coverage(count), 3) for count in (1, 3, 5, 6)]
    [0.0, 0.75, 0.938, 0.969]
    """
    return float(1 - 2.0 ** (1 - repeats)) if repeats else 0.0


def _note(count: int, level: float) -> str | None:
    word = "repeat" if count == 1 else "repeats"
    if count < MIN_REPEATS:
        return f"{count} ok {word}: an interval needs {MIN_REPEATS} or more"
    reached = range_coverage(count)
    if reached < level:
        return f"{count} ok {word}: even their range holds the true median in {reached:.0%} of cases only"
    return None
