"""How far predictions are from what was measured, and what a front of them would have missed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.columns import INDIFFERENCE, OBJECTIVES
from pplib.planner.plan_quality import hypervolume_share, predicted_front, recall

Array = NDArray[np.float64]
PROFILES, TRIALS = "profiles", "profiles and trials"
"""What a prediction is from: of a plan's first round, and of what no plan chose, profiles alone."""


class PredictionError(NamedTuple):
    """How far predictions of cuts of one configuration are off.

    Attributes:
        column: latency_s, response_s or throughput_img_s.
        of: PROFILES or TRIALS.
        cuts: how many.
        mape: mean of |predicted - measured| / measured.
        noise: what that would be if predictions were the truth: from the intervals of what was measured; NaN where
            nothing was repeated.
        common: the factor that all of them are off by: predicted over measured, their median; how fast the devices were
            while they were profiled, against how fast they were in the sweep, is in it.
        mape_apart: the mean error without that.
        worst: the cut that is furthest off, and by what share, with its sign.
        inside: the share of cuts whose predicted interval holds the measured figure.
    """

    column: str
    of: str
    cuts: int
    mape: float
    noise: float
    common: float
    mape_apart: float
    worst: tuple[str, float]
    inside: float


class FrontQuality(NamedTuple):
    """What the cuts on the predicted front are worth, where all cuts were measured.

    Attributes:
        recall: the share of the measured front's cuts that are on it, or have one as good there.
        hypervolume: of what was measured of its cuts, as a share of that of all.
        cuts: how many are on it.
    """

    recall: float
    hypervolume: float
    cuts: int


def prediction_errors(points: pd.DataFrame) -> list[PredictionError]:
    """The errors of one configuration's predictions, by quantity and by what they are from.

    Args:
        points: one row per cut, see `point_estimates`, with `predicted_*`; those that lack one do not count.
    """
    found = []
    round_of = points["plan_round"] if "plan_round" in points.columns else pd.Series(np.nan, points.index)
    for of, mine in ((PROFILES, ~(round_of > 1)), (TRIALS, round_of > 1)):
        for column in ("latency_s", "throughput_img_s"):
            both = points[mine].dropna(subset=[column, f"predicted_{column}"])
            if len(both):
                found.append(_error(both, column, of))
    return found


def front_quality(points: pd.DataFrame, indifference: float = INDIFFERENCE) -> FrontQuality | None:
    """What the predicted front of one configuration is worth; None where not every cut was measured.

    Args:
        points: as of `prediction_errors`.
        indifference: what difference does not matter, as a share.
    """
    names = list(OBJECTIVES)
    both = points.dropna(subset=[*names, *(f"predicted_{name}" for name in names)])
    planned = "plan_round" in both.columns and both["plan_round"].notna().any()
    if not len(both) or planned or len(both) < float(both["predicted_cuts"].max()):
        return None
    values = both[names].to_numpy(dtype=np.float64)
    front = np.flatnonzero(predicted_front(both, indifference)).tolist()
    return FrontQuality(
        recall(values, front, OBJECTIVES, indifference), hypervolume_share(values, front, OBJECTIVES), len(front)
    )


def by_configuration(points: pd.DataFrame) -> list[tuple[dict[str, object], pd.DataFrame]]:
    """The points of each configuration of which something was predicted, with what names it."""
    if "predicted_latency_s" not in points.columns:
        return []
    known = points[points["predicted_latency_s"].notna()]
    return [
        (dict(zip(CONFIGURATION_KEYS, keys, strict=True)), rows)
        for keys, rows in known.groupby(CONFIGURATION_KEYS, dropna=False, sort=False)
    ]


def _error(both: pd.DataFrame, column: str, of: str) -> PredictionError:
    measured = both[column].to_numpy(dtype=np.float64)
    told, low, high = (both[f"predicted_{column}{end}"].to_numpy(dtype=np.float64) for end in ("", "_low", "_high"))
    off = np.log(told / measured)
    common = float(np.exp(np.median(off)))
    worst = int(np.abs(off).argmax())
    return PredictionError(
        column=column,
        of=of,
        cuts=len(both),
        mape=float(np.abs(told / measured - 1).mean()),
        noise=_noise(both, column),
        common=common,
        mape_apart=float(np.abs(told / common / measured - 1).mean()),
        worst=(str(both["partition_label"].iloc[worst]), float(told[worst] / measured[worst] - 1)),
        inside=float(((low <= measured) & (measured <= high)).mean()),
    )


def _noise(both: pd.DataFrame, column: str) -> float:
    """The mean absolute error that intervals of 95 % stand for, of normal errors."""
    if f"{column}_low" not in both.columns:
        return float("nan")
    low, high = (both[f"{column}{end}"].to_numpy(dtype=np.float64) for end in ("_low", "_high"))
    sd = np.log(high / low) / (2 * 1.96)
    return float(np.sqrt(2 / np.pi) * sd[np.isfinite(sd)].mean()) if np.isfinite(sd).any() else float("nan")
