"""How the front moves: from link to link, one panel per link, and from run to run, one per configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from pplib.analysis.repeats import point_name
from pplib.analysis.robust import on_several_links, stays_on_front
from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.columns import OBJECTIVES
from pplib.errors import FrameError
from pplib.view.charts.front import front_panel, prepared_points, series_title
from pplib.view.layout.series import Panel, labels_in_order, palette, panels

_TONES = ("#0072b2", "#d55e00")
_SHAPES = ("circle", "diamond")


def fronts_by_link_chart(
    points: pd.DataFrame,
    objectives: Sequence[str] | Mapping[str, str] = tuple(OBJECTIVES),
    width: int = 360,
    height: int = 300,
    columns: int = 3,
) -> alt.TopLevelMixin:
    """The fronts of the same configurations over several links, side by side.

    The link that is best for the median point comes first. Every panel has its own axes: links differ by
    orders of magnitude, and what is compared is which points are on the front. Colour is backend and
    in-flight depth; a ring marks the points that are on the front of their configuration on every link.
    What was measured on one link only is left out.

    Args:
        points: one row per configuration and point, see `point_table`; two links or more.
        objectives: two columns; a mapping gives their directions, else the column's usual one.
        width: of a panel, pixels.
        height: of a panel, pixels.
        columns: panels in a row.

    Raises:
        FrameError: one link only, or as `front_chart`.
    """
    several = on_several_links(points)
    if several.empty and not points.empty:
        raise FrameError(
            f"the table of points: links {sorted(points['link'].astype('str').unique())}: expected a configuration "
            "that was measured on two or more"
        )
    frame, measures = prepared_points(several, objectives)
    frame["ringed"] = stays_on_front(frame)
    colours = palette(frame)
    smaller_is_better = bool(frame["stairs"].iloc[0] == "step-after")
    order = list(frame.groupby("link")["x"].median().sort_values(ascending=smaller_is_better, kind="stable").index)
    models = list(dict.fromkeys(frame["model"]))
    found = sorted(
        panels(frame),
        key=lambda one: (models.index(one.rows["model"].iloc[0]), order.index(one.rows["link"].iloc[0])),
    )
    drawn = [front_panel(one, measures, width, height, colours, label_all=False) for one in found]
    title = alt.TitleParams(
        "How the front moves",
        subtitle=_rings(frame),
        anchor="start",
        fontSize=15,
        subtitleFontSize=12,
        offset=12,
    )
    chart: alt.ConcatChart = alt.concat(*drawn, columns=columns).properties(title=title)
    return chart


def _rings(frame: pd.DataFrame) -> list[str]:
    """What the rings mean, and a line for every configuration that has some."""
    stays = frame[frame["ringed"]].drop_duplicates(["model", "series", "partition_label"])
    if stays.empty:
        return ["No point is on the front of its configuration on every link."]
    several = frame["model"].nunique() > 1
    lines = []
    for (model, series), rows in stays.groupby(["model", "series"], sort=False):
        lines.append(f"{f'{model}, ' if several else ''}{series}: {', '.join(labels_in_order(rows))}")
    return ["Ringed: on the front of its configuration on every link.", *lines]


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
