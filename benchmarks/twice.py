"""Whether a second run confirms the first: `python -m benchmarks.twice outputs/ONE outputs/OTHER`.

Both are results of the same grid, run one after the other with nothing changed but `name`. Printed, for each
configuration: its front in both, the points of either front that the other run neither has on its front nor calls as
good: those that it calls undecided, and those that it contradicts; and of all differences between two points, and
between two configurations at a point, that a run states at 95 %: how many the other run's estimates have the other way
round, and how many it states the other way round.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pplib.analysis.estimated.estimates import Estimates, estimates
from pplib.analysis.estimated.uncertainty import UNDECIDED, front_probability, ties
from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.columns import INDIFFERENCE, OBJECTIVES
from pplib.sweep.results import summary_frame

Stated = dict[tuple[object, ...], tuple[float, int]]
COLUMNS = list(OBJECTIVES)


class Said(NamedTuple):
    """Labels of the points of a configuration: on its front, tied with one of it, not decided."""

    front: set[str]
    tied: set[str]
    undecided: set[str]


def said_of(summary: pd.DataFrame) -> dict[tuple[object, ...], Said]:
    """What a run says of each configuration, as its closing lines do."""
    sure = front_probability(summary, OBJECTIVES, indifference=INDIFFERENCE)
    table = sure.assign(tied_with=ties(summary, OBJECTIVES, indifference=INDIFFERENCE)["tied_with"].fillna(""))
    found = {}
    for key, group in table.groupby(CONFIGURATION_KEYS, dropna=False):
        whether = (group["on_front"], group["tied_with"] != "", group["front_probability"] >= UNDECIDED)
        found[key] = Said(*(set(group.loc[one, "partition_label"]) for one in whether))
    return found


def differences(found: list[Estimates]) -> Iterator[tuple[tuple[object, ...], float, int]]:
    """What is compared, the logarithm of the ratio, and -1 or 1 where its sign is sure at 95 %, else 0."""
    for one in found:
        labels = [str(point.keys["partition_label"]) for point in one.points]
        for a, b in itertools.combinations(range(len(labels)), 2):
            for j, column in enumerate(COLUMNS):
                key = (*one.keys.values(), labels[a], labels[b], column)
                yield key, *_sign(one.values[a, j] / one.values[b, j], one.draws[:, a, j] / one.draws[:, b, j])
    for one, other in itertools.combinations(found, 2):
        for i, (point, same) in enumerate(zip(one.points, other.points, strict=True)):
            assert point.keys["partition_label"] == same.keys["partition_label"]
            for j, column in enumerate(COLUMNS):
                key = (*one.keys.values(), *other.keys.values(), point.keys["partition_label"], column)
                yield key, *_sign(one.values[i, j] / other.values[i, j], one.draws[:, i, j] / other.draws[:, i, j])


def _sign(ratio: float, draws: np.ndarray) -> tuple[float, int]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.log(ratio)), 1 if low > 1 else -1 if high < 1 else 0


def main(arguments: list[str]) -> None:
    """Print it."""
    runs = [summary_frame(Path(one)).assign(setup="") for one in arguments]
    said = [said_of(run) for run in runs]
    against = undecided = fronts = 0
    for key in said[0]:
        both = [one[key] for one in said]
        name = " ".join(str(value) for value in key if value != "")
        unsaid = [one.front - other.front - other.tied for one, other in (both, both[::-1])]
        missing = [one - other.undecided for one, other in zip(unsaid, both[::-1], strict=True)]
        fronts += sum(len(one.front) for one in both)
        against += sum(map(len, missing))
        undecided += sum(map(len, unsaid)) - sum(map(len, missing))
        told = [
            sorted(one)
            for one in (
                both[0].front,
                both[1].front,
                *(a & b.undecided for a, b in zip(unsaid, both[::-1], strict=True)),
                *missing,
            )
        ]
        print("{}: fronts {} and {}; undecided in the other {} {}; contradicted {} {}".format(name, *told))
    print(f"of {fronts} points on a front {against} are contradicted by the other run, {undecided} undecided in it")
    stated = [{key: (ratio, sign) for key, ratio, sign in differences(estimates(run, COLUMNS))} for run in runs]
    sure = turned = opposite = 0
    for mine, theirs in (stated, stated[::-1]):
        for key, (_, sign) in mine.items():
            ratio, their_sign = theirs[key]
            sure += sign != 0
            turned += sign != 0 and np.sign(ratio) == -sign
            opposite += sign != 0 and their_sign == -sign
    print(
        f"{sure} differences are stated at 95 %: {turned} ({turned / sure:.1%}) are the other way round in the other "
        f"run's estimates, {opposite} ({opposite / sure:.1%}) in its statements"
    )
    for run, name in zip(runs, arguments, strict=True):
        for one in estimates(run, COLUMNS, resamples=10):
            told = ", ".join(f"{a:.1%} -> {b:.1%}" for a, b in zip(one.apart, one.apart_corrected, strict=True))
            keys = one.keys
            print(f"{name} {keys['backend']} in flight {keys['in_flight']}: repeats apart {told}")


if __name__ == "__main__":
    main(sys.argv[1:])
