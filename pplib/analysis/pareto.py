"""Exact Pareto dominance over any number of objectives."""

from __future__ import annotations

from collections.abc import Mapping

import moocore
import numpy as np
import pandas as pd

from pplib.analysis.required_columns import numeric_column
from pplib.errors import FrameError

DIRECTIONS = ("min", "max")


def pareto_mask(frame: pd.DataFrame, objectives: Mapping[str, str]) -> pd.Series[bool]:
    """Which rows of `frame` no other row dominates.

    A row is dominated when some other row is no worse on every objective and better on at least one.
    Rows that are equal on every objective do not dominate each other: all of them are kept, or none.
    A row whose objective is missing or infinite, or whose `status` (where there is such a column) is
    not "ok", is never on the front and dominates nothing.

    Args:
        frame: one row per candidate.
        objectives: column name -> "min" or "max"; at least one.

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
    return pd.Series(mask, index=frame.index, name="on_front", dtype=bool)


def pareto_front(frame: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """The rows of `frame` on the front, best on the first objective first.

    Args:
        frame: one row per candidate.
        objectives: column name -> "min" or "max"; at least one.

    Raises:
        FrameError: as `pareto_mask`.
    """
    front = frame[pareto_mask(frame, objectives).to_numpy()]
    ascending = [direction == "min" for direction in objectives.values()]
    return front.sort_values(list(objectives), ascending=ascending, kind="stable")
