"""A model's units one by one: what they cost, and what a cut after them would send."""

from __future__ import annotations

import altair as alt
import pandas as pd

from pplib.analysis.required_columns import require_columns
from pplib.errors import FrameError


def profile_chart(profile: pd.DataFrame, step: int | None = None, height: int = 190) -> alt.TopLevelMixin:
    """Time of every unit above, size of the activation at the cut after it below, in one order.

    Args:
        profile: one row per unit: index, name, time_s, activation_bytes; time_min_s and time_max_s
            are drawn as ranges where given.
        step: pixels per unit; as wide as fits if not given.
        height: of each of the two panels, pixels.

    Raises:
        FrameError: a missing column, or no unit.
    """
    require_columns(profile, ["index", "name", "time_s", "activation_bytes"], "the profile")
    if profile.empty:
        raise FrameError("the profile: nothing to draw: it holds no unit")
    ordered = profile.sort_values("index")
    data = pd.DataFrame(
        {
            "unit": "P" + ordered["index"].astype("str") + "  " + ordered["name"].astype("str"),
            "time": ordered["time_s"] * 1e3,
            "time_min": ordered.get("time_min_s", ordered["time_s"]) * 1e3,
            "time_max": ordered.get("time_max_s", ordered["time_s"]) * 1e3,
            "activation": ordered["activation_bytes"] * 1e-6,
        }
    )
    order = data["unit"].tolist()
    many = len(order) > 40
    step = step or (13 if many else max(20, min(44, 840 // len(order))))
    axis = alt.Axis(labelAngle=-60, labelLimit=260, labelFontSize=9 if many else 11, labelOverlap=False)
    base = alt.Chart(data).properties(width=step * len(order), height=height)

    def x(labelled: bool) -> alt.X:
        title = "cut after this unit" if labelled else None
        return alt.X("unit:N", sort=order, title=title, axis=axis if labelled else alt.Axis(labels=False, ticks=False))

    tooltip = [
        alt.Tooltip("unit:N", title="unit"),
        alt.Tooltip("time:Q", title="time (ms)", format=".4~g"),
        alt.Tooltip("activation:Q", title="activation (MB)", format=".4~g"),
    ]
    bars = base.mark_bar(color="#3182bd").encode(
        x=x(False), y=alt.Y("time:Q", title="time of the unit (ms)"), tooltip=tooltip
    )
    ranges = base.mark_rule(color="#08306b").encode(
        x=x(False), y=alt.Y("time_min:Q", title="time of the unit (ms)"), y2="time_max:Q"
    )
    sizes = base.mark_bar(color="#fd8d3c").encode(
        x=x(True), y=alt.Y("activation:Q", title="activation at the cut (MB)"), tooltip=tooltip
    )
    return alt.vconcat(alt.layer(bars, ranges), sizes, spacing=8)
