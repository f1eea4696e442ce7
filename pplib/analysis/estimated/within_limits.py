"""Which points keep to limits, and the one that is best within them; the nearest where none does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pplib.analysis.estimated.estimates import estimates, together
from pplib.analysis.pareto import Mask
from pplib.analysis.repeats import POINT_KEYS, Numbers
from pplib.analysis.statistics import GIVEN_KEYS
from pplib.objectives import Aims


def within_limits(summary: pd.DataFrame, aims: Aims, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Which points keep to all limits, how surely, and which of them to take, for each model and link.

    A limit makes a constraint of an objective: what is within it is good enough. The first objective that has no limit
    decides, the next among what differs from its best by no more than the indifference, and so on; where all have
    limits, all decide, in their order. So there is no weight to be chosen, and no scale: a knee moves when a point is
    added far away, this does not.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        aims: with a limit at least; columns that the trials have, see `Aims.known`.
        resamples: drawn.
        seed: the same seed gives the same figures.

    Returns:
        One row per configuration and point: `POINT_KEYS`, the estimates of all objectives and limited columns,
        `within` and `within_probability`; `best`, one per group of `GIVEN_KEYS`: the best within the limits, or where
        none is the one whose largest miss is smallest; `best_probability`, the share of resamples in which it is the
        best or as good; `miss`, the largest share of a limit by which it is beyond it, 0 within. Probabilities are NaN
        where nothing was repeated, all else where there is no ok repeat.

    Raises:
        FrameError: as `estimates`.

    Source: the epsilon-constraint method, Haimes, Lasdon and Wismer (1971), with lexicographic order of what is left,
    Fishburn (1974), Lexicographic Orders; the nearest is by Chebyshev distance in shares of the limits.
    """
    names = list(aims.directions)
    signs = np.array([1.0 if way == "min" else -1.0 for way in aims.directions.values()])
    limited = [names.index(name) for name in aims.limits]
    order = [names.index(name) for name in aims.objectives if name not in aims.limits]
    order = order or [names.index(name) for name in aims.objectives]
    bounds = np.array(list(aims.limits.values()))
    rows = []
    for one in together(estimates(summary, names, resamples, seed), GIVEN_KEYS):
        misses = _misses(one.values[:, limited], bounds, signs[limited])
        within = misses == 0
        drawn = _misses(one.draws[:, :, limited], bounds, signs[limited]) == 0
        good = _as_good((one.values * signs)[None], within[None], order, aims.indifference)[0]
        share = _as_good(one.draws * signs, drawn, order, aims.indifference).mean(axis=0)
        first = np.where(good, (one.values * signs)[:, order[0]], np.inf)
        known = np.isfinite(misses)
        chosen = int(np.argmin(first if good.any() else np.where(known, misses, np.inf))) if known.any() else -1
        for i, point in enumerate(one.points):
            sure = one.freedom > 0 and point.count > 0
            rows.append(
                {
                    **point.keys,
                    **dict(zip(names, one.values[i].tolist(), strict=True)),
                    "within": bool(within[i]),
                    "within_probability": float(drawn[:, i].mean()) if sure else float("nan"),
                    "best": i == chosen,
                    "best_probability": float(share[i]) if sure else float("nan"),
                    "miss": float(misses[i]),
                }
            )
    added = [*names, "within", "within_probability", "best", "best_probability", "miss"]
    return pd.DataFrame(rows, columns=[*POINT_KEYS, *added]).astype({"within": bool, "best": bool})


def _misses(values: Numbers, bounds: Numbers, signs: Numbers) -> Numbers:
    """By what share of a limit each point is beyond the one it misses most; `values` (..., points, limits)."""
    beyond = np.maximum((values - bounds) * signs, 0.0)
    scale = np.where(bounds == 0, 1.0, np.abs(bounds))  # of a limit of 0 there is no share
    return np.asarray((beyond / scale).max(axis=-1), dtype=np.float64)


def _as_good(values: Numbers, within: Mask, order: Sequence[int], indifference: float) -> Mask:
    """Which points are the best of those within, or as good; `values` (tables, points, columns), less is better."""
    left = within
    for j in order:
        mine = np.where(left, values[:, :, j], np.inf)
        best = mine.min(axis=1, keepdims=True)
        left = left & (mine <= best + indifference * np.abs(np.where(np.isfinite(best), best, 0.0)))
    return left
