"""What trials found of cuts, part by part, at the usual speed of the devices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.stage_levels import HashedTrials, remembered_levels
from pplib.analysis.required_columns import numeric_column
from pplib.analysis.statistics import partition_key, sorted_trials
from pplib.columns import ENERGY, PREDICTABLE

Array = NDArray[np.float64]
NOISE_SD = 0.05  # log-scale, of what was measured once: nothing tells how noisy it is
_DRAWN = 200  # of the stages' levels, and of the points' estimates
_Z = 1.96


class Measured(NamedTuple):
    """What was found of one quantity, by cut: log-scale standard deviations beside it; NaN where it was not found."""

    value: Array
    noise_sd: Array


class MeasuredCuts(NamedTuple):
    """Cuts of one configuration of which a trial succeeded.

    Attributes:
        points: each once.
        compute_s: of each stage.
        hop_s: of each hop, its `hop{i}_transfer_s`: what it is busy, and the link's delay.
        back_s: `return_transfer_s`.
        objectives: latency_s, response_s and throughput_img_s; and energy_per_image_j, where all trials have it.
    """

    points: list[tuple[int, ...]]
    compute_s: list[Measured]
    hop_s: list[Measured]
    back_s: Measured
    objectives: dict[str, Measured]


def measured_cuts(summary: pd.DataFrame, seed: int = 0) -> MeasuredCuts:
    """What the trials of one configuration found.

    Args:
        summary: its trials, one row each, the columns of `summary.csv`; those that failed do not count.
        seed: of the draws that say how sure it is.

    Raises:
        FrameError: a column is missing, or holds no numbers.
    """
    trials = sorted_trials(summary[summary["status"] == "ok"])  # as the estimates have them: levels are found once
    points = list(dict.fromkeys(partition_key(one) for one in trials["partition_point"]))
    if not points:
        nothing = Measured(np.zeros(0), np.zeros(0))
        return MeasuredCuts([], [], [], nothing, {})
    place = np.array([points.index(partition_key(one)) for one in trials["partition_point"]])
    levels = remembered_levels(HashedTrials(trials), _DRAWN, seed)
    cell = [levels.cell[place == i][0] for i in range(len(points))]
    stages = [
        _measured(np.exp(levels.log_s[cell, i]), levels.draws[:, cell, i].std(axis=0))
        for i in range(levels.log_s.shape[1])
    ]

    def repeated(name: str) -> Measured:
        logs = np.log(np.maximum(numeric_column(trials, name, "the summary").to_numpy(dtype=np.float64), 1e-9))
        count = np.bincount(place)
        level = np.array([np.median(logs[place == i]) for i in range(len(points))])
        free = max(1, len(logs) - len(points))
        spread = np.sqrt(((logs - level[place]) ** 2).sum() / free) if len(logs) > len(points) else np.nan
        return _measured(np.exp(level), spread / np.sqrt(count))

    energy = [ENERGY] if ENERGY in trials and numeric_column(trials, ENERGY, "the summary").gt(0).all() else []
    estimates = point_estimates(trials, resamples=_DRAWN, seed=seed, columns=["response_s", *energy])
    known = [partition_key(one) for one in estimates["partition_point"]]
    estimates = estimates.iloc[[known.index(one) for one in points]]
    objectives = {}
    for name in (*PREDICTABLE, *energy):
        value, low, high = (estimates[f"{name}{end}"].to_numpy(dtype=np.float64) for end in ("", "_low", "_high"))
        objectives[name] = _measured(value, np.log(high / low) / (2 * _Z))
    hops = [repeated(f"hop{i}_transfer_s") for i in range(len(stages) - 1)]
    return MeasuredCuts(points, stages, hops, repeated("return_transfer_s"), objectives)


def _measured(value: Array, noise_sd: Array) -> Measured:
    return Measured(value, np.where(np.isfinite(noise_sd) & (noise_sd > 0), noise_sd, NOISE_SD))
