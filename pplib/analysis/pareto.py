"""Exact Pareto dominance over any number of objectives, and the part of a front whose differences matter."""

from __future__ import annotations

from collections.abc import Mapping

import moocore
import numpy as np
import numpy.typing as npt
import pandas as pd

from pplib.analysis.required_columns import numeric_column
from pplib.errors import FrameError

DIRECTIONS = ("min", "max")

Mask = npt.NDArray[np.bool_]

_BLOCK = 4_000_000
"""Comparisons held in memory at once."""


def pareto_mask(frame: pd.DataFrame, objectives: Mapping[str, str], indifference: float = 0.0) -> pd.Series[bool]:
    """Which rows of `frame` no other row dominates.

    A row is dominated when some other row is no worse on every objective and better on at least one.
    Rows that are equal on every objective do not dominate each other: all of them are kept, or none.
    A row whose objective is missing or infinite, or whose `status` (where there is such a column) is
    not "ok", is never on the front and dominates nothing.

    Args:
        frame: one row per candidate.
        objectives: column name -> "min" or "max"; at least one.
        indifference: what difference does not matter, as a share: see `front_masks`.

    Returns:
        A boolean Series with the index of `frame`.

    Raises:
        FrameError: no objective, an unknown column (the nearest are named), a column without numbers,
            or a direction other than "min" and "max".

    Source: the algorithm is moocore's `is_nondominated` (Kung, Luccio, Preparata 1975).

    >>> table = pd.DataFrame({"latency_s": [1.0, 2.0, 2.0], "throughput_img_s": [5.0, 9.0, 4.0]})
    >>> pareto_mask(table, {"latency_s": "min", "throughput_img_s": "max"}).tolist()
    [True, True, False]
    """
    if not objectives:
        raise FrameError("objectives: expected at least one, such as {'latency_s': 'min'}, got none")
    for name, direction in objectives.items():
        if direction not in DIRECTIONS:
            raise FrameError(f"objectives[{name!r}]: expected 'min' or 'max', got {direction!r}")
    columns = [numeric_column(frame, name, "the table").to_numpy() for name in objectives]
    values = np.column_stack(columns)
    eligible = np.isfinite(values).all(axis=1)
    if "status" in frame.columns:
        eligible &= (frame["status"] == "ok").fillna(False).to_numpy(dtype=bool)
    mask = np.zeros(len(frame), dtype=bool)
    if eligible.any():
        maximise = [direction == "max" for direction in objectives.values()]
        # keep_weakly: without it only the first of several equal rows is kept.
        mask[eligible] = moocore.is_nondominated(values[eligible], maximise=maximise, keep_weakly=True)
        if indifference:
            signs = np.where(maximise, -1.0, 1.0)
            mask[mask] = front_masks(np.asarray(values[None, mask] * signs, dtype=np.float64), indifference)[0][0]
    return pd.Series(mask, index=frame.index, name="on_front", dtype=bool)


def in_order(front: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """The rows of a front, best on the first objective first."""
    ascending = [direction == "min" for direction in objectives.values()]
    return front.sort_values(list(objectives), ascending=ascending, kind="stable")


def front_masks(values: npt.NDArray[np.float64], indifference: float = 0.0) -> tuple[Mask, Mask]:
    """Which candidates are on the front of each of many tables, and which are as good as one that is.

    A point is outdone by another that is better by more than the share `indifference` on some objective, and worse by
    more than that on none. The front is that of exact dominance without the points that others of it outdo: a tenth of
    a percent of latency does not buy a point its place at half the throughput. As good as the front is whatever no
    point of it outdoes. With an indifference of 0 both are the front of exact dominance.

    Args:
        values: (tables, candidates, objectives), less is better; one with a value that is not finite is neither, and
            outdoes nothing.
        indifference: a share, from 0 to below 1.

    Returns:
        Two arrays of shape (tables, candidates).

    Source: the kernel of the graph of those that outdo each other; for the notion see Laumanns, Thiele, Deb and
    Zitzler, Combining Convergence and Diversity in Evolutionary Multiobjective Optimization (2002).
    """
    tables, candidates, _ = values.shape
    front = np.zeros((tables, candidates), dtype=bool)
    good = np.zeros_like(front)
    step = max(1, _BLOCK // max(1, candidates * candidates))
    for start in range(0, tables, step):
        block = values[start : start + step]
        known: Mask = np.asarray(np.isfinite(block).all(axis=2), dtype=np.bool_)
        block = np.where(known[:, :, None], block, np.nan)
        undecided = known & ~_beaten(known, _outdone(block, 0.0))
        outdone = _outdone(block, indifference)
        kept = np.zeros_like(undecided)
        while undecided.any():
            free = undecided & ~_beaten(undecided, outdone)
            free |= undecided & ~free.any(axis=1, keepdims=True)  # in a circle, should there be one, all stay
            kept |= free
            undecided &= ~free & ~_beaten(free, outdone)
        front[start : start + step] = kept
        good[start : start + step] = known & ~_beaten(kept, outdone)
    return front, good


def _outdone(values: npt.NDArray[np.float64], indifference: float) -> Mask:
    """Of shape (tables, candidates, candidates): whether the first outdoes the second."""
    tables, candidates, objectives = values.shape
    better = np.zeros((tables, candidates, candidates), dtype=bool)
    worse = np.zeros_like(better)
    for k in range(objectives):
        first, second = values[:, :, None, k], values[:, None, :, k]
        margin = indifference * np.abs(first)
        better |= first < second - margin  # comparisons with NaN are False
        worse |= first > second + margin
    return np.asarray(better & ~worse, dtype=np.bool_)


def _beaten(those: Mask, outdone: Mask) -> Mask:
    """Which candidates one of `those` outdoes."""
    return np.asarray((those[:, :, None] & outdone).any(axis=1), dtype=np.bool_)
