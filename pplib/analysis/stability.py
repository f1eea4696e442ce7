"""Which trials may not be believed, why, and what to do about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from pplib.analysis.repeats import POINT_KEYS
from pplib.analysis.required_columns import numeric_column, require_columns
from pplib.analysis.statistics import CONFIGURATION_KEYS, sorted_trials
from pplib.columns import OBJECTIVES

TAIL_LIMIT = 0.15
"""How far a trial's 90th percentile of latency may lie above its median, as a share of the median.

pyperf warns where the standard deviation exceeds 10 % of the mean; for a normal distribution the 90th
percentile then lies 13 % above the median. Of few microbatches, 8 or 16, it is nearly the slowest one."""

REPEAT_LIMIT = 0.10
"""How far a repeat may always lie from its point's median, as a share of it (pyperf's 10 %)."""

FAR_FACTOR = 2.0
"""On a noisy machine: how many times further from its point's median than is typical of its configuration."""

EFFICIENCY_TOLERANCE = 0.05
"""How far throughput may exceed the bound of the slowest stage or hop: both are means over a few microbatches."""

CLOCK_LIMIT = 0.05
"""How large the clock offset's error bound may be, as a share of the latency it is in."""

_NEEDED = [*OBJECTIVES, "latency_p90_s", "efficiency", "clock_error_s"]


@dataclass(frozen=True)
class _Check:
    """`value` of every trial against `limit`; words for where it is exceeded."""

    name: str
    value: pd.Series[float]
    limit: pd.Series[float]
    reason: Callable[[float, float], str]
    remedy: str


def unstable_trials(summary: pd.DataFrame) -> pd.DataFrame:
    """The ok trials whose figures may not be believed: a row for each trial and check that it fails.

    - `tail`: the trial's own microbatches differ: p90, or the slowest where they are too few for a p90, above the
      median by more than `TAIL_LIMIT`.
    - `repeats`: latency or throughput lies further from the median of the point's repeats than
      `REPEAT_LIMIT`, and further than `FAR_FACTOR` times what is typical of the configuration: the
      median over its points of their furthest repeat. Where every point is noisy, `noise` says it.
    - `efficiency`: throughput above the bound by more than `EFFICIENCY_TOLERANCE`.
    - `clock`: `clock_error_s` above `CLOCK_LIMIT` of the latency, or that of a hop above the same share of
      the hop's transfer. The latter says that this transfer is not to be compared; all else of the trial is.

    Args:
        summary: one row per trial, the columns of `summary.csv`.

    Returns:
        `POINT_KEYS`, `repeat`, `check`, `value` and `limit` (shares, no unit), `reason`, `remedy`,
        sorted by trial. Empty where all is well. A value that is missing fails no check.

    Raises:
        FrameError: a column is missing or does not hold numbers.

    Source: the idea and the 10 % of pyperf's `check`; the other limits are ours.
    """
    trials = _ok_trials(summary)
    columns = [*POINT_KEYS, "repeat", "check", "value", "limit", "reason", "remedy"]
    pieces = []
    for rank, check in enumerate([*_checks(trials), *_hop_checks(trials)]):
        failed = (check.value > check.limit).to_numpy()
        piece = trials.loc[failed, [*POINT_KEYS, "repeat"]].assign(
            check=check.name, value=check.value[failed], limit=check.limit[failed], remedy=check.remedy, rank=rank
        )
        pairs = zip(piece["value"], piece["limit"], strict=True)
        pieces.append(piece.assign(reason=[check.reason(value, limit) for value, limit in pairs]))
    pieces = [piece for piece in pieces if len(piece)]
    if not pieces:
        return pd.DataFrame(columns=columns)
    found = pd.concat(pieces).rename_axis("trial").sort_values(["trial", "rank"], kind="stable")
    return found[columns].reset_index(drop=True)


def worst_trials(unstable: pd.DataFrame, count: int = 12) -> pd.DataFrame:
    """The `count` rows of `unstable_trials` that exceed their limit by the largest factor, worst first.

    Raises:
        FrameError: a column is missing or does not hold numbers.
    """
    excess = numeric_column(unstable, "value", "the unstable trials") / unstable["limit"]
    return unstable.loc[excess.sort_values(ascending=False, kind="stable").index[:count]].reset_index(drop=True)


def noise(summary: pd.DataFrame) -> pd.DataFrame:
    """How noisy each configuration is as a whole.

    Returns:
        One row per configuration with ok trials: `CONFIGURATION_KEYS`, `trials`, `unstable` (trials
        with a row in `unstable_trials`), `latency_noise` and `throughput_noise` (the median over points
        of the furthest repeat's distance from the point's median, as a share; NaN without two
        repeats), and `warning`: None, or a reason with its remedy where either exceeds `REPEAT_LIMIT`.

    Raises:
        FrameError: a column is missing or does not hold numbers.
    """
    trials = _ok_trials(summary)
    failed = pd.DataFrame({i: check.value > check.limit for i, check in enumerate(_checks(trials))}).any(axis=1)
    rows = []
    for values, group in trials.groupby(CONFIGURATION_KEYS, dropna=False, sort=False):
        row = dict(zip(CONFIGURATION_KEYS, values, strict=True))
        row |= {"trials": len(group), "unstable": int(failed[group.index].sum())}
        levels = {name: float(_typical(group, name).iloc[0]) for name in OBJECTIVES}
        row |= {"latency_noise": levels["latency_s"], "throughput_noise": levels["throughput_img_s"]}
        worst = max(levels.values())
        row["warning"] = f"repeats of a point typically differ from its median by {worst:.1%}: {_QUIET}"
        if not worst > REPEAT_LIMIT:
            row["warning"] = None
        rows.append(row)
    added = ["trials", "unstable", "latency_noise", "throughput_noise", "warning"]
    return pd.DataFrame(rows, columns=[*CONFIGURATION_KEYS, *added])


