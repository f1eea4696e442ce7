"""Which cut to take for each objective, how sure that is, and what it gains over one device alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pplib.analysis.estimated.estimates import Estimates, estimates, together
from pplib.analysis.estimated.uncertainty import CERTAINTY, front_probability
from pplib.analysis.pareto import Mask
from pplib.analysis.repeats import POINT_KEYS, Numbers, point_name
from pplib.analysis.required_columns import numeric_column
from pplib.analysis.statistics import CONFIGURATION_KEYS, GIVEN_KEYS
from pplib.objectives import Aims

WHOLE = 0.95
"""What share of the computing one device does where all of the model is on it; some time goes into empty stages."""

_POINT = "point_name"  # a column, here alone


class Interval(NamedTuple):
    """A figure and its 95 % interval, whose ends are NaN where nothing was repeated."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """The cut to take for one objective.

    Attributes:
        objective: the column.
        way: "min" or "max".
        keys: `POINT_KEYS` of the point.
        figure: in the column's unit.
        probability: that it is on the front, or as good; NaN where it is not known.
        alike: how many other points cannot be told from it by this objective.
        device: the stage that computes all of it, where the best is no split; else None.
        alone: the stage on which the model alone is best by this objective; None where no such point was measured.
        ratio: of the figure over that of the best on one device.
        bottleneck: the part that its repeats most often name, such as "stage 0"; empty where none does.
        busy: for what share of the time that part is busy, the repeats' median.
        shares: of the mean latency, by "computing", "links" and "waiting", the repeats' medians.
    """

    objective: str
    way: str
    keys: Mapping[str, Any]
    figure: Interval
    probability: float
    alike: int
    device: int | None
    alone: int | None
    ratio: Interval
    bottleneck: str
    busy: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Answer:
    """What to do for one model over one link.

    Attributes:
        given: `GIVEN_KEYS` and their values.
        differing: of what is chosen beside the cut, what differs between its configurations.
        devices: their names, in stage order; empty where they are not told.
        choices: one for each objective.
    """

    given: Mapping[str, Any]
    differing: Sequence[str]
    devices: Sequence[str]
    choices: Sequence[Choice]


def answers(summary: pd.DataFrame, aims: Aims, resamples: int = 2000, seed: int = 0) -> list[Answer]:
    """What to do, for each model and link: over all cuts and whatever else is chosen.

    For each objective it is the best by estimate; or of the points that cannot be told from that, the best of those
    that are called on the one front over all configurations, unless those are surely worse. What it gains is its ratio
    to the best point at which one device computes everything, if such a point was measured; both are drawn together.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        aims: objectives that the trials have, see `Aims.known`.
        resamples: drawn.
        seed: the same seed gives the same figures.

    Raises:
        FrameError: as `front_probability`.
    """
    names = list(aims.objectives)
    sure = front_probability(summary, aims.objectives, resamples, seed, aims.indifference, GIVEN_KEYS)
    front = {point_name(row): row for row in sure.to_dict("records")}
    whole = _on_one_device(summary)
    ok = summary[(summary["status"] == "ok").to_numpy(dtype=np.bool_)]
    trials = ok.assign(**{_POINT: [point_name(row) for row in ok[POINT_KEYS].to_dict("records")]})
    found = []
    for one in together(estimates(summary, names, resamples, seed), GIVEN_KEYS):
        rows = [front[point_name(point.keys)] for point in one.points]
        if not any(point.count for point in one.points):
            continue
        others = [key for key in CONFIGURATION_KEYS if key not in GIVEN_KEYS]
        named = trials_of(summary, one.keys).reindex(columns=["device_names"])["device_names"]
        devices = next((name.split(" + ") for name in named if isinstance(name, str)), [])
        found.append(
            Answer(
                {key: one.keys[key] for key in GIVEN_KEYS},
                [key for key in others if len({str(point.keys[key]) for point in one.points}) > 1],
                devices,
                [_choice(one, j, way, rows, whole, aims, trials) for j, way in enumerate(aims.objectives.values())],
            )
        )
    return found


def _choice(
    one: Estimates,
    column: int,
    way: str,
    rows: Sequence[Mapping[Any, Any]],
    whole: Mapping[str, int],
    aims: Aims,
    trials: pd.DataFrame,
) -> Choice:
    sign = 1.0 if way == "min" else -1.0
    values, drawn = one.values[:, column], one.draws[:, :, column]
    known = one.freedom > 0
    alike = _alike(sign * values, sign * drawn, aims.indifference, known)
    called = alike & np.array([row["on_front"] for row in rows])
    called &= ~surely_worse(sign * values, sign * drawn, aims.indifference)
    best = int(np.nanargmin(np.where(called if called.any() else alike, sign * values, np.inf)))
    on_one = {
        i: whole[point_name(row)] for i, row in enumerate(rows) if point_name(row) in whole and one.points[i].count
    }
    single = min(on_one, key=lambda i: sign * values[i], default=None)
    ratio = Interval(np.nan, np.nan, np.nan)
    if single is not None and values[single]:
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = _interval(values[best] / values[single], drawn[:, best] / drawn[:, single], known)
    return Choice(
        one.columns[column],
        way,
        one.points[best].keys,
        _interval(values[best], drawn[:, best], known),
        float(rows[best]["front_probability"]),
        int(alike.sum()) - 1,
        on_one.get(best),
        None if single is None else on_one[single],
        ratio,
        *_in_the_way(trials[trials[_POINT] == point_name(one.points[best].keys)]),
    )


def _alike(values: Numbers, drawn: Numbers, indifference: float, known: bool) -> Mask:
    """Which points cannot be told from the one that is best by estimate, itself included; less is better."""
    best = int(np.nanargmin(values))
    if not known:
        return np.asarray(np.arange(len(values)) == best, dtype=np.bool_)
    worse = drawn - drawn[:, [best]] > indifference * np.abs(drawn[:, [best]])
    return np.asarray((worse.mean(axis=0) < CERTAINTY) & np.isfinite(values), dtype=np.bool_)


def surely_worse(values: Numbers, drawn: Numbers, indifference: float) -> Mask:
    """Which points are worse than the best by estimate, by more than does not matter, and worse at all beyond doubt.

    Args:
        values: (points,): estimates, less is better.
        drawn: (resamples, points): draws of them.
        indifference: what difference does not matter, as a share.
    """
    best = int(np.nanargmin(values))
    matters = values - values[best] > indifference * abs(values[best])
    return np.asarray(matters & ((drawn > drawn[:, [best]]).mean(axis=0) >= (1 + CERTAINTY) / 2), dtype=np.bool_)


def _in_the_way(trials: pd.DataFrame) -> tuple[str, float, dict[str, float]]:
    """Of the trials of a point: its bottleneck, how busy that is, and what its latency is made of."""
    named = trials["bottleneck"].dropna() if "bottleneck" in trials else pd.Series(dtype=object)
    parts = {"computing": "compute_s", "links": "transfer_s", "waiting": "queue_s"}
    shares = {
        word: float((trials[name] / trials["latency_mean_s"]).median())
        for word, name in parts.items()
        if {name, "latency_mean_s"} <= set(trials.columns)
    }
    busy = float(trials["efficiency"].median()) if "efficiency" in trials else float("nan")
    return str(named.mode().iloc[0]) if len(named) else "", busy, shares


def _interval(value: float, drawn: Numbers, known: bool) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975]) if known else (np.nan, np.nan)
    return Interval(float(value), float(low), float(high))


def trials_of(summary: pd.DataFrame, given: Mapping[str, Any]) -> pd.DataFrame:
    """The trials of one model over one link: those that have these `GIVEN_KEYS`."""
    wanted = pd.Series({key: str(given[key]) for key in GIVEN_KEYS})
    return summary[(summary[GIVEN_KEYS].astype("str") == wanted).all(axis=1)]


def _on_one_device(summary: pd.DataFrame) -> dict[str, int]:
    """The points at which one stage has all units, and which; by their `point_name`."""
    stages = sorted(name for name in summary.columns if re.fullmatch(r"stage\d+_compute_s", name))
    ok = summary[summary["status"] == "ok"].reset_index(drop=True)
    compute = pd.DataFrame({name: numeric_column(ok, name, "the summary") for name in stages})
    share = compute.div(compute.sum(axis=1), axis=0)
    cuts = [str(name).split(" | ") for name in ok["partition_name"]]
    ends = np.array([set(each) <= {"input", "output"} for each in cuts], dtype=np.bool_)
    alone = ok[(share.max(axis=1) >= WHOLE) & ends].drop_duplicates([*CONFIGURATION_KEYS, "partition_label"])
    device = share.loc[alone.index].to_numpy().argmax(axis=1) if len(alone) else []
    return {point_name(row): int(i) for row, i in zip(alone.to_dict("records"), device, strict=True)}
