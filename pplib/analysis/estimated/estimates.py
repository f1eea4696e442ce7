"""What every point takes at the usual speed of its devices: estimates that a second run confirms, and their error.

Most of what repeats of a point differ by is how fast its devices happened to be, and a trial tells that itself: its
stages took longer. So what is measured is split in two. How it relates to what the stages of the same trial took is
nearly the same in every repeat: three say it to a percent. What the stages take at the usual speed all trials of all
configurations tell together (see `stage_levels`). An estimate is the one applied to the other.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pplib.analysis.estimated.robust_mean import Counts, robust_means, robust_scale
from pplib.analysis.estimated.stage_levels import HashedTrials, StageLevels, remembered_levels
from pplib.analysis.repeats import POINT_KEYS, Numbers, Repeats, point_name, repeats_by_configuration
from pplib.analysis.statistics import CONFIGURATION_KEYS, sorted_trials, spread
from pplib.errors import FrameError

FAR = 300.0
"""A logarithm of what is as good as nothing known: two repeats of one point say little."""

AS_MEASURED, PATH, CYCLE = "as measured", "path", "cycle"
"""What a column may follow: nothing; one microbatch's way through all stages; the time from one to the next."""


@dataclass(frozen=True)
class Estimates:
    """The points of one configuration, in the model's order.

    Attributes:
        points: their repeats, as measured.
        columns: what is estimated.
        follows: for each column what its repeats were divided by to agree best: AS_MEASURED, PATH or CYCLE.
        values: (points, columns) at the usual speed; NaN without a repeat.
        draws: (resamples, points, columns) what another sweep might have found; NaN without a repeat.
        freedom: the repeats beyond the first of each point, over all points; 0: how sure the values are is not known.
        apart, apart_corrected: for each column the median over points of (largest - smallest) / median of the repeats,
            as measured and divided.
    """

    points: list[Repeats]
    columns: tuple[str, ...]
    follows: tuple[str, ...]
    values: Numbers
    draws: Numbers
    freedom: float
    apart: tuple[float, ...]
    apart_corrected: tuple[float, ...]

    @property
    def keys(self) -> dict[str, Any]:
        """What names the configuration."""
        return {key: self.points[0].keys[key] for key in CONFIGURATION_KEYS}


def together(found: Sequence[Estimates], keys: Sequence[str]) -> list[Estimates]:
    """The points of configurations that are equal in `keys` as those of one; their draws belong together.

    `apart` and `apart_corrected` are those of the first.
    """
    groups: dict[str, list[Estimates]] = {}
    for one in found:
        groups.setdefault(str([one.keys[key] for key in keys]), []).append(one)
    return [
        replace(
            group[0],
            points=[point for one in group for point in one.points],
            values=np.concatenate([one.values for one in group]),
            draws=np.concatenate([one.draws for one in group], axis=1),
            freedom=min(one.freedom for one in group),
        )
        for group in groups.values()
    ]


