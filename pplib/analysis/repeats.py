"""The repeats of every partition point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pplib.analysis.required_columns import numeric_column, require_columns
from pplib.analysis.statistics import CONFIGURATION_KEYS, sorted_trials

Numbers = npt.NDArray[np.float64]

POINT_KEYS = [*CONFIGURATION_KEYS, "partition_point", "partition_label"]
"""What names one partition point of one configuration, in every table of this room."""


@dataclass(frozen=True)
class Repeats:
    """What was measured of one partition point: `values[i, j]` is column j of repeat i.

    Only ok trials whose columns are all finite: the columns of a row belong to one trial.
    """

    keys: dict[str, Any]
    values: Numbers

    @property
    def count(self) -> int:
        """How many repeats count."""
        return len(self.values)


def repeats_by_configuration(summary: pd.DataFrame, columns: Sequence[str]) -> list[list[Repeats]]:
    """The usable repeats of every point, configuration by configuration, points in the model's order.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        columns: the measured columns to take, in this order.

    Raises:
        FrameError: a column is missing, or does not hold numbers.
    """
    require_columns(summary, ["partition_label"], "the summary")
    trials = sorted_trials(summary)
    values = np.column_stack([numeric_column(trials, name, "the summary").to_numpy() for name in columns])
    usable = (trials["status"] == "ok").fillna(False).to_numpy(dtype=bool) & np.isfinite(values).all(axis=1)
    found = []
    for _, rows in trials.groupby(CONFIGURATION_KEYS, dropna=False, sort=False):
        points = []
        for _, group in rows.groupby("partition_point", sort=False):
            at = group.index.to_numpy()
            keys = {str(name): value for name, value in group[POINT_KEYS].iloc[0].items()}
            points.append(Repeats(keys, values[at[usable[at]]]))
        found.append(points)
    return found


def point_name(keys: Mapping[Any, Any]) -> str:
    """One text for a point of a configuration, the same whatever types a table's columns happen to have.

    >>> row = dict.fromkeys(POINT_KEYS)
    >>> point_name({**row, "in_flight": 1.0, "optimize": True}) == point_name({**row, "in_flight": 1, "optimize": 1.0})
    True
    """
    return "|".join(_word(keys[key]) for key in POINT_KEYS)


def _word(value: object) -> str:
    """The same text for 1, 1.0 and True, and for None and NaN: a column's type depends on what else is in the table."""
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, (bool, np.bool_, int, float, np.number)):
        return f"{float(value):g}"
    return str(value)
