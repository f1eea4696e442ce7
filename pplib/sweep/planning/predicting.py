"""Predict every cut of a grid, and say how good that was where it has been measured."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.config import Configuration
from pplib.errors import PartitionError
from pplib.model.points import combinations
from pplib.planner.device_plans import MOST_CUTS, promising_cuts
from pplib.planner.pipeline_parts import Pipeline
from pplib.planner.plan_quality import predicted_front
from pplib.planner.prediction import predict_cuts
from pplib.planner.prediction_errors import PredictionError, prediction_errors
from pplib.sweep.planning.profiling import ProfiledConfiguration
from pplib.sweep.results import has_trials, read_predictions, summary_frame, write_predictions


def cuts_to_look_at(pipeline: Pipeline, seed: int) -> list[tuple[int, ...]]:
    """Every cut of a pipeline whose stages fit their devices; of more than `MOST_CUTS`, those that may be on its front.

    Raises:
        PartitionError: none fits.
    """
    units, stages = len(pipeline.activation_bytes) - 1, len(pipeline.stages)
    few = math.comb(max(0, units - 1), stages - 1) <= MOST_CUTS
    cuts = combinations(units, stages) if few else promising_cuts(pipeline, seed)
    if fitting := [cut for cut in cuts if pipeline.fits(cut)]:
        return fitting
    names = ", ".join(stage.name for stage in pipeline.stages)
    raise PartitionError(
        f"no cut fits: the memory of {names} has no room for the weights, wherever the model is cut: add a device, or "
        "make weights smaller with `precision`"
    )


def predicted(one: ProfiledConfiguration, seed: int = 0) -> pd.DataFrame:
    """The cuts of a configuration, from profiles alone: see `predict_cuts`; and `predicted_on_front`.

    They are kept beside its trials, unless a plan has kept its own there.

    Raises:
        OutputError: they cannot be written, or what is there cannot be read.
        PartitionError: no cut fits.
    """
    config = one.config
    cuts = cuts_to_look_at(one.pipeline, seed)
    table = predict_cuts(one.pipeline, cuts, seed=seed)
    before = read_predictions(config.folder)
    if before is None or before["plan_round"].isna().all():
        write_predictions(config.folder, table.assign(plan_round=np.nan))
    return table.assign(predicted_on_front=predicted_front(table, config.indifference))


def errors(table: pd.DataFrame, config: Configuration) -> list[PredictionError]:
    """How far a configuration's predictions are off; none where it was not measured.

    Measured is what `point_estimates` makes of the trials of its sweep, at the usual speed of the devices.

    Args:
        table: see `predicted`.
        config: whose sweep is looked for.

    Raises:
        OutputError: a record of it is damaged.
    """
    if not has_trials(config.folder):
        return []
    points = point_estimates(summary_frame(config.folder))
    points = points[[name for name in points.columns if not name.startswith(("predicted_", "plan_"))]]
    return prediction_errors(points.merge(table, on="partition_label"))
