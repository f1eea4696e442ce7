"""Backends side by side: latency and throughput over the partition point."""

from __future__ import annotations

import altair as alt
import pandas as pd

from pplib.analysis.required_columns import numeric_column
from pplib.columns import OBJECTIVES, quantity
from pplib.errors import FrameError
from pplib.view.layout.series import Panel, bar_ends, label_axis, labels_in_order, palette, panels, with_series


def backend_chart(points: pd.DataFrame, width: int = 440, height: int = 220) -> alt.TopLevelMixin:
    """Latency and throughput over the partition point; one column per in-flight depth.

    Bars are intervals, or the range of repeats where there are none. Depths share the vertical axis, so that they can
    be compared. One block per model x link (and whatever else differs).

    Args:
        points: one row per configuration and point, see `point_table`.
        width: of a panel, pixels.
        height: of a panel, pixels.

    Raises:
        FrameError: a missing column, or nothing measured.
    """
    for name in OBJECTIVES:
        numeric_column(points, name, "the table of points")
    measured = points[points["latency_s"].notna()].reset_index(drop=True)
    if measured.empty:
        raise FrameError("the table of points: nothing to draw: no point has a latency_s")
    frame = with_series(measured)
    blocks = [_block(one, palette(frame), width, height) for one in panels(frame)]
    return blocks[0] if len(blocks) == 1 else alt.vconcat(*blocks)


def _block(panel: Panel, colours: tuple[list[str], list[str]], width: int, height: int) -> alt.VConcatChart:
    domain, tones = colours
    order = labels_in_order(panel.rows)
    depths = sorted(panel.rows["in_flight"].unique())
    rows = []
    for name in OBJECTIVES:
        measure = quantity(name)
        drawn = []
        for depth in depths:
            chosen = panel.rows[panel.rows["in_flight"] == depth]
            low, high = bar_ends(chosen, name)
            data = pd.DataFrame(
                {
                    "partition_label": chosen["partition_label"].astype("str"),
                    "series": chosen["series"],
                    "value": measure.shown(chosen[name]),
                    "low": measure.shown(low),
                    "high": measure.shown(high),
                }
            )
            data["rank"] = data["partition_label"].map(order.index)
            base = alt.Chart(data).encode(
                x=alt.X("partition_label:N", sort=order, title="partition point", axis=label_axis(order)),
                color=alt.Color(
                    "series:N",
                    scale=alt.Scale(domain=domain, range=tones),
                    legend=alt.Legend(title=None, orient="bottom", columns=4, labelLimit=300),
                ),
            )
            value = alt.Y("value:Q", title=measure.title, scale=alt.Scale(zero=True))
            tooltip = [
                alt.Tooltip("partition_label:N", title="partition point"),
                alt.Tooltip("series:N", title="configuration"),
                alt.Tooltip("value:Q", title=measure.title, format=".4~g"),
            ]
            layers = alt.layer(
                base.mark_rule().encode(y=alt.Y("low:Q", title=measure.title), y2=alt.Y2("high:Q")),
                base.mark_line(strokeWidth=1.5, opacity=0.7).encode(y=value, order=alt.Order("rank:Q")),
                base.mark_point(filled=True, size=45).encode(y=value, tooltip=tooltip),
            )
            step = {"width": max(width, 26 * len(order)), "height": height}
            drawn.append(layers.properties(**step, title=alt.TitleParams(f"in flight {depth}", anchor="start")))
        rows.append(alt.hconcat(*drawn).resolve_scale(y="shared"))
    title = alt.TitleParams(panel.title, anchor="start", fontSize=14)
    return alt.vconcat(*rows).properties(title=title)
