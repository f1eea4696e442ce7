"""What `sweep.ipynb` does: it measures when it is run by itself; below the command it shows what that has measured."""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING

import pandas as pd

from pplib.config import Configuration, configuration
from pplib.sweep.results import read_cuts, summary_frame

if TYPE_CHECKING:
    from pplib.sweep.experiment import Experiment

MEASURED = "PARETOPIPE_MEASURED"  # of the environment: the command has measured


def cuts_frame(config: Configuration) -> pd.DataFrame:
    """The partition points of a configuration's model: index, label, name, and what crosses the cut.

    Raises:
        ParetoPipeError: as `prepare`, which finds them where no run has.
    """
    known = read_cuts(config) if os.environ.get(MEASURED) else None
    if known is not None:
        return known
    from pplib.sweep.experiment import points_frame  # and with it PyTorch: to show what was measured takes none

    return points_frame(_prepared(json.dumps(config.as_dict())))


def measured_trials(config: Configuration) -> pd.DataFrame:
    """One row per trial, after what was missing was measured; below the command there is no more to measure.

    Raises:
        ParetoPipeError: as `prepare` and `run_missing`.
    """
    if os.environ.get(MEASURED):
        return summary_frame(config.folder)
    from pplib.sweep.measuring.run import run_missing

    return run_missing(_prepared(json.dumps(config.as_dict())))


@functools.lru_cache(maxsize=1)
def _prepared(values: str) -> Experiment:
    from pplib.sweep.experiment import prepare

    return prepare(configuration(json.loads(values)), prove=False)
