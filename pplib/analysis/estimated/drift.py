"""How fast each device was while each trial ran: its drift, found in the times of the stages themselves.

Whatever the cut, a device that is a tenth slower for a minute takes a tenth longer for every stage of that minute. So
the logarithm of a stage's time is that of its point and configuration, plus the device's drift at that moment, plus
noise. The drift is taken to be smooth over trials that follow each other; how smooth, cross-validation decides. What is
usual is the mean over the trials: where a device is busy with something else now and then, for as long as chance will
have it, the median may be the one speed in this sweep and the other in the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pplib.analysis.repeats import Numbers
from pplib.analysis.required_columns import numeric_column
from pplib.analysis.statistics import CONFIGURATION_KEYS

Groups = npt.NDArray[np.integer[Any]]

WIDTHS = (np.inf, 64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0)
"""Widths of the smoothing that are tried, in trials' usual distance from each other; the first is no drift at all."""

FOLDS = 5
"""Parts of the trials that are held out, one after the other, to find the width."""

ROUNDS = 12
"""Of fitting points and drift in turn: the next changes nothing that is seen."""


@dataclass(frozen=True)
class Drift:
    """How fast the devices were.

    Attributes:
        log_s: (trials, stages) how much longer than usual each stage took, as a logarithm; 0 is as usual, NaN where a
            trial has no time of it. The rows are those of the summary.
        width: of the smoothing, in trials, for each stage; inf where no drift was found.
        error: for each stage, the cross-validated error of a stage's time with that drift, and without any, as a share.
    """

    log_s: Numbers
    width: tuple[float, ...]
    error: tuple[tuple[float, float], ...]


def drift_of(summary: pd.DataFrame, levels: Numbers | None = None) -> Drift:
    """The drift of every stage's device over the trials of a summary, in the order in which they were started.

    Trials on other devices are other drifts. Without the time when trials were started, or without times of stages,
    there is none.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        levels: (trials, stages) the logarithm of what each stage takes at the usual speed, where that is known from
            more than the repeats of its point, see `stage_levels`; NaN where it is not.

    Raises:
        FrameError: a column holds no numbers.
    """
    stages = sum(f"stage{i}_compute_s" in summary.columns for i in range(summary.shape[1]))
    log_s = np.zeros((len(summary), stages))
    width, error = [np.inf] * stages, [(np.nan, np.nan)] * stages
    if not stages or "started_at" not in summary.columns:
        return Drift(log_s, tuple(width), tuple(error))
    started = pd.to_datetime(summary["started_at"], format="ISO8601", utc=True, errors="coerce")
    at = np.asarray((started - started.min()).dt.total_seconds(), dtype=np.float64)
    point = summary.groupby([*CONFIGURATION_KEYS, "partition_point"], dropna=False, sort=False).ngroup().to_numpy()
    where = [name for name in ("device_names", "cpu", "gpu") if name in summary.columns]
    machine = summary.groupby(where, dropna=False, sort=False).ngroup().to_numpy() if where else np.zeros(len(summary))
    times = np.stack([numeric_column(summary, f"stage{i}_compute_s", "the summary") for i in range(stages)], axis=1)
    share = times / np.nansum(times, axis=1, keepdims=True)  # of a stage that is hardly one the time is mostly noise
    ok = (summary["status"] == "ok").to_numpy(dtype=bool)
    for i in range(stages):
        for one in np.unique(machine):
            known = np.isfinite(levels[:, i]) if levels is not None else ok
            mine = np.flatnonzero((machine == one) & (times[:, i] > 0) & np.isfinite(at) & ok & known)
            if len(mine) > 2:
                mine = mine[np.argsort(at[mine], kind="stable")]
                logs, level = np.log(times[mine, i]), None if levels is None else levels[mine, i]
                log_s[mine, i], width[i], error[i] = _fit(logs, level, point[mine], at[mine], share[mine, i])
        log_s[~(times[:, i] > 0), i] = np.nan
    return Drift(log_s, tuple(width), tuple(error))


def _fit(
    logs: Numbers, level: Numbers | None, point: Groups, at: Numbers, weight: Numbers
) -> tuple[Numbers, float, tuple[float, float]]:
    """The drift at each trial, the width, and the cross-validated errors with it and without."""
    _, point = np.unique(point, return_inverse=True)
    apart = np.abs(at[:, None] - at[None, :]) / (float(np.median(np.diff(at))) or 1.0)
    fold = np.random.default_rng(0).permutation(len(logs)) % FOLDS
    errors = []
    for width in WIDTHS:
        near = _near(apart, width, weight)
        left = np.full_like(logs, np.nan) if level is None else logs - level - _smoothed(logs - level, near)
        for held in (fold == one for one in range(FOLDS if level is None else 0)):
            found, drift = _in_turn(logs, point, near, ~held)
            left[held] = (logs - found[point] - drift)[held]
        known = np.isfinite(left)
        errors.append(float(np.sqrt(np.average(left[known] ** 2, weights=weight[known]))) if known.any() else np.nan)
    chosen = 0 if np.isnan(errors[0]) else int(np.nanargmin(errors))
    near = _near(apart, WIDTHS[chosen], weight)
    if level is None:
        _, drift = _in_turn(logs, point, near, np.ones_like(logs, dtype=bool))
    else:
        drift = _smoothed(logs - level, near)
    return drift - np.average(drift, weights=weight), WIDTHS[chosen], (errors[chosen], errors[0])


def _near(apart: Numbers, width: float, weight: Numbers) -> Numbers:
    """How much each trial counts for the drift at each other. For its own it does not: it would take its own noise for
    drift, and its point would look surer than it is.
    """
    if np.isinf(width):
        return np.zeros_like(apart)
    near = np.exp(-0.5 * (apart / width) ** 2) * weight
    np.fill_diagonal(near, 0.0)
    return near


def _in_turn(logs: Numbers, point: Groups, near: Numbers, taken: npt.NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Levels of the points and drift at the trials, fitted in turn to the trials `taken`; NaN where there are none."""
    drift, near = np.zeros_like(logs), near * taken
    counts = np.bincount(point, taken)
    for _ in range(ROUNDS):
        with np.errstate(invalid="ignore"):
            level = np.bincount(point, (logs - drift) * taken) / counts
        rest = np.where(taken, logs - level[point], 0.0)
        drift = _smoothed(rest, near)
    return level, drift


def _smoothed(rest: Numbers, near: Numbers) -> Numbers:
    """Of each trial the mean of those near it; 0 where there are none."""
    total = near.sum(axis=1)
    return np.asarray(np.divide(near @ rest, total, out=np.zeros_like(rest), where=total > 1e-9), dtype=np.float64)
