"""Predict every cut of a grid, and say how good that was where it has been measured."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.pareto import front_masks
from pplib.columns import OBJECTIVES
from pplib.config import Configuration, project_path
from pplib.files.csv_text import to_csv
from pplib.model.points import combinations
from pplib.plan.profiling import ProfiledConfiguration
from pplib.planner.prediction import predict_cuts
from pplib.records import write_atomic
from pplib.sweep.results import summary_frame, trial_files

FOLDER = "predictions"  # in the folder of outputs
_DRAWN = 200_000  # draws of a configuration: fewer for each cut where it has many


class Error(NamedTuple):
    """How far predictions of one configuration are from what was measured.

    Attributes:
        column: latency_s, response_s or throughput_img_s.
        mape: mean of |predicted - measured| / measured.
        common: the factor that all of them are off by: predicted over measured, their median; how fast the devices were
            while they were profiled, against how fast they were in the sweep, is in it.
        mape_apart: the mean error without that.
        worst: the cut that is furthest off, and by what share, with its sign.
        inside: the share of cuts whose measured figure lies in the predicted interval.
        inside_apart: the same without the common factor.
        cuts: how many.
    """

    column: str
    mape: float
    common: float
    mape_apart: float
    worst: tuple[str, float]
    inside: float
    inside_apart: float
    cuts: int


def predicted(one: ProfiledConfiguration, seed: int = 0) -> pd.DataFrame:
    """Every cut of a configuration: what names it, see `predict_cuts`, and `predicted_on_front`.

    Raises:
        PartitionError: there are too many cuts.
    """
    cuts = combinations(len(one.pipeline.activation_bytes) - 1, one.config.num_stages)
    table = predict_cuts(one.pipeline, cuts, draws=max(2, min(200, _DRAWN // len(cuts))), seed=seed)
    signs = np.array([1.0 if way == "min" else -1.0 for way in OBJECTIVES.values()])
    values = table[[f"predicted_{name}" for name in OBJECTIVES]].to_numpy(dtype=np.float64)
    front = front_masks(values[None] * signs, one.config.indifference)[0][0]
    return table.assign(configuration=one.config.identity, predicted_on_front=front)


def keep_predictions(tables: list[pd.DataFrame], config: Configuration) -> Path:
    """Write the predictions of a grid as CSV, in `predictions/<name>.csv` of its folder of outputs.

    Raises:
        OutputError: it cannot be written.
    """
    path = project_path(config.output_dir) / FOLDER / f"{config.name}.csv"
    write_atomic(path, to_csv(pd.concat(tables, ignore_index=True)).encode())
    return path


def errors(table: pd.DataFrame, config: Configuration) -> list[Error]:
    """How far a configuration's predictions are off; none where it was not measured.

    Measured is what `point_estimates` makes of the trials of its sweep, at the usual speed of the devices. How noisy
    that is itself is in none of the figures.

    Args:
        table: see `predicted`.
        config: whose sweep is looked for.

    Raises:
        OutputError: a record of it is damaged.
    """
    if not trial_files(config.folder):
        return []
    points = point_estimates(summary_frame(config.folder))
    found = []
    for column in ("latency_s", "throughput_img_s"):
        both = table.merge(points[["partition_label", column]].dropna(), on="partition_label")
        if len(both):
            found.append(_error(both, column))
    return found


def _error(both: pd.DataFrame, column: str) -> Error:
    measured = both[column].to_numpy(dtype=np.float64)
    told, low, high = (both[f"predicted_{column}{end}"].to_numpy(dtype=np.float64) for end in ("", "_low", "_high"))
    off = np.log(told / measured)
    common = float(np.exp(np.median(off)))
    worst = int(np.abs(off).argmax())
    return Error(
        column,
        float(np.abs(told / measured - 1).mean()),
        common,
        float(np.abs(told / common / measured - 1).mean()),
        (str(both["partition_label"].iloc[worst]), float(told[worst] / measured[worst] - 1)),
        float(((low <= measured) & (measured <= high)).mean()),
        float(((low / common <= measured) & (measured <= high / common)).mean()),
        len(both),
    )
