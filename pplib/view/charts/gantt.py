"""One trial as a Gantt chart: what every stage and hop did, and when."""

from __future__ import annotations

import altair as alt
import pandas as pd

from pplib.analysis.required_columns import require_columns
from pplib.errors import FrameError

COLUMNS = ["microbatch", "stage_index", "lane", "event", "start_s", "end_s"]
EVENTS = {"compute": "#3182bd", "encode": "#31a354", "transfer": "#fd8d3c", "decode": "#a1d99b", "queue": "#bdbdbd"}
_LANE, _BUSY, _WAITING = 44, 26, 8


def gantt_chart(timeline: pd.DataFrame, first: int | None = 12, width: int = 860) -> alt.TopLevelMixin:
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
    require_columns(timeline, COLUMNS, "the timeline")
    count = timeline["microbatch"].nunique()
    chosen = timeline
    if first is not None and count > first:
        chosen = timeline[timeline["microbatch"].isin(sorted(timeline["microbatch"].unique())[:first])]
    # Most microbatches wait for nothing; a bar of no width would still be an outline.
    chosen = chosen[chosen["end_s"] > chosen["start_s"]]
    if chosen.empty:
        raise FrameError("the timeline: nothing to draw: it holds no event that lasts")
    origin = float(chosen["start_s"].min())
    data = pd.DataFrame(
        {
            "lane": chosen["lane"].astype("str"),
            "event": chosen["event"].astype("str"),
            "microbatch": chosen["microbatch"].astype("int64"),
            "device": chosen["device"].astype("str") if "device" in chosen else "",
            "start": (chosen["start_s"] - origin) * 1e3,
            "end": (chosen["end_s"] - origin) * 1e3,
        }
    )
    data["middle"] = (data["start"] + data["end"]) / 2
    data["duration"] = data["end"] - data["start"]
    end = float(data["end"].max())
    lanes = _lanes(chosen)
    events = {event: colour for event, colour in EVENTS.items() if (data["event"] == event).any()}
    base = alt.Chart(data).encode(
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
    time = alt.X("start:Q", title="time since the first event shown (ms)", scale=alt.Scale(domain=[0, end], nice=False))
    work = base.transform_filter("datum.event != 'queue'")
    layers = [
        work.mark_bar(height=_BUSY, yOffset=-5, stroke="white", strokeWidth=0.8).encode(x=time, x2="end:Q"),
        base.transform_filter("datum.event == 'queue'")
        .mark_bar(height=_WAITING, yOffset=15, opacity=0.75, stroke="white", strokeWidth=0.5)
        .encode(x=time, x2="end:Q"),
        # Only where the bar is wider than the number.
        work.transform_filter(f"datum.duration > {end * 16 / width}")
        .mark_text(fontSize=11, dy=-5, baseline="middle")
        .encode(x="middle:Q", text="microbatch:Q", color=alt.value("white")),
    ]
    shown = int(chosen["microbatch"].nunique())
    title = f"{shown} microbatches" if shown == count else f"the first {shown} of {count} microbatches"
    return alt.layer(*layers).properties(
        width=width, height=_LANE * len(lanes), title=alt.TitleParams(title, anchor="start")
    )


def _lanes(timeline: pd.DataFrame) -> list[str]:
    """Lanes as the pipeline runs: stage 0, hop 0, stage 1, ..."""
    known = timeline[["stage_index", "lane"]].drop_duplicates()
    ordered = known.assign(hop=known["lane"].astype("str").str.startswith("hop")).sort_values(["stage_index", "hop"])
    return list(dict.fromkeys(ordered["lane"].astype("str")))
