"""From repeated trials to one row per partition point, and which of those are on the front."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from pandas.api.typing import SeriesGroupBy

from pplib.analysis.pareto import pareto_mask
from pplib.analysis.required_columns import numeric_column, require_columns
from pplib.columns import OBJECTIVES
from pplib.errors import FrameError

CONFIGURATION_KEYS = [
    "model",
    "weights",
    "dataset",
    "backend",
    "link",
    "batch_size",
    "in_flight",
    "num_stages",
    "granularity",
    "optimize",
    "runtime",
    "precision",
    "wire",
    "setup",
]
"""The columns that make two trials comparable: dominance is decided within one configuration.

`setup` says, in words, what else differs between the trials of a summary (see `setups`): "" where nothing does.
"""

GIVEN_KEYS = ["model", "weights", "dataset", "link", "batch_size", "setup"]
"""Of these what is given; the others are chosen, as the cut is: one front over all choices is within these."""

RANGED = list(OBJECTIVES)
"""Columns whose smallest and largest repeat are kept beside the median."""

_NOT_MEASURED = {"repeat", "order"}


def partition_key(point: object) -> tuple[int, ...]:
    """The partition points in `point`, as integers that sort in the model's order.

    >>> sorted(["10", "3-7", "3-11", 2], key=partition_key)
    [2, '3-7', '3-11', '10']
    >>> partition_key("P3-7")
    (3, 7)
    """
    if isinstance(point, float):
        point = int(point)
    return tuple(int(digits) for digits in re.findall(r"\d+", str(point)))


def spread(series: pd.Series[float]) -> float:
    """Relative range of repeats: (largest - smallest) / median; NaN for fewer than two values, or about 0.

    >>> spread(pd.Series([9.0, 10.0, 11.0]))
    0.2
    """
    values = series.dropna()
    if len(values) < 2 or (values.median() == 0 and values.max() > values.min()):
        return float("nan")
    if values.max() == values.min():  # bytes, of which there may be none
        return 0.0
    return float((values.max() - values.min()) / values.median())


def point_table(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per configuration and partition point: medians over the repeats that succeeded.

    Every numeric column becomes its median over the ok repeats, so a row mixes repeats: where parts
    must add up to the whole, use `representative_trials`. Other columns keep their most common value.

    Args:
        summary: one row per trial, the columns of `summary.csv`.

    Returns:
        `CONFIGURATION_KEYS`, then `partition_point` and the rest, sorted by configuration and by
        partition point in numeric order. `latency_s_min/_max` and `throughput_img_s_min/_max` are
        over ok repeats; `repeats_ok` and `repeats_failed` count trials; `status` is "ok" where any
        repeat was, else "failed", with NaN for what was not measured and `error` telling why.

    Raises:
        FrameError: a configuration key, the partition point, the status or a ranged column is missing;
            or no trial succeeded.
    """
    trials = sorted_trials(summary)
    if not set(RANGED) & set(trials.columns) and (trials["status"] == "failed").any():
        said = trials["error"].iloc[0] if "error" in trials.columns else "it does not say why"
        raise FrameError(f"none of the {len(trials)} trials succeeded; the first: {said}")
    for name in RANGED:
        numeric_column(trials, name, "the summary")
    keys = [*CONFIGURATION_KEYS, "partition_point"]
    if trials.empty:
        added = [f"{name}_{end}" for name in RANGED for end in ("min", "max")] + ["repeats_ok", "repeats_failed"]
        kept = [name for name in trials.columns if name not in _NOT_MEASURED]
        return trials.reindex(columns=[*kept, *added])
    point, good = trials.groupby(keys, dropna=False, sort=False).ngroup(), trials["status"] == "ok"
    failed = ~good.groupby(point).transform("any")
    told = trials[good | failed].groupby(point)
    rows: dict[str, Any] = {str(name): values.tolist() for name, values in trials[keys].groupby(point).head(1).items()}
    for name in [name for name in trials.columns if name not in (*keys, *_NOT_MEASURED)]:
        rows[name] = _of_each(told[name], trials[name].dtype)
    failed = failed.groupby(point).first()
    for name in RANGED:
        measured = trials[name].where(good).groupby(point)
        rows |= {name: rows[name].mask(failed), f"{name}_min": measured.min(), f"{name}_max": measured.max()}
    counts = {"repeats_ok": good.groupby(point).sum(), "repeats_failed": (~good).groupby(point).sum()}
    return pd.DataFrame({**rows, **counts, "status": failed.map({False: "ok", True: "failed"}).tolist()})


