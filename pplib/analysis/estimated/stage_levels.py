"""What every stage takes at the usual speed of its device, from all trials that ran it: a sum over the model's units.

The two stages of a cut, and the stages of all cuts, run the same units: what stage 0 of P7 takes, stage 1 of P7 does
not. So the logarithm of a stage's time is that of the sum of its units, plus the speed of its device in that
configuration, plus what this stage is off that sum (devices are unlike, a cut undoes a fusion), plus what it is off
in this configuration alone (memory that two busy stages share), plus noise. How large both last ones are the trials
themselves decide (restricted maximum likelihood): on two equal devices a cut is known from the trials of all cuts, on
two that have nothing in common from its own.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from pplib.analysis.estimated.drift import Drift, drift_of
from pplib.analysis.estimated.robust_mean import Counts, robust_means, robust_scale
from pplib.analysis.repeats import Numbers
from pplib.analysis.required_columns import numeric_column
from pplib.analysis.statistics import CONFIGURATION_KEYS, partition_key

SHARED = ("backend", "link", "wire", "in_flight", "setup")
"""Configurations that differ in these alone run the same stages, if what they run on is `ALIKE`."""

ALIKE = ("cpu", "gpu", "torch", "device_torch_devices", "device_threads", "model_sha256")
"""What is equal then. Devices of another name or `slowdown` have another speed: that is of all units alike."""

OFF = (0.0005, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.4)
"""Standard deviations, as shares, that are tried for how far stages are off the sum of their units."""

SMALL = 0.05
"""Of a stage that takes a smaller share of its trial than this, the time is mostly noise: it counts less."""

DRAWN = 2000
"""Robust means that are drawn to see how far they lie apart."""

_UNITS_PRIOR = 3.0  # units' times differ by some powers of e
_SPEED_PRIOR = 10.0
_STEPS = 20
_OFF_FIRST = 0.02


@dataclass(frozen=True)
class StageLevels:
    """The stages of a summary at their usual speed.

    Attributes:
        cell: (trials,) the number of each trial's configuration and point.
        log_s: (cells, stages) logarithms of seconds; NaN where no trial has such a time.
        draws: (resamples, cells, stages) what they may be; NaN likewise, and where nothing was repeated.
        off_units: by family of configurations, how far stages are off the sum of their units: a standard deviation, as
            a share, the mean over what is likely.
        off_configuration: likewise how far a configuration's stages are off those of the others.
        configuration: (trials,) the number of each trial's configuration.
        speed_log_s: (configurations, stages) how long each device takes for the same units, as a logarithm; only
            differences within a configuration, and between those of the same devices, mean anything. NaN as above.
        speed_draws: (resamples, configurations, stages) what they may be.
        drift_error: by stage, how far a trial's time is off what those near it say: a share, with drift and without.
    """

    cell: Counts
    log_s: Numbers
    draws: Numbers
    off_units: tuple[float, ...]
    off_configuration: tuple[float, ...]
    configuration: Counts
    speed_log_s: Numbers
    speed_draws: Numbers
    drift_error: tuple[tuple[float, float], ...]


class HashedTrials:
    """Trials that are equal where their contents are: a report asks for the same estimates many times."""

    def __init__(self, trials: pd.DataFrame) -> None:
        self.trials = trials
        rows = pd.util.hash_pandas_object(trials).to_numpy()  # 64 bits of each
        self._content = tuple(trials.columns), rows.tobytes()

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashedTrials) and self._content == other._content


@functools.lru_cache(maxsize=16)
def remembered_levels(trials: HashedTrials, resamples: int, seed: int) -> StageLevels:
    """See `stage_levels`."""
    return stage_levels(trials.trials, resamples, seed)


class _Rows(NamedTuple):
    """One row for each stage of each configuration and point that was measured."""

    cell: Counts
    stage: Counts
    mean: Numbers  # of the logarithms of its times, drift taken out
    variance: Numbers  # of that mean
    freedom: float
    designs: tuple[Numbers, Numbers, Numbers]  # units in it, its device's speed, itself


class _Fit(NamedTuple):
    """The stages as they are if two standard deviations are these."""

    off_units: float
    off_configuration: float
    likelihood: float  # twice its logarithm, but for a constant
    values: Numbers  # of the rows, without what is their configuration's alone
    speeds: Numbers  # of each configuration's devices
    design: Numbers
    inverse: Numbers  # the covariance of the parameters


def stage_levels(trials: pd.DataFrame, resamples: int, seed: int) -> StageLevels:
    """The levels of all stages.

    Args:
        trials: one row per trial, sorted, the columns of `summary.csv`.
        resamples: drawn.
        seed: the same seed gives the same draws.

    Raises:
        FrameError: a column holds no numbers.

    Source: mixed models, their best linear predictor and restricted likelihood, as in Searle, Casella and McCulloch,
    Variance Components (1992); that a stage is the sum of its units is this project's own premise, and is judged.
    """
    first = _stage_levels(trials, drift_of(trials), 0, seed)  # from repeats of points; then from all trials
    return _stage_levels(trials, drift_of(trials, first.log_s[first.cell]), resamples, seed)


def _stage_levels(trials: pd.DataFrame, drift: Drift, resamples: int, seed: int) -> StageLevels:
    """The levels, given the drift."""
    cell = trials.groupby([*CONFIGURATION_KEYS, "partition_point"], dropna=False, sort=False).ngroup().to_numpy()
    stages = sum(f"stage{i}_compute_s" in trials.columns for i in range(trials.shape[1]))
    count = int(cell.max(initial=-1)) + 1
    log_s, draws = np.full((count, stages), np.nan), np.full((resamples, count, stages), np.nan)
    configuration = trials.groupby(CONFIGURATION_KEYS, dropna=False, sort=False).ngroup().to_numpy()
    wide = int(configuration.max(initial=-1)) + 1
    speed_log_s, speed_draws = np.full((wide, stages), np.nan), np.full((resamples, wide, stages), np.nan)
    off_units, off_configuration = [], []
    if stages:
        times = np.stack([numeric_column(trials, f"stage{i}_compute_s", "the summary") for i in range(stages)], axis=1)
        there = times > 0
        logs = np.log(np.where(there, times, 1.0)) - np.where(np.isfinite(drift.log_s), drift.log_s, 0.0)
        ok = (trials["status"] == "ok").to_numpy(dtype=bool) & there.any(axis=1)
        shared = [key for key in CONFIGURATION_KEYS if key not in SHARED]
        told = ALIKE if "cpu" in trials.columns else ("setup", "device_names", "devices")
        shared += [name for name in told if name in trials.columns]
        for family in trials[ok].groupby(shared, dropna=False, sort=False).groups.values():
            mine = np.flatnonzero(trials.index.isin(family))
            used = np.flatnonzero(there[mine].any(axis=0))
            mine = mine[there[np.ix_(mine, used)].all(axis=1)]
            if not len(mine):
                continue
            rows = _rows(trials.iloc[mine], cell[mine], logs[np.ix_(mine, used)], times[np.ix_(mine, used)])
            if rows.freedom <= 0:  # noise is not known: each stage is what it was
                log_s[rows.cell, used[rows.stage]] = rows.mean
                continue
            fits = _fits(rows)
            drawn = np.random.default_rng([seed, zlib.crc32(str(trials.iloc[mine[0]][shared].tolist()).encode())])
            likely = np.exp([0.5 * (one.likelihood - max(fit.likelihood for fit in fits)) for one in fits])
            likely /= likely.sum()
            level, drawings, speed, speeds = _levels(rows, fits, likely, resamples, drawn)
            log_s[rows.cell, used[rows.stage]], draws[:, rows.cell, used[rows.stage]] = level, drawings
            each = np.unique(configuration[mine])
            speed_log_s[np.ix_(each, used)] = speed.reshape(len(each), len(used))
            speed_draws[np.ix_(np.arange(resamples), each, used)] = speeds.reshape(resamples, len(each), len(used))
            off_units.append(float(likely @ [one.off_units for one in fits]))
            off_configuration.append(float(likely @ [one.off_configuration for one in fits]))
    offs = tuple(off_units), tuple(off_configuration)
    return StageLevels(cell, log_s, draws, *offs, configuration, speed_log_s, speed_draws, drift.error)


def _rows(trials: pd.DataFrame, cell: Counts, logs: Numbers, times: Numbers) -> _Rows:
    stages = logs.shape[1]
    cells, at = np.unique(cell, return_inverse=True)
    first = np.array([int(np.flatnonzero(at == one)[0]) for one in range(len(cells))])
    repeats = np.bincount(at)
    cuts = [partition_key(point)[: stages - 1] for point in trials["partition_point"].iloc[first]]
    configuration = trials.iloc[first].groupby(CONFIGURATION_KEYS, dropna=False, sort=False).ngroup().to_numpy()
    freedom = float((repeats - 1).sum())
    scale = robust_scale(logs, at, repeats, freedom)
    mean = np.stack([robust_means(logs[at == one][None], scale)[0] for one in range(len(cells))])
    variance = np.zeros((len(cells), stages))
    left = (logs - mean[at])[repeats[at] > 1] * np.sqrt((repeats[at] > 1).sum() / max(freedom, 1.0))
    for number in np.unique(repeats).tolist() if len(left) else ():
        picked = np.random.default_rng(0).integers(0, len(left), size=(DRAWN, number))
        variance[repeats == number] = np.maximum(robust_means(left[picked], scale).var(axis=0), 1e-8)
    share = np.stack([np.median(one, axis=0) for one in (times[at == i] for i in range(len(cells)))])
    share /= share.sum(axis=1, keepdims=True)
    edges = sorted({-1, *itertools.chain.from_iterable(cuts)})
    empty = any(a == b for cut in cuts for a, b in itertools.pairwise(cut))
    units = np.zeros((len(cells), stages, len(edges) + empty))  # what a stage of no unit takes is one of its own
    names: list[list[tuple[int, int, int]]] = []
    for one, cut in enumerate(cuts):
        bounds = [0, *(edges.index(point) for point in cut), len(edges)]
        for i, (begin, end) in enumerate(itertools.pairwise(bounds)):
            units[one, i, slice(begin, end) if begin < end else -1] = 1.0
        names.append([(i, *pair) for i, pair in enumerate(itertools.pairwise(bounds))])
    flat = [name for one in names for name in one]
    itself = {name: i for i, name in enumerate(sorted(set(flat)))}
    speed = configuration[:, None] * stages + np.arange(stages)
    return _Rows(
        cell=np.repeat(cells, stages),
        stage=np.tile(np.arange(stages), len(cells)),
        mean=mean.ravel(),
        variance=(variance / np.clip(share / SMALL, 1e-3, 1.0)).ravel(),
        freedom=freedom,
        designs=(
            units.reshape(len(cells) * stages, -1),
            np.eye(int(speed.max()) + 1)[speed.ravel()],
            np.eye(len(itself))[[itself[name] for name in flat]],
        ),
    )


def _fits(rows: _Rows) -> list[_Fit]:
    """The fit for each pair of standard deviations, about one solution of the sum, which is no linear one."""
    units, speed, itself = rows.designs
    sizes = [one.shape[1] for one in rows.designs]
    kinds = np.repeat([0, 1, 2], sizes)
    start = np.array([np.log(1 / sizes[0]), float(np.average(rows.mean, weights=1 / rows.variance)), 0.0])[kinds]

    def solved(values: Numbers, off: float, off_configuration: float) -> tuple[Numbers, _Fit]:
        """The parameters of the linear problem about `values`."""
        costs = np.exp(values[: sizes[0]])
        whole = units @ costs
        design = np.hstack([units * costs / whole[:, None], speed, itself])
        target = rows.mean - np.log(whole) + design[:, : sizes[0]] @ values[: sizes[0]]
        weight = 1 / (rows.variance + off_configuration**2)
        prior = np.array([_UNITS_PRIOR, _SPEED_PRIOR, off])[kinds] ** -2.0
        precision = design.T @ (design * weight[:, None]) + np.diag(prior)
        inverse = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        found = np.asarray(inverse @ (design.T @ (weight * target) + prior * start), dtype=np.float64)
        left = target - design @ found
        likelihood = np.log(weight).sum() + np.log(prior).sum() - np.linalg.slogdet(precision)[1]
        likelihood -= (weight * left**2).sum() + (prior * (found - start) ** 2).sum()
        speeds = found[sizes[0] : sizes[0] + sizes[1]]
        return found, _Fit(off, off_configuration, float(likelihood), rows.mean - left, speeds, design, inverse)

    values = start
    for _ in range(_STEPS):
        change = np.clip(solved(values, _OFF_FIRST, _OFF_FIRST)[0] - values, -1.0, 1.0)
        values = values + change
        if np.abs(change).max() < 1e-5:
            break
    return [solved(values, *pair)[1] for pair in itertools.product(OFF, OFF)]


def _levels(
    rows: _Rows, fits: list[_Fit], likely: Numbers, resamples: int, drawn: np.random.Generator
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Of each row the level and its draws: what all say, and as much of its own as noise alone would not make; and of
    each configuration's devices the speed and its draws.

    How far stages are off is not known for certain either: each fit has as many draws as it is likely.
    """
    level, draws = np.zeros(len(rows.mean)), []
    units, devices = rows.designs[0].shape[1], rows.designs[1].shape[1]
    speed, speeds = np.zeros(devices), []
    for one, share, count in zip(fits, likely, drawn.multinomial(resamples, likely), strict=True):
        own = one.off_configuration**2 / (one.off_configuration**2 + rows.variance)
        middle = one.values + own * (rows.mean - one.values)
        level += share * middle
        factor = np.linalg.cholesky(one.inverse + 1e-12 * np.eye(len(one.inverse)))
        moved = drawn.normal(size=(count, len(one.inverse))) @ factor.T
        common = moved @ one.design.T
        alone = drawn.normal(size=common.shape) * np.sqrt(own * rows.variance)
        stretch = np.sqrt(rows.freedom / drawn.chisquare(rows.freedom, size=count))[:, None]
        draws.append(middle + stretch * ((1 - own) * common + alone))
        speed += share * one.speeds
        speeds.append(one.speeds + stretch * moved[:, units : units + devices])
    order = drawn.permutation(resamples)
    return level, np.concatenate(draws)[order], speed, np.concatenate(speeds)[order]
