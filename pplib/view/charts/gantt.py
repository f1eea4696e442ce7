"""A trial as a Gantt chart: what every stage and hop did, and when; one trial, or that of a chosen point."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import pandas as pd

from pplib.analysis.required_columns import require_columns
from pplib.errors import FrameError

COLUMNS = ["microbatch", "stage_index", "lane", "event", "start_s", "end_s"]
EVENTS = {"compute": "#3182bd", "encode": "#31a354", "transfer": "#fd8d3c", "decode": "#a1d99b", "queue": "#bdbdbd"}
FIRST = 12
"""So many microbatches show how a pipeline runs."""

_LANE, _BUSY, _WAITING = 44, 26, 8


def gantt_chart(timeline: pd.DataFrame, first: int | None = FIRST, width: int = 860) -> alt.TopLevelMixin:
    """Lanes over time; colour tells computing, transferring and waiting, the number the microbatch.

    Waiting stands as a thin bar below the lane's work, since a microbatch waits while another is
    worked on.

    Args:
        timeline: one row per event of one trial: microbatch, stage_index, lane, event, start_s, end_s.
        first: show this many microbatches; None for all.
        width: pixels.

    Raises:
        FrameError: a missing column, or no event.
    """
    data, count = _events(timeline, first)
    if data.empty:
        raise FrameError("the timeline: nothing to draw: it holds no event that lasts")
    data["end"] = data["start"] + data["duration"]
    data["middle"] = (data["start"] + data["end"]) / 2
    shown = int(data["microbatch"].nunique())
    title = f"{shown} microbatches" if shown == count else f"the first {shown} of {count} microbatches"
    return _drawn(alt.Chart(data), data, width, float(data["end"].max())).properties(
        title=alt.TitleParams(title, anchor="start")
    )


def chosen_gantt_chart(
    timelines: Mapping[int, pd.DataFrame], chosen: alt.Parameter, first: int = FIRST, width: int = 620
) -> alt.LayerChart | alt.FacetChart:
    """The Gantt chart of the point that is chosen in a `front_chart`; see `gantt_chart`.

    Every lane is one row with all its times, which the reader's browser takes apart: so many timelines are in one
    chart that their names would be most of it.

    Args:
        timelines: by `point_id`.
        chosen: the selection of one `point_id`.
        first: show this many microbatches.
        width: pixels.

    Raises:
        FrameError: as `gantt_chart`.
    """
    found = [_events(one, first)[0].assign(point_id=point_id) for point_id, one in timelines.items()]
    data = pd.concat(found, ignore_index=True)
    if data.empty:
        raise FrameError("the timelines: nothing to draw: they hold no event that lasts")
    lanes = data.groupby(["point_id", "lane", "event", "device"], sort=False)
    rows = lanes[["microbatch", "start", "duration"]].agg(list).reset_index()
    # Of the chart, not of its layers: what is chosen is taken apart once.
    return (
        _drawn(alt.Chart(), data, width, "datum.last")
        .properties(data=rows)
        .transform_filter(chosen)
        .transform_flatten(["microbatch", "start", "duration"])
        .transform_calculate(end="datum.start + datum.duration", middle="datum.start + datum.duration / 2")
        .transform_joinaggregate(last="max(end)")
    )


def _events(timeline: pd.DataFrame, first: int | None) -> tuple[pd.DataFrame, int]:
    """What is drawn of a timeline, in ms since its first event, and how many microbatches it has."""
    require_columns(timeline, COLUMNS, "the timeline")
    count = timeline["microbatch"].nunique()
    chosen = timeline
    if first is not None and count > first:
        chosen = timeline[timeline["microbatch"].isin(sorted(timeline["microbatch"].unique())[:first])]
    # Most microbatches wait for nothing; a bar of no width would still be an outline.
    chosen = chosen[chosen["end_s"] > chosen["start_s"]]
    data = pd.DataFrame(
        {
            "lane": chosen["lane"].astype("str"),
            "event": chosen["event"].astype("str"),
            "microbatch": chosen["microbatch"].astype("int64"),
            "device": chosen["device"].astype("str") if "device" in chosen else "",
            "start": ((chosen["start_s"] - chosen["start_s"].min()) * 1e3).round(3),
            "duration": ((chosen["end_s"] - chosen["start_s"]) * 1e3).round(3),
        }
    )
    return data, count


def _drawn(base: alt.Chart, data: pd.DataFrame, width: int, end: float | str) -> alt.LayerChart | alt.FacetChart:
    """The layers of a chart of `data`, whose last event ends at `end`: a number, or what a row has it in."""
    lanes = _lanes(data)
    events = {event: colour for event, colour in EVENTS.items() if (data["event"] == event).any()}
    base = base.encode(
        y=alt.Y("lane:N", sort=lanes, title=None, axis=alt.Axis(labelFontSize=12, grid=True, tickBand="extent")),
        color=alt.Color(
            "event:N",
            scale=alt.Scale(domain=list(events), range=list(events.values())),
            legend=alt.Legend(title=None, orient="bottom"),
        ),
        tooltip=[
            alt.Tooltip("microbatch:Q"),
            alt.Tooltip("lane:N"),
            alt.Tooltip("event:N"),
            alt.Tooltip("device:N"),
            alt.Tooltip("start:Q", title="start (ms)", format=".2f"),
            alt.Tooltip("duration:Q", title="duration (ms)", format=".3~f"),
        ],
    )
    time = alt.X("start:Q", title="time since the first event shown (ms)", scale=alt.Scale(nice=False, zero=True))
    work = base.transform_filter("datum.event != 'queue'")
    layers = [
        work.mark_bar(height=_BUSY, yOffset=-5, stroke="white", strokeWidth=0.8).encode(x=time, x2="end:Q"),
        base.transform_filter("datum.event == 'queue'")
        .mark_bar(height=_WAITING, yOffset=15, opacity=0.75, stroke="white", strokeWidth=0.5)
        .encode(x=time, x2="end:Q"),
        # Only where the bar is wider than the number.
        work.transform_filter(f"datum.duration > {end} * {16 / width}")
        .mark_text(fontSize=11, dy=-5, baseline="middle")
        .encode(x="middle:Q", text="microbatch:Q", color=alt.value("white")),
    ]
    return alt.layer(*layers).properties(width=width, height=_LANE * len(lanes))


def _lanes(data: pd.DataFrame) -> list[str]:
    """Lanes as the pipeline runs: stage 0, hop 0, stage 1, ..."""
    names = {str(lane) for lane in data["lane"]}
    return sorted(names, key=lambda lane: (int(lane.split()[-1]), lane.startswith("hop")))
