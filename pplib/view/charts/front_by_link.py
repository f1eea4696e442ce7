"""How the front moves from link to link: one panel per link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

from pplib.analysis.robust import on_several_links, stays_on_front
from pplib.columns import OBJECTIVES
from pplib.errors import FrameError
from pplib.view.charts.front import front_panel, prepared_points
from pplib.view.layout.series import labels_in_order, palette, panels


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