def points_of_both(first: Estimates, second: Estimates) -> tuple[Counts, Counts]:
    """The places, in either, of the points that both have repeats of, in the order of the first."""
    place = {point.keys["partition_label"]: i for i, point in enumerate(second.points) if point.count}
    labels = [(i, point.keys["partition_label"]) for i, point in enumerate(first.points) if point.count]
    pairs = np.array([(i, place[label]) for i, label in labels if label in place], dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def estimates(summary: pd.DataFrame, columns: Sequence[str], resamples: int = 2000, seed: int = 0) -> list[Estimates]:
    """The estimates of every configuration.

    All is done in logarithms: times and rates differ by factors. Each repeat is divided by what the stages of its own
    trial say, if that makes the repeats of a point predict each other better, and their robust mean multiplied by what
    the stages say at their usual speed. The residuals of all points of a configuration are pooled, the columns of a
    trial together, and drawn again for every repeat; the draws of the stages' levels are common to all configurations.
    Columns that hold no positive numbers are taken as they are.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        columns: measured ones.
        resamples: drawn per configuration.
        seed: the same seed gives the same draws.

    Raises:
        FrameError: a column is missing or holds no numbers, or an argument makes no sense.

    Source: ratio estimation with a known level, Cochran, Sampling Techniques (1977), chapter 6; the residual bootstrap
    of Efron and Tibshirani (1993), chapter 9. That latency follows the path and throughput the cycle is this project's
    own, and is judged by how well repeats predict each other.
    """
    if not columns:
        raise FrameError("columns: expected at least one, such as 'latency_s', got none")
    if resamples < 1:
        raise FrameError(f"resamples: expected 1 or more, got {resamples}")
    if seed < 0:
        raise FrameError(f"seed: expected 0 or more, got {seed}")
    return _remembered(HashedTrials(sorted_trials(summary)), tuple(columns), resamples, seed)


@functools.lru_cache(maxsize=16)
def _remembered(summary: HashedTrials, columns: tuple[str, ...], resamples: int, seed: int) -> list[Estimates]:
    trials = summary.trials
    levels = remembered_levels(summary, resamples, seed)
    parts = _parts(trials, levels)
    more = pd.DataFrame(parts, index=trials.index)  # at once: one by one they fragment a frame of many columns
    found = repeats_by_configuration(pd.concat([trials, more], axis=1), [*columns, *parts])
    return [_estimated(points, columns, levels, resamples, seed) for points in found]


class _Own(NamedTuple):
    """The columns that a trial gets beside what it measured."""

    stages: Numbers  # (trials, stages) seconds; 0 where there is no such stage
    hops: Numbers  # (trials,) seconds over all hops
    back: Numbers  # (trials,) seconds from the last stage to the first
    in_flight: Numbers
    cell: Counts

    def follow(self, what: str) -> Numbers:
        """The logarithm of what a column follows."""
        if what == AS_MEASURED:
            return np.zeros(self.stages.shape[:-1])
        path = self.stages.sum(axis=-1) + self.hops
        if what == PATH:
            return np.asarray(np.log(np.maximum(path, 1e-12)))
        cycle = np.maximum(self.stages.max(axis=-1), (path + self.back) / self.in_flight)
        return np.asarray(np.log(np.maximum(cycle, 1e-12)))


def _parts(trials: pd.DataFrame, levels: StageLevels) -> dict[str, Numbers]:
    def seconds(name: str) -> Numbers:
        if name not in trials.columns:
            return np.zeros(len(trials))
        return np.asarray(
            np.nan_to_num(pd.to_numeric(trials[name], errors="coerce").to_numpy(dtype=np.float64)), dtype=np.float64
        )

    stages = levels.log_s.shape[1]
    hops = [f"hop{i}_{part}_s" for i in range(stages) for part in ("encode", "transfer", "decode")]
    hops = [name for name in hops if name in trials.columns]
    in_flight = np.asarray(np.maximum(seconds("in_flight"), 1.0), dtype=np.float64)
    own = {f"own stage {i}": seconds(f"stage{i}_compute_s") for i in range(stages)}
    own["own hops"] = np.asarray(sum((seconds(name) for name in hops), np.zeros(len(trials))))
    return {
        **own,
        "own back": seconds("return_transfer_s"),
        "own depth": in_flight,
        "own cell": levels.cell.astype(np.float64),
    }


def _estimated(
    points: list[Repeats], columns: tuple[str, ...], levels: StageLevels, resamples: int, seed: int
) -> Estimates:
    count, width, stages = len(points), len(columns), levels.log_s.shape[1]
    raw = np.concatenate([one.values[:, :width] for one in points])
    more = np.concatenate([one.values[:, width:] for one in points])
    hops, back, in_flight, cell = more[:, stages:].T
    own = _Own(more[:, :stages], hops, back, in_flight, cell.astype(np.int64))
    repeats = np.array([one.count for one in points])
    at = np.repeat(np.arange(count), repeats)
    there = np.flatnonzero(repeats).tolist()
    freedom = float(np.maximum(repeats - 1, 0).sum())
    positive = np.asarray((raw > 0).all(axis=0))
    y = np.where(positive, np.log(np.where(positive, raw, 1.0)), raw)
    timed = bool(stages) and len(own.cell) > 0 and bool(np.isfinite(levels.log_s[own.cell]).any(axis=1).all())
    signs = [_sign(name) if timed and is_log else 0 for name, is_log in zip(columns, positive, strict=True)]
    follows = tuple(_follows(y[:, j], sign, own, at, repeats) for j, sign in enumerate(signs))
    y = y - np.stack([sign * own.follow(what) for sign, what in zip(signs, follows, strict=True)], axis=-1)
    scale = robust_scale(y, at, repeats, freedom)
    usual = np.full((count, width), np.nan)
    draws = np.full((resamples, count, width), np.nan)
    middle = np.full((count, width), np.nan)
    for i in there:
        middle[i] = robust_means(y[at == i][None], scale)[0]
    left = (y - middle[at])[repeats[at] > 1] if freedom > 0 else np.zeros((1, width))
    left = left * np.sqrt(len(left) / max(freedom, 1.0))
    drawn = np.random.default_rng([seed, zlib.crc32(_name(points).encode())])
    # As of Student's distribution: the pooled spread is itself known from so many residuals only.
    stretch = np.sqrt(freedom / drawn.chisquare(freedom, size=resamples))[:, None] if freedom > 0 else np.nan
    for i in there:
        mine, cell = at == i, int(own.cell[at == i][0])
        then = _at_level(own, mine, levels.log_s[cell])
        drawn_then = _at_level(own, mine, levels.draws[:, cell])
        usual[i] = middle[i] + [sign * then(what) for sign, what in zip(signs, follows, strict=True)]
        picked = robust_means(left[drawn.integers(0, len(left), size=(resamples, repeats[i]))], scale)
        moved = np.stack([sign * drawn_then(what) for sign, what in zip(signs, follows, strict=True)], axis=-1)
        draws[:, i] = middle[i] + stretch * picked + moved

    def as_measured(values: Numbers) -> Numbers:
        return np.where(positive, np.exp(np.clip(np.where(positive, values, 0.0), -FAR, FAR)), values)

    corrected = as_measured(y)
    return Estimates(
        points=[Repeats(one.keys, one.values[:, :width]) for one in points],
        columns=columns,
        follows=follows,
        values=as_measured(usual),
        draws=as_measured(draws),
        freedom=freedom,
        apart=tuple(_apart([raw[at == i, j] for i in there]) for j in range(width)),
        apart_corrected=tuple(_apart([corrected[at == i, j] for i in there]) for j in range(width)),
    )


def _sign(column: str) -> int:
    """How a column changes with the time that stages take: with it, against it, or not."""
    return -1 if column.endswith("_img_s") else 1 if column.endswith("_s") else 0


def _at_level(own: _Own, mine: Numbers, log_s: Numbers) -> Callable[[str], Numbers]:
    """What the stages of one point say at the levels `log_s`, of shape (..., stages), over its usual hops."""
    stages = np.exp(np.where(np.isfinite(log_s), log_s, -np.inf))
    hops, back, in_flight = (np.asarray(np.median(one[mine])) for one in (own.hops, own.back, own.in_flight))
    return _Own(stages, hops, back, in_flight, own.cell).follow


def _follows(y: Numbers, sign: int, own: _Own, at: Counts, repeats: Counts) -> str:
    """What makes the repeats of a point predict each other best."""
    several = repeats[at] > 1
    if not sign or not several.any():
        return AS_MEASURED

    def error(what: str) -> float:
        left = y - sign * own.follow(what)
        means = np.bincount(at, left, minlength=len(repeats)) / np.maximum(repeats, 1)
        return float(np.abs((left - means[at]) / (1 - 1 / np.maximum(repeats[at], 2)))[several].mean())

    return min((AS_MEASURED, PATH, CYCLE), key=error)


def _apart(groups: Sequence[Numbers]) -> float:
    return float(pd.Series([spread(pd.Series(one)) for one in groups], dtype="float64").median())


def _name(points: Sequence[Repeats]) -> str:
    return point_name({**points[0].keys, **dict.fromkeys(set(POINT_KEYS) - set(CONFIGURATION_KEYS))})