def _checks(trials: pd.DataFrame) -> list[_Check]:
    number = {name: numeric_column(trials, name, "the summary") for name in _NEEDED}

    def far(word: str, name: str) -> _Check:
        limit = (_typical(trials, name) * FAR_FACTOR).clip(lower=REPEAT_LIMIT)
        return _Check(
            "repeats",
            _distance(trials, name),
            limit,
            lambda v, x: f"{word} {v:.1%} from its point's median{_over(x)}",
            _AGAIN,
        )

    return [
        _Check(
            "tail",
            _tail(trials) / number["latency_s"] - 1,
            _always(TAIL_LIMIT, trials),
            lambda v, x: f"slow microbatches: {v:.1%} above the median of latency{_over(x)}",
            "measure more images per trial, and keep other work off the devices",
        ),
        far("latency", "latency_s"),
        far("throughput", "throughput_img_s"),
        _Check(
            "efficiency",
            number["efficiency"] - 1,
            _always(EFFICIENCY_TOLERANCE, trials),
            lambda v, x: f"throughput {v:.1%} above what the slowest stage or hop lets through{_over(x)}",
            "measure more images per trial: with few microbatches the ends of the run weigh too much",
        ),
        _Check(
            "clock",
            number["clock_error_s"] / number["latency_s"],
            _always(CLOCK_LIMIT, trials),
            lambda v, x: f"clock error is {v:.1%} of the latency{_over(x)}",
            "use response_s (one clock) for this link, or synchronise the devices' clocks over a quicker one",
        ),
    ]


def _tail(trials: pd.DataFrame) -> pd.Series[float]:
    """The 90th percentile of latency, or the largest where the microbatches are too few for that."""
    tail = numeric_column(trials, "latency_p90_s", "the summary")
    if "latency_max_s" in trials.columns:  # older results lack it, and have a percentile of any number
        tail = tail.fillna(numeric_column(trials, "latency_max_s", "the summary"))
    return tail


def _hop_checks(trials: pd.DataFrame) -> list[_Check]:
    """Whether each hop's transfer, a difference between two devices' clocks, is known well enough to be compared."""

    def of(hop: int) -> _Check:
        error = numeric_column(trials, f"hop{hop}_clock_error_s", "the summary")
        transfer = numeric_column(trials, f"hop{hop}_transfer_s", "the summary")
        return _Check(
            "clock",
            error / transfer.where(transfer > 0),
            _always(CLOCK_LIMIT, trials),
            lambda v, x: f"hop{hop}_transfer_s is known within {v:.1%} only, by the clocks' error{_over(x)}",
            "compare this hop by response_s (one clock), or bring the devices nearer to each other",
        )

    hops = itertools.takewhile(lambda hop: f"hop{hop}_clock_error_s" in trials, itertools.count())
    return [of(hop) for hop in hops]


def _always(limit: float, trials: pd.DataFrame) -> pd.Series[float]:
    """The same limit for every trial."""
    return pd.Series(limit, index=trials.index, dtype="float64")


def _ok_trials(summary: pd.DataFrame) -> pd.DataFrame:
    require_columns(summary, [*_NEEDED, "partition_label", "repeat"], "the summary")
    trials = sorted_trials(summary)
    return trials[(trials["status"] == "ok").fillna(False)].reset_index(drop=True)


def _distance(trials: pd.DataFrame, name: str) -> pd.Series[float]:
    """|trial - median of its point's repeats| / that median; NaN where there is one repeat."""
    values = numeric_column(trials, name, "the summary")
    groups = values.groupby(_numbers(trials, [*CONFIGURATION_KEYS, "partition_point"]))
    middle = groups.transform("median")
    return ((values - middle).abs() / middle).where(groups.transform("count") > 1)


def _typical(trials: pd.DataFrame, name: str) -> pd.Series[float]:
    """For every trial: the median over its configuration's points of their furthest repeat's distance."""
    distance = _distance(trials, name)
    point = _numbers(trials, [*CONFIGURATION_KEYS, "partition_point"])
    furthest = distance.groupby(point).transform("max")
    # One row per point: points with more repeats weigh no more.
    once = furthest.where(~point.duplicated())
    return once.groupby(_numbers(trials, CONFIGURATION_KEYS)).transform("median")


def _numbers(trials: pd.DataFrame, keys: list[str]) -> pd.Series[int]:
    """The number of each trial's group."""
    return trials.groupby(keys, dropna=False, sort=False).ngroup()


def _over(limit: float) -> str:
    return f" (limit {limit:.1%})"


_QUIET = "keep other work off the devices, fix the clock frequency of their processors, or measure more repeats"
_AGAIN = "measure more repeats of every point: to replace only the odd ones would flatter the point"
