"""What every point takes at the usual speed of its devices: estimates that a second run confirms, and their error.

A repeat of a point differs from another by the drift of the devices, which is common to all that was measured about
then, and by noise of its own. The first is taken out (see `drift`), as far as that makes repeats agree better; the
second is pooled over the points of a configuration, so that three repeats of twenty points say how sure each is.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pplib.analysis.estimated.drift import Drift, drift_of
from pplib.analysis.repeats import POINT_KEYS, Numbers, Repeats, point_name, repeats_by_configuration
from pplib.analysis.statistics import CONFIGURATION_KEYS, sorted_trials, spread
from pplib.errors import FrameError

Counts = npt.NDArray[np.int64]

HUBER = 1.5
"""Repeats further from the others than so many standard deviations count less."""

WINDOW = 3.5
"""Trials in a window of the drift, for each width: those that a normal kernel has an equal share of, 2 sqrt(pi)."""

FAR = 300.0
"""A logarithm of what is as good as nothing known: two repeats of one point say little."""

MOST = 1.5
"""A time never changes with more than this power of its devices' speed."""


@dataclass(frozen=True)
class Estimates:
    """The points of one configuration, in the model's order.

    Attributes:
        points: their repeats, as measured.
        columns: what is estimated.
        power: for each column, with which power of the devices' slowness it changes; 0 where taking that out does not
            make repeats agree better.
        values: (points, columns) at the usual speed; NaN without a repeat.
        draws: (resamples, points, columns) what another sweep might have found; NaN without a repeat.
        freedom: the repeats beyond the first of each point, over all points, less what the drift has used up; 0: how
            sure the values are is not known.
        apart, apart_corrected: for each column the median over points of (largest - smallest) / median of the repeats.
    """

    points: list[Repeats]
    columns: tuple[str, ...]
    power: tuple[float, ...]
    values: Numbers
    draws: Numbers
    freedom: float
    apart: tuple[float, ...]
    apart_corrected: tuple[float, ...]

    @property
    def keys(self) -> dict[str, Any]:
        """What names the configuration."""
        return {key: self.points[0].keys[key] for key in CONFIGURATION_KEYS}


def estimates(summary: pd.DataFrame, columns: Sequence[str], resamples: int = 2000, seed: int = 0) -> list[Estimates]:
    """The estimates of every configuration.

    All is done in logarithms: times and rates differ by factors. A point's value is a robust mean of its repeats. The
    residuals of all points of a configuration are pooled, the columns of a trial together, and drawn again for every
    repeat: that is what another sweep might have found. Drift common to the points of a block is in none of it, where
    it was found. Columns that hold no positive numbers are taken as they are, with no drift.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        columns: measured ones.
        resamples: drawn per configuration.
        seed: the same seed gives the same draws.

    Raises:
        FrameError: a column is missing or holds no numbers, or an argument makes no sense.

    Source: Huber, Robust Estimation of a Location Parameter (1964); the residual bootstrap of Efron and Tibshirani
    (1993), chapter 9; the analysis of covariance of Fisher (1932), for the drift.
    """
    if not columns:
        raise FrameError("columns: expected at least one, such as 'latency_s', got none")
    if resamples < 1:
        raise FrameError(f"resamples: expected 1 or more, got {resamples}")
    if seed < 0:
        raise FrameError(f"seed: expected 0 or more, got {seed}")
    trials = sorted_trials(summary)
    drift = drift_of(trials)
    slowness = _slowness(trials, drift, columns)
    with_slowness = trials.assign(**{f"slowness of {name}": slowness[:, j] for j, name in enumerate(columns)})
    names = [*columns, *[f"slowness of {name}" for name in columns]]
    windows = max((1 / (WINDOW * width) for width in drift.width), default=0.0)  # for each trial
    return [
        _estimated(points, tuple(columns), windows, resamples, seed)
        for points in repeats_by_configuration(with_slowness, names)
    ]


def _slowness(trials: pd.DataFrame, drift: Drift, columns: Sequence[str]) -> Numbers:
    """How much longer than usual what a column measures took in each trial, as a logarithm, as far as devices go."""
    log_s, stages = drift.log_s, drift.log_s.shape[1]
    if not stages:
        return np.zeros((len(trials), len(columns)))
    times = trials[[f"stage{i}_compute_s" for i in range(stages)]].to_numpy(dtype=np.float64)
    known = np.where(np.isfinite(log_s), log_s, 0.0)
    times = np.where(np.isfinite(times), times, 0.0)
    whole = (known * times).sum(axis=1) / np.maximum(times.sum(axis=1), 1e-12)
    busiest = known[np.arange(len(trials)), times.argmax(axis=1)]
    made = [
        -busiest if name.endswith("_img_s") else whole if name.endswith("_s") else np.zeros(len(trials))
        for name in columns
    ]
    return np.stack(made, axis=1)


