"""How good the cuts are that a plan had measured, where all others were measured, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pplib.analysis.pareto import front_masks, pareto_mask
from pplib.columns import OBJECTIVES

Array = NDArray[np.float64]


def predicted_front(table: pd.DataFrame, indifference: float) -> pd.Series[bool]:
    """Which cuts are on the front of what is predicted of latency and throughput; see `pareto_mask`.

    Args:
        table: one row per cut, see `pplib.planner.prediction.predict_cuts`.
        indifference: the share that does not matter.
    """
    return pareto_mask(table, {f"predicted_{name}": way for name, way in OBJECTIVES.items()}, indifference)


def hypervolume_share(values: Array, some: Sequence[int], objectives: Mapping[str, str]) -> float:
    """The hypervolume of some cuts, as a share of that of all; the reference point is the worst of all in each.

    Args:
        values: (cuts, objectives), in their own units; cuts with one that is not finite do not count.
        some: places of those that were measured.
        objectives: column -> "min" or "max", in the order of `values`.

    Returns:
        0 to 1; 1 where all cuts are equal in an objective, so that there is no volume.

    Source: Zitzler, Thiele, IEEE Transactions on Evolutionary Computation 3, 1999; computed by moocore.

    >>> table = np.array([[1.0, 1.0], [2.0, 4.0], [3.0, 5.0], [4.0, 0.0]])
    >>> hypervolume_share(table, [0, 2], {"latency_s": "min", "throughput_img_s": "max"})
    0.7
    """
    costs, known = _costs(values, objectives)
    scale = np.ptp(costs[known], axis=0)
    if not known.any() or not (scale > 0).all():
        return 1.0
    costs = (costs - costs[known].min(axis=0)) / scale
    mine = np.intersect1d(np.asarray(some, dtype=np.intp), np.flatnonzero(known))
    whole = moocore.hypervolume(costs[known], ref=np.ones(costs.shape[1]))
    return float(moocore.hypervolume(costs[mine], ref=np.ones(costs.shape[1])) / whole) if len(mine) else 0.0


def recall(values: Array, some: Sequence[int], objectives: Mapping[str, str], indifference: float) -> float:
    """Of the front of all cuts, the share of points that are among some, or as good as one of those that is.

    Args:
        values, some, objectives: as of `hypervolume_share`.
        indifference: the share that does not matter.
    """
    costs = _costs(values, objectives)[0]
    front, mine = np.flatnonzero(front_masks(costs[None], indifference)[0][0]), costs[np.asarray(some, dtype=np.intp)]
    if not len(front):
        return 1.0
    margin = indifference * np.abs(costs[front])[:, None]
    as_good = np.asarray(mine[None] <= costs[front][:, None] + margin).all(axis=2)
    return float(np.asarray(as_good).any(axis=1).mean())


def _costs(values: Array, objectives: Mapping[str, str]) -> tuple[Array, NDArray[np.bool_]]:
    """Less is better; and which cuts have all."""
    signs = np.array([1.0 if way == "min" else -1.0 for way in objectives.values()])
    return values * signs, np.asarray(np.isfinite(values).all(axis=1), dtype=np.bool_)
