"""The table of points as reports show it: what each takes at the usual speed of its devices, and its error."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from pplib.analysis.estimated.estimates import Estimates, estimates
from pplib.analysis.repeats import POINT_KEYS, Numbers, point_name
from pplib.analysis.statistics import RANGED, point_table
from pplib.errors import FrameError


def point_estimates(
    summary: pd.DataFrame, level: float = 0.95, resamples: int = 2000, seed: int = 0, columns: Iterable[str] = ()
) -> pd.DataFrame:
    """One row per configuration and point: `point_table`, with latency and throughput estimated.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        level: the share of cases in which an interval should hold, in (0, 1).
        resamples: drawn per configuration.
        seed: the same seed gives the same intervals.
        columns: more that are to be estimated, each from the trials that have it.

    Returns:
        As `point_table`, but `latency_s` and `throughput_img_s` are at the usual speed of the devices (see
        `estimates`), and `<column>_raw` are the medians of what was measured; `<column>_low` and `<column>_high` are
        the ends of the interval. It is about comparisons within the sweep: what the devices' usual speed is has an
        error of its own, common to all points. `interval_note` is None, or why there is no interval: then its ends are
        NaN; so are those of a column whose repeats are all equal, such as bytes, which have no error.

    Raises:
        FrameError: as `point_table` and `estimates`, or a level that makes no sense.
    """
    if not 0 < level < 1:
        raise FrameError(f"level: expected a share between 0 and 1, such as 0.95, got {level}")
    points = point_table(summary)
    found: dict[str, dict[str, object]] = {}
    more = [name for name in dict.fromkeys(columns) if name not in RANGED]
    named = [*RANGED, *more]
    for one in (
        one for names in (RANGED, *([name] for name in more)) for one in estimates(summary, names, resamples, seed)
    ):
        with np.errstate(invalid="ignore"):
            low, high = np.quantile(one.draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        for i, point in enumerate(one.points):
            row = found.setdefault(point_name(point.keys), {"interval_note": _note(one, i)})
            for j, name in enumerate(one.columns):
                if name in more and np.allclose(
                    one.draws[:, :, j], one.draws[:1, :, j], rtol=1e-9, atol=0, equal_nan=True
                ):
                    low[i, j] = high[i, j] = np.nan
                row |= {name: one.values[i, j], f"{name}_low": low[i, j], f"{name}_high": high[i, j]}
    names = [point_name(row) for row in points[POINT_KEYS].to_dict("records")]
    raw = {f"{name}_raw": points[name] for name in named}
    added = [*named, *[f"{name}{end}" for name in named for end in ("_low", "_high")], "interval_note"]
    table = pd.DataFrame([found[one] for one in names], columns=added, index=points.index)
    return points.assign(**raw, **{name: table[name] for name in added})


def point_draws(summary: pd.DataFrame, column: str, resamples: int = 2000, seed: int = 0) -> dict[str, Numbers]:
    """What another sweep might have found of every point, by its `point_name`: (resamples,), in the column's unit.

    Draws of several configurations belong together: what the devices' stages take is common to them.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        column: one of those that `point_estimates` estimates.
        resamples: drawn per configuration; NaN where nothing was repeated.
        seed: the same seed gives the same draws.

    Raises:
        FrameError: as `estimates`.
    """
    found = estimates(summary, RANGED if column in RANGED else [column], resamples, seed)
    return {
        point_name(point.keys): one.draws[:, i, one.columns.index(column)]
        for one in found
        for i, point in enumerate(one.points)
    }


def _note(one: Estimates, point: int) -> str | None:
    if not one.points[point].count:
        return "no ok repeat"
    return None if one.freedom > 0 else "one repeat of every point: how far another would be from it is not known"
