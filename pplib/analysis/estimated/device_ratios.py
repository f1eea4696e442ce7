"""How much longer one device of a pipeline takes than another for the same work: the cuts tell, no benchmark does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pplib.analysis.estimated.stage_levels import HashedTrials, remembered_levels
from pplib.analysis.repeats import Numbers
from pplib.analysis.statistics import CONFIGURATION_KEYS, sorted_trials


@dataclass(frozen=True)
class DeviceRatio:
    """How many times as long as another a device takes for the same units, in one configuration.

    Attributes:
        keys: what names the configuration.
        device, against: their names.
        ratio: 1 where they are equal.
        draws: (resamples,) what another sweep might have found.
    """

    keys: dict[str, Any]
    device: str
    against: str
    ratio: float
    draws: Numbers


def device_ratios(summary: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> list[DeviceRatio]:
    """How much longer the devices of a pipeline take than its first, for the same units of the model.

    The cuts tell: what stage 0 of one cut runs, stage 1 of another does. Drift that the devices share is in none.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        resamples: drawn; none where nothing was repeated.
        seed: the same seed gives the same draws.

    Raises:
        FrameError: as `estimates`.
    """
    one = HashedTrials(sorted_trials(summary))
    levels, found = remembered_levels(one, resamples, seed), list[DeviceRatio]()
    for number in np.unique(levels.configuration).tolist():
        rows = one.trials[levels.configuration == number]
        keys = {key: rows[key].iloc[0] for key in CONFIGURATION_KEYS}
        names = str(rows["device_names"].iloc[0]).split(" + ") if "device_names" in rows.columns else []
        draws, value = levels.speed_draws[:, number], levels.speed_log_s[number]
        for i in range(1, len(names)):
            if np.isfinite(draws[:, [0, i]]).all():
                ratio, drawn = np.exp(value[i] - value[0]), np.exp(draws[:, i] - draws[:, 0])
                found.append(DeviceRatio(keys, names[i], names[0], float(ratio), drawn))
    return found
