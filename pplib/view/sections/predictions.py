"""How good the predictions were: in sentences, a chart and a table."""

from __future__ import annotations

import pandas as pd

from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.columns import quantity
from pplib.planner.prediction_errors import by_configuration, front_quality, prediction_errors
from pplib.view.planned.predicted_chart import predicted_chart
from pplib.view.section import Section
from pplib.view.tables import configuration_columns
from pplib.view.words.differences import percent

_TITLE = "Predicted and measured"
_NONE = (
    "Nothing was predicted of these cuts. `partition_points: plan` predicts them and measures those that may matter; "
    "`paretopipe plan predict GRID.yaml` predicts all cuts of a grid from profiles of its devices."
)
_SEEN = (
    "Each cut was predicted before it was measured: by profiles of devices and hops, and in a plan, from its second "
    "round on, by what trials of other cuts had found. Noise is what the mean error would be if the predictions were "
    "true, by the intervals of what was measured. On the line of the chart a prediction is right; bars are intervals "
    "of 95 %."
)


def predictions_section(points: pd.DataFrame, indifference: float) -> Section:
    """The errors of the predictions of every configuration that has such.

    Args:
        points: one row per configuration and cut, see `point_estimates`.
        indifference: what difference between two cuts does not matter, as a share.
    """
    found = by_configuration(points)
    if not found:
        return Section(_TITLE, _NONE)
    rows, told = [], list[str]()
    for keys, mine in found:
        for one in prediction_errors(mine):
            label, share = one.worst
            rows.append(
                {
                    **keys,
                    "quantity": quantity(one.column).name,
                    "predicted from": one.of,
                    "cuts": one.cuts,
                    "mean error": percent(one.mape),
                    "noise": percent(one.noise) if one.noise == one.noise else "-",
                    "common factor": f"{one.common:.3f}",
                    "mean error without": percent(one.mape_apart),
                    "worst": f"{label} {share:+.0%}",
                    "in the interval": f"{one.inside:.0%}",
                }
            )
        if (front := front_quality(mine, indifference)) is not None:
            told.append(
                f"{_named(keys, points)}: all cuts were measured: the {front.cuts} on the predicted front have "
                f"{percent(front.hypervolume)} of the hypervolume of the measured one, and {percent(front.recall)} of "
                "its cuts, or one as good"
            )
        elif (mine.get("plan_round", pd.Series(dtype=float)) > 0).any():
            told.append(
                f"{_named(keys, points)}: the plan measured {len(mine)} of {mine['predicted_cuts'].max():.0f} cuts in "
                f"{mine['plan_round'].max():.0f} rounds"
            )
    shown = pd.DataFrame(rows)
    kept = configuration_columns(points)
    table = shown[[*(one for one in shown.columns if one in kept or one not in CONFIGURATION_KEYS)]]
    text = "\n\n".join([_SEEN, "\n".join(f"- {one}." for one in told)])
    return Section(_TITLE, text, predicted_chart(pd.concat([mine for _, mine in found])), table, "predicted")


def _named(keys: dict[str, object], points: pd.DataFrame) -> str:
    """What tells a configuration from the others."""
    names = [name for name in configuration_columns(points) if name in keys]
    return ", ".join(f"{name} {keys[name]}" for name in names) or str(keys["model"])
