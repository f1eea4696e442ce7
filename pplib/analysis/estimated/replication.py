"""Whether a second run says what the first said: its fronts, its statements of difference, its points."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from pplib.analysis.estimated.estimates import Estimates, estimates, points_of_both
from pplib.analysis.estimated.uncertainty import UNDECIDED, front_probability, ties
from pplib.analysis.repeats import POINT_KEYS, Numbers
from pplib.analysis.statistics import CONFIGURATION_KEYS

ON, TIED, OPEN, OFF = "on it", "as good", "not decided", "off it"
"""What a run says of a point and its configuration's front."""


class Statements(NamedTuple):
    """How many differences both runs state at 95 %, and what the other says of them.

    A difference is one between two points of a configuration, or between two configurations at a point.
    """

    stated: int
    turned: int  # the other run's estimates have the other sign
    opposed: int  # ... and it is as sure of that


def calls(summary: pd.DataFrame, objectives: Mapping[str, str], indifference: float) -> pd.DataFrame:
    """One row per configuration and point: `POINT_KEYS`, and `call`: ON, TIED, OPEN or OFF the front.

    Raises:
        FrameError: as `front_probability`.
    """
    sure = front_probability(summary, objectives, indifference=indifference)
    tied = ties(summary, objectives, indifference=indifference)["tied_with"].fillna("") != ""
    open_ones = ~(sure["front_probability"] < UNDECIDED)  # where it is not known, nothing is off for certain
    call = np.select([sure["on_front"], tied, open_ones], [ON, TIED, OPEN], OFF)
    return sure[POINT_KEYS].assign(call=call)


def front_replication(
    first: pd.DataFrame, second: pd.DataFrame, objectives: Mapping[str, str], indifference: float
) -> pd.DataFrame:
    """What each of two runs says of the points that one of them calls on a front.

    Args:
        first, second: summaries; what only one of them has is left out.
        objectives: column -> "min" or "max".
        indifference: what difference does not matter, as a share.

    Returns:
        `POINT_KEYS`, `call_first`, `call_second`, and `contradicted`: one says that it is on the front, the other that
        it is off it.
    """
    both = calls(first, objectives, indifference).merge(
        calls(second, objectives, indifference), on=POINT_KEYS, suffixes=("_first", "_second")
    )
    said = both[["call_first", "call_second"]]
    named = both[(said == ON).any(axis=1)].reset_index(drop=True)
    return named.assign(contradicted=(named[["call_first", "call_second"]] == OFF).any(axis=1))


def statement_replication(first: pd.DataFrame, second: pd.DataFrame, columns: Sequence[str]) -> Statements:
    """How many of the differences that either run is sure of the other has, or states, the other way round."""
    runs = [dict(_signs(estimates(run, columns))) for run in (first, second)]
    stated = turned = opposed = 0
    for mine, theirs in (runs, runs[::-1]):
        for key in mine.keys() & theirs.keys():
            _, sure = mine[key]
            ratio, their_sure = theirs[key]
            stated += sure != 0
            turned += sure != 0 and np.sign(ratio) == -sure
            opposed += sure != 0 and their_sure == -sure
    return Statements(stated, int(turned), opposed)


def changes(first: pd.DataFrame, second: pd.DataFrame, columns: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """By how much every point changed from the first run to the second, and its whole configuration.

    Returns:
        One row per point and column that both have: `POINT_KEYS`, `column`, `ratio` of second over first; `common`, the
        median of the ratios of its configuration: devices that are quicker or slower altogether; and `low`, `high`, the
        interval of ratio over common.
    """
    rows = []
    others = {tuple(map(str, one.keys.values())): one for one in estimates(second, columns)}
    ends = ((1 - level) / 2, (1 + level) / 2)
    for mine in estimates(first, columns):
        theirs = others.get(tuple(map(str, mine.keys.values())))
        if theirs is None:
            continue
        ours, yours = points_of_both(mine, theirs)
        ratio = theirs.values[yours] / mine.values[ours]
        drawn = theirs.draws[:, yours] / mine.draws[:, ours]
        for k, column in enumerate(columns):
            common = float(np.median(ratio[:, k])) if len(ours) else float("nan")
            for one, i in enumerate(ours):
                low, high = np.quantile(drawn[:, one, k] / np.median(drawn[:, :, k], axis=1), ends)
                row = {**mine.points[i].keys, "column": column, "ratio": float(ratio[one, k]), "common": common}
                rows.append({**row, "low": float(low), "high": float(high)})
    return pd.DataFrame(rows, columns=[*POINT_KEYS, "column", "ratio", "common", "low", "high"])


def _signs(found: Sequence[Estimates]) -> Iterator[tuple[tuple[str, ...], tuple[float, int]]]:
    """What is compared, the logarithm of its ratio, and -1 or 1 where its sign is sure at 95 %, else 0."""
    for one in found:
        names = [str(point.keys["partition_label"]) for point in one.points]
        keys = tuple(str(one.keys[key]) for key in CONFIGURATION_KEYS)
        for a, b in itertools.combinations(range(len(names)), 2):
            for j, column in enumerate(one.columns):
                yield (*keys, names[a], names[b], column), _sign(one.values[[a, b], j], one.draws[:, [a, b], j])
    for one, other in itertools.combinations(found, 2):
        place = {str(point.keys["partition_label"]): i for i, point in enumerate(other.points)}
        keys = (*map(str, one.keys.values()), *map(str, other.keys.values()))
        for i, point in enumerate(one.points):
            label = str(point.keys["partition_label"])
            for j, column in enumerate(one.columns if label in place else ()):
                pair = np.array([one.values[i, j], other.values[place[label], j]])
                drawn = np.stack([one.draws[:, i, j], other.draws[:, place[label], j]], axis=1)
                yield (*keys, label, column), _sign(pair, drawn)


def _sign(pair: Numbers, drawn: Numbers) -> tuple[float, int]:
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(np.log(pair[0] / pair[1])), 1 if low > 1 else -1 if high < 1 else 0