def representative_trials(summary: pd.DataFrame) -> pd.DataFrame:
    """For every configuration and point, the one ok trial whose `latency_mean_s` is the (lower) median.

    Medians of parts need not add up to the median of the whole; the parts of one trial do, so
    decompositions are drawn from these rows.

    Returns:
        Rows of `summary`, unchanged, sorted by configuration and partition point; points without an
        ok repeat are absent.

    Raises:
        FrameError: a column is missing.
    """
    trials = sorted_trials(summary)
    numeric_column(trials, "latency_mean_s", "the summary")
    usable = trials[(trials["status"] == "ok") & trials["latency_mean_s"].notna()]
    if usable.empty:
        return usable
    picked = []
    for _, group in usable.groupby([*CONFIGURATION_KEYS, "partition_point"], dropna=False, sort=False):
        ordered = group.sort_values("latency_mean_s", kind="stable")
        picked.append(ordered.index[(len(ordered) - 1) // 2])
    return usable.loc[picked].reset_index(drop=True)


def fronts(points: pd.DataFrame, objectives: Mapping[str, str], indifference: float = 0.0) -> pd.DataFrame:
    """`points` with a boolean column `on_front`, decided within each configuration.

    Args:
        points: one row per configuration and partition point, see `point_table`.
        objectives: column name -> "min" or "max".
        indifference: what difference does not matter, as a share: see `pareto_mask`.

    Raises:
        FrameError: a configuration key is missing, or as `pareto_mask`.
    """
    require_columns(points, CONFIGURATION_KEYS, "the table of points")
    mask = pd.Series(False, index=range(len(points)))
    for _, rows in points.reset_index(drop=True).groupby(CONFIGURATION_KEYS, dropna=False, sort=False):
        mask.loc[rows.index] = pareto_mask(rows, objectives, indifference)
    return points.assign(on_front=mask.to_numpy())


def sorted_trials(summary: pd.DataFrame) -> pd.DataFrame:
    """The trials by configuration, partition point (in numeric order), repeat; the row labels are unique.

    Of a point with trials during which no device was disturbed, those during which one was are left out.

    Raises:
        FrameError: a configuration key, the partition point or the status is missing.
    """
    require_columns(summary, [*CONFIGURATION_KEYS, "partition_point", "status"], "the summary")
    order = [*CONFIGURATION_KEYS, "partition_point", *[name for name in ["repeat"] if name in summary.columns]]

    def key(column: pd.Series[Any]) -> pd.Series[Any]:
        return column.map(partition_key) if column.name == "partition_point" else column

    return summary[~outdone_by_calm(summary)].sort_values(order, key=key, kind="stable", ignore_index=True)


def is_disturbed(summary: pd.DataFrame) -> pd.Series[bool]:
    """Which ok trials a device was disturbed during; none of a summary that is older than the column."""
    if "disturbed" not in summary.columns:
        return pd.Series(False, index=summary.index)
    told = summary["disturbed"]
    return told.notna() & (told.astype("str") != "") & (summary["status"] == "ok")


def outdone_by_calm(summary: pd.DataFrame) -> pd.Series[bool]:
    """Which trials count for nothing: a device was disturbed, and their point has trials during which none was."""
    disturbed = is_disturbed(summary)
    keys = [*CONFIGURATION_KEYS, "partition_point"]
    calm = ((summary["status"] == "ok") & ~disturbed).groupby([summary[key] for key in keys], dropna=False)
    return disturbed & calm.transform("any")


def _of_each(values: SeriesGroupBy[Any, Any], dtype: Any) -> Any:
    """What the row of each point says of a column, from the repeats that it tells of."""
    if pd.api.types.is_bool_dtype(dtype):
        return values.any()
    if pd.api.types.is_numeric_dtype(dtype):
        return values.median()
    if values.nunique().max() > 1:
        return [next(iter(one.mode()), None) for _, one in values]
    return values.first().astype("object").where(values.count() > 0, None).tolist()
