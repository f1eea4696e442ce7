"""Which cut is predicted to be best over which link."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from pplib.columns import INDIFFERENCE, OBJECTIVES, quantity
from pplib.planner.changes.other_links import phases
from pplib.planner.pipeline_parts import Pipeline
from pplib.planner.prediction import cuts_of
from pplib.view.charts.link_phases import link_phases_chart


def predicted_phases_chart(
    pipeline: Pipeline,
    points: Sequence[tuple[int, ...]],
    objective: str = "throughput_img_s",
    indifference: float = INDIFFERENCE,
) -> alt.TopLevelMixin:
    """A phase diagram over the rate and the delay of the link, both directions alike; see `link_phases_chart`.

    Args:
        pipeline: of profiles; its link counts for nothing here.
        points: the cuts.
        objective: the column by which they are best.
        indifference: a cut that nowhere gains more than this share is not named.

    Raises:
        FrameError: as `cuts_of`.
    """
    found = phases(cuts_of(pipeline, points), objective, OBJECTIVES.get(objective, "min"), indifference)
    title = f"{quantity(objective).name}, in flight {pipeline.in_flight}"
    return link_phases_chart({title: (found, [])}, objective, told="predicted from profiles of devices and hops")