def _estimated(points: list[Repeats], columns: tuple[str, ...], windows: float, resamples: int, seed: int) -> Estimates:
    count, width = len(points), len(columns)
    raw = np.concatenate([one.values[:, :width] for one in points])
    x = np.concatenate([one.values[:, width:] for one in points])
    repeats = np.array([one.count for one in points])
    at = np.repeat(np.arange(count), repeats)
    logs = np.asarray((raw > 0).all(axis=0))
    y = np.where(logs, np.log(np.where(logs, raw, 1.0)), raw)
    power = [_power(y[:, j], x[:, j], at, repeats) if logs[j] else 0.0 for j in range(width)]
    y = y - x * power
    freedom = _freedom(repeats, windows if any(power) else 0.0)
    scale = _scale(y, at, repeats, freedom)
    there = np.flatnonzero(repeats).tolist()
    middle = np.full((count, width), np.nan)
    for i in there:
        middle[i] = _location(y[at == i][None], scale)[0]
    draws = np.full((resamples, count, width), np.nan)
    if freedom > 0:
        left = (y - middle[at])[repeats[at] > 1]
        left = left * np.sqrt(len(left) / freedom)
        drawn = np.random.default_rng([seed, zlib.crc32(_name(points).encode())])
        # As of Student's distribution: the pooled spread is itself known from so many residuals only.
        stretch = np.sqrt(freedom / drawn.chisquare(freedom, size=resamples))[:, None]
        for i in there:
            picked = left[drawn.integers(0, len(left), size=(resamples, repeats[i]))]
            draws[:, i] = middle[i] + stretch * _location(picked, scale)

    def as_measured(values: Numbers) -> Numbers:
        return np.where(logs, np.exp(np.clip(np.where(logs, values, 0.0), -FAR, FAR)), values)

    corrected = as_measured(y)
    return Estimates(
        points=[Repeats(one.keys, one.values[:, :width]) for one in points],
        columns=columns,
        power=tuple(power),
        values=as_measured(middle),
        draws=as_measured(draws),
        freedom=freedom,
        apart=tuple(_apart([raw[at == i, j] for i in there]) for j in range(width)),
        apart_corrected=tuple(_apart([corrected[at == i, j] for i in there]) for j in range(width)),
    )


def _freedom(repeats: Counts, windows: float) -> float:
    """The repeats beyond the first of each point, less what the drift that was taken out has used up of them.

    Each window of the drift is one number that was fitted to all configurations; half of it counts, for no trial has a
    say in its own drift: with that, intervals of simulated sweeps hold what they should (`benchmarks/coverage.py`).
    """
    beyond = float(np.maximum(repeats - 1, 0).sum())
    return max(beyond - 0.5 * windows * float(repeats.sum()), beyond / 4)


def _power(y: Numbers, x: Numbers, at: Counts, repeats: Counts) -> float:
    """With which power of the slowness a column changes; 0 where its cross-validated error is no smaller with it."""
    several = repeats[at] > 1
    if not several.any() or not x.any():
        return 0.0

    def within(values: Numbers) -> Numbers:
        means = np.bincount(at, values, minlength=len(repeats)) / np.maximum(repeats, 1)
        return (values - means[at])[several]

    dx, dy, n = within(x), within(y), repeats[at][several]
    square = float((dx**2).sum())
    if square < 1e-12:
        return 0.0
    slope = float(np.clip((dx * dy).sum() / square, 0.0, MOST))
    # Each trial as the others predict it: the influence of its own is known in closed form.
    with_it = (dy - slope * dx) / np.maximum(1 - 1 / n - dx**2 / square, 1e-3)
    without = dy / (1 - 1 / n)
    return slope if (with_it**2).sum() < (without**2).sum() else 0.0


def _scale(y: Numbers, at: Counts, repeats: Counts, freedom: float) -> Numbers:
    """The robust standard deviation of the repeats of a point, for each column."""
    if freedom <= 0:
        return np.ones(y.shape[1])
    middles = np.stack([np.median(y[at == i], axis=0) if n else np.zeros(y.shape[1]) for i, n in enumerate(repeats)])
    several = repeats[at] > 1
    far = np.abs(y - middles[at])[several] * np.sqrt(several.sum() / freedom)
    return np.asarray(np.maximum(1.4826 * np.median(far, axis=0), 1e-12), dtype=np.float64)


def _location(samples: Numbers, scale: Numbers) -> Numbers:
    """Robust means of samples of shape (..., repeats, columns) over their repeats."""
    middle = np.median(samples, axis=-2, keepdims=True)
    for _ in range(5):
        far = np.abs(samples - middle) / scale
        weight = np.minimum(1.0, HUBER / np.maximum(far, 1e-12))
        middle = (samples * weight).sum(axis=-2, keepdims=True) / weight.sum(axis=-2, keepdims=True)
    return np.asarray(middle[..., 0, :], dtype=np.float64)


def _apart(groups: Sequence[Numbers]) -> float:
    return float(pd.Series([spread(pd.Series(one)) for one in groups], dtype="float64").median())


def _name(points: Sequence[Repeats]) -> str:
    return point_name({**points[0].keys, **dict.fromkeys(set(POINT_KEYS) - set(CONFIGURATION_KEYS))})
