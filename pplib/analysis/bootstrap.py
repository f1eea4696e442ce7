"""Confidence intervals of a point's median over its repeats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import pandas as pd

from pplib.analysis.columns import require_columns
from pplib.analysis.repeats import POINT_KEYS, point_name, repeats_by_configuration, resampled_medians
from pplib.analysis.statistics import RANGED
from pplib.errors import FrameError


def confidence(
    summary: pd.DataFrame,
    columns: Sequence[str] = ("latency_s", "throughput_img_s"),
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile bootstrap intervals of the median over the ok repeats, per configuration and point.

    **What few repeats can say.** Whatever the distribution, the range of n repeats holds the true median
    in 1 - 2^(1-n) of cases: 75 % for 3, 94 % for 5, 97 % for 6. No interval of the median can promise
    more, so below `repeats_needed(level)` there is none; smallest and largest repeat are in `point_table`.
    From there on `level` is nominal: of simulated medians of 6 to 15 repeats a 95 % interval held 86 to
    94 %. It covers what differs between repeats of one sweep, not what differs between days or devices.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        columns: measured columns; at least one.
        level: the share of cases in which the interval should hold the true median, in (0, 1).
        resamples: drawn per point.
        seed: the same seed gives the same intervals.

    Returns:
        `POINT_KEYS`, and per column its median, `<column>_low`, `<column>_high` (in the column's own
        unit), `repeats_ok`, and `interval_note`: None, or why there is no interval: then low and high
        are NaN. A trial counts where it is ok and has all `columns`.

    Raises:
        FrameError: a column is missing or holds no numbers, or an argument makes no sense.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    if not columns:
        raise FrameError("columns: expected at least one, such as 'latency_s', got none")
    if not 0 < level < 1:
        raise FrameError(f"level: expected a share between 0 and 1, such as 0.95, got {level}")
    needed = repeats_needed(level)
    tails = [(1 - level) / 2, (1 + level) / 2]
    rows = []
    for repeats in (one for points in repeats_by_configuration(summary, columns) for one in points):
        row = dict(repeats.keys)
        medians = resampled_medians(repeats, resamples, seed)
        for j, name in enumerate(columns):
            row[name] = float(np.median(repeats.values[:, j])) if repeats.count else float("nan")
            ends = [np.nan, np.nan]
            if repeats.count >= needed:
                # Every end is the median of some resample: between two of them nothing was ever measured.
                ends = np.quantile(medians[:, j], tails, method="closest_observation").tolist()
            row[f"{name}_low"], row[f"{name}_high"] = ends
        row["repeats_ok"] = repeats.count
        words = f"{repeats.count} ok repeat{'' if repeats.count == 1 else 's'}: {level * 100:g}% needs {needed}"
        if repeats.count > 1:
            words += f"; their range holds the median in {range_coverage(repeats.count) * 100:.0f}%"
        row["interval_note"] = words if repeats.count < needed else None
        rows.append(row)
    added = [f"{name}{end}" for name in columns for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*POINT_KEYS, *added, "repeats_ok", "interval_note"])


def with_confidence(
    points: pd.DataFrame, summary: pd.DataFrame, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """`points` with the intervals of their medians, for every table that is made from it.

    Args:
        points: one row per configuration and point, see `point_table`.
        summary: the trials that `points` was made from.
        level: as `confidence`, and so are `resamples` and `seed`.

    Returns:
        `points` and the columns `latency_s_low`, `latency_s_high` (s), `throughput_img_s_low`,
        `throughput_img_s_high` (img/s) and `interval_note`.

    Raises:
        FrameError: a point without a trial, or as `confidence`.
    """
    require_columns(points, POINT_KEYS, "the table of points")
    found = confidence(summary, RANGED, level, resamples, seed)
    found.index = pd.Index([point_name(row) for row in found[POINT_KEYS].to_dict("records")])
    names = [point_name(row) for row in points[POINT_KEYS].to_dict("records")]
    unknown = [name for name in names if name not in found.index]
    if unknown:
        raise FrameError(f"the summary: no trial of {unknown[0]}: expected the trials that the points come from")
    added = [f"{name}{end}" for name in RANGED for end in ("_low", "_high")] + ["interval_note"]
    return points.assign(**{name: found.loc[names, name].to_numpy() for name in added})


def repeats_needed(level: float) -> int:
    """How many repeats it takes until their range holds the true median in `level` of cases.

    >>> [repeats_needed(level) for level in (0.5, 0.75, 0.95, 0.99)]
    [2, 3, 6, 8]
    """
    return next(repeats for repeats in count(1) if range_coverage(repeats) >= level)


def range_coverage(repeats: int) -> float:
    """In what share of cases the range of this many repeats holds the true median.

    >>> [round(range_coverage(repeats), 3) for repeats in (1, 3, 5, 6)]
    [0.0, 0.75, 0.938, 0.969]
    """
    return float(1 - 2.0 ** (1 - repeats)) if repeats else 0.0
