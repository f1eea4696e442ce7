"""The front as a chart that one can ask: a click on a point shows what its time goes into, and when."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import altair as alt
import pandas as pd

from pplib.analysis.repeats import POINT_KEYS, point_name
from pplib.analysis.required_columns import require_columns
from pplib.columns import quantity
from pplib.errors import FrameError
from pplib.view.charts.decomposition import chosen_parts_chart
from pplib.view.charts.front import front_chart
from pplib.view.charts.gantt import FIRST, chosen_gantt_chart
from pplib.view.layout.series import with_series

# Not what else has a click in it: the legend, the ground, the stairs. What is chosen stays so until something else is.
_ITS_POINT = "event.item.datum && isValid(event.item.datum.point_id)"
_CLICKS = ", ".join(f"{mark}:click[{_ITS_POINT}]" for mark in ("symbol", "text"))


def asked_front_chart(
    points: pd.DataFrame,
    objectives: Mapping[str, str],
    probability: pd.DataFrame,
    trials: pd.DataFrame,
    timelines: Mapping[str, pd.DataFrame],
) -> alt.TopLevelMixin:
    """A front, and below it one point's parts and timeline: those of the point that a reader clicks on.

    No kernel is asked: all of it is in the chart. Before the first click, and in a picture, it is the point of a front
    that is best by the last objective: of throughput, where a pipeline has most to show.

    Args:
        points: one row per configuration and point, see `with_fronts`.
        objectives: two columns -> "min" or "max".
        probability: see `front_probability`.
        trials: one per point, see `representative_trials`; points without one are only drawn.
        timelines: `point_name` -> the events of its trial, see `timeline_frame`. Without any the timeline is left out;
            of a point that has none the words say so.

    Raises:
        FrameError: no point of a front has a trial, or as `front_chart`.
    """
    require_columns(points, ["on_front"], "the table of points")
    ids = {point_name(row): i for i, row in enumerate(points[POINT_KEYS].to_dict("records"))}
    names = [point_name(row) for row in trials[POINT_KEYS].to_dict("records")]
    asked = trials.assign(point_id=[ids.get(name, -1) for name in names])
    points = points.assign(point_id=range(len(points)))
    best = points[points["on_front"] & points["point_id"].isin(asked["point_id"])]
    if best.empty:
        raise FrameError("the trials: nothing to draw: expected one of a point on the front, see representative_trials")
    name, way = list(objectives.items())[-1]
    values = best[name].to_numpy()
    first = int(best["point_id"].iloc[int(values.argmin() if way == "min" else values.argmax())])
    chosen = alt.selection_point(
        name="asked",
        fields=["point_id"],
        on=_CLICKS,
        clear=False,
        toggle=False,
        empty=False,
        value=[{"point_id": first}],
    )
    with_events = {ids[name]: one for name, one in timelines.items() if name in ids and len(one)}
    told = [chosen_parts_chart(asked, chosen)]
    if with_events:
        told.append(chosen_gantt_chart(with_events, chosen))
    with warnings.catch_warnings():
        # One selection over all panels is what is wanted; altair tells of it as of a mistake.
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")
        front = front_chart(points, objectives, probability=probability, chosen=chosen)
        below = alt.hconcat(*told, spacing=30).resolve_scale(color="independent")
        chart: alt.VConcatChart = alt.vconcat(
            front, _words(points, asked, objectives, with_events, chosen), below
        ).resolve_scale(color="independent", shape="independent", size="independent", opacity="independent")
    return chart


def _words(
    points: pd.DataFrame,
    asked: pd.DataFrame,
    objectives: Mapping[str, str],
    timelines: Mapping[int, pd.DataFrame],
    chosen: alt.Parameter,
) -> alt.Chart:
    """Which point is chosen, its figures, and of which trial what is below is."""
    repeats = dict(zip(asked["point_id"], asked["repeat"], strict=True))
    rows = []
    for row in with_series(points).to_dict("records"):
        point = row["point_id"]
        if point not in repeats:
            continue
        figures = [quantity(name) for name in objectives]
        said = [f"{one.name} {row[one.column] * one.factor:.4g} {one.unit}".rstrip() for one in figures]
        title = f"{row['partition_label']} {row['partition_name']} \u00b7 {row['series']} \u00b7 {row['model']}"
        link = f" \u00b7 link {row['link']}" if row["link"] != "none" else ""
        trial = f"Below: its repeat {int(repeats[point])}, whose latency is the median; "
        count = timelines[point]["microbatch"].nunique() if point in timelines else 0
        shown = f"the first {FIRST} of {count} microbatches" if count > FIRST else f"all {count} microbatches"
        trial += f"{shown}." if count else "its timeline is not here."
        rows.append({"point_id": point, "words": f"{title}{link}: {', '.join(said)}\n{trial}"})
    chart: alt.Chart = (
        alt.Chart(pd.DataFrame(rows))
        .transform_filter(chosen)
        .mark_text(align="left", baseline="top", fontSize=13, lineBreak="\n", lineHeight=18)
        .encode(text="words:N", x=alt.value(0), y=alt.value(4))
        .properties(width=620, height=40, view=alt.ViewConfig(stroke=None))
    )
    return chart
