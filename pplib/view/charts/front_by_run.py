"""The fronts of two runs over each other: one panel per configuration, colour by run."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import pandas as pd

from pplib.analysis.repeats import point_name
from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.columns import OBJECTIVES
from pplib.errors import FrameError
from pplib.view.charts.front import front_panel, prepared_points, series_title
from pplib.view.layout.series import Panel, palette, panels

_TONES = ("#0072b2", "#d55e00")
_SHAPES = ("circle", "diamond")


def fronts_by_run_chart(
    runs: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]],
    changed: pd.DataFrame,
    objectives: Mapping[str, str] = OBJECTIVES,
    width: int = 440,
    height: int = 320,
    columns: int = 2,
) -> alt.TopLevelMixin:
    """What both runs measured, each configuration in a panel of its own, the marks as in `front_chart`.

    A ring marks a point that changed, in both runs. Panels have their own axes.

    Args:
        runs: name -> its points, see `point_estimates`, and its `front_probability`; two runs.
        changed: `POINT_KEYS` of the points that changed.
        objectives: two columns -> "min" or "max".
        width: of a panel, pixels.
        height: of a panel, pixels.
        columns: panels in a row.

    Raises:
        FrameError: not two runs, no configuration in both, or as `front_chart`.
    """
    if len(runs) != 2:
        raise FrameError(f"runs: a picture of fronts over each other needs two, got {list(runs)}")
    found = {name: prepared_points(*one[:1], objectives, one[1]) for name, one in runs.items()}
    measures = next(iter(found.values()))[1]
    frames = [frame.assign(run=name) for name, (frame, _) in found.items()]
    both = pd.concat(frames, ignore_index=True).drop(columns=["probability", "chance"], errors="ignore")
    where = pd.Series(_names(both.assign(partition_label="")), index=both.index)
    both = both[both["run"].groupby(where).transform("nunique") == 2]
    if both.empty:
        raise FrameError(f"the runs {' and '.join(runs)}: nothing to draw: no configuration was measured in both")
    both["ringed"] = pd.Series(_names(both), index=both.index).isin(_names(changed))
    order, _ = palette(both)
    found_panels = sorted(panels(both, CONFIGURATION_KEYS), key=lambda one: order.index(one.rows["series"].iloc[0]))
    drawn = [
        front_panel(
            Panel(series_title(one), one.rows.assign(series=one.rows["run"])),
            measures,
            width,
            height,
            (list(runs), list(_TONES)),
            label_all=False,
            shapes=_SHAPES,
            told=("run", "changed"),
        )
        for one in found_panels
    ]
    return drawn[0] if len(drawn) == 1 else alt.concat(*drawn, columns=columns)


def _names(frame: pd.DataFrame) -> list[str]:
    """What tells a point of a configuration from all others, the same in every table."""
    return [point_name({**row, "partition_point": None}) for row in frame.to_dict("records")]
