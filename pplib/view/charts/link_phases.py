"""Which cut is best over which link: rate by one-way delay, a colour for each cut, and the links that were measured."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pplib.analysis.statistics import partition_key
from pplib.columns import quantity
from pplib.errors import FrameError
from pplib.planner.changes.link_changes import MeasuredLink
from pplib.planner.changes.other_links import Phases

MEASURED = "computed from the parts that were measured; points: links that trials went over"
_WIDTH, _HEIGHT = 400, 250


def link_phases_chart(
    found: Mapping[str, tuple[Phases, Sequence[MeasuredLink]]], objective: str, columns: int = 2, told: str = MEASURED
) -> alt.TopLevelMixin:
    """A phase diagram for each configuration: the colour of a link is that of the cut that is best over it.

    Colours go with the cuts' order in the model. Both axes are logarithmic; a link that lies beyond them is marked at
    their end.

    Args:
        found: configuration, in words -> which cut is best where, and the links that its trials went over.
        objective: the column by which they are best.
        columns: panels in a row.
        told: from what it is computed.

    Raises:
        FrameError: no configuration.
    """
    if not found:
        raise FrameError("nothing to draw: expected the phases of one configuration or more, got none")
    labels = sorted({label for one, _ in found.values() for label in one.labels}, key=partition_key)
    scale = alt.Scale(domain=labels, scheme="viridis")
    legend = alt.Legend(title="best cut", columns=1 + len(labels) // 14)
    # The edges in the colour, too: else the seams between rectangles show.
    colour = alt.Color("cut:O", scale=scale, legend=legend), alt.Stroke("cut:O", scale=scale, legend=None)
    panels = [_panel(title, one, links, colour) for title, (one, links) in found.items()]
    title = alt.TitleParams(
        f"Best by {quantity(objective).name}, over any link",
        subtitle=told,
        anchor="start",
        fontSize=14,
    )
    return alt.concat(*panels, columns=columns).properties(title=title)


def _panel(
    title: str, one: Phases, links: Sequence[MeasuredLink], colour: tuple[alt.Color, alt.Stroke]
) -> alt.LayerChart | alt.FacetChart:
    rate, delay = _edges(one.rate_bit_s) * 1e-6, _edges(one.delay_s) * 1e3
    areas = alt.Chart(pd.DataFrame(_rectangles(one, rate, delay))).mark_rect(strokeWidth=0.8)
    x = alt.Scale(type="log", domain=[rate[0], rate[-1]], nice=False)
    y = alt.Scale(type="log", domain=[delay[0], delay[-1]], nice=False)
    at_x = alt.X("rate:Q", scale=x, title="rate, both ways (Mbit/s), log scale", axis=alt.Axis(values=_tens(rate)))
    at_y = alt.Y("delay:Q", scale=y, title="one-way delay (ms), log scale", axis=alt.Axis(values=_tens(delay)))
    until = alt.X2("rate2:Q"), alt.Y2("delay2:Q")
    areas = areas.encode(at_x, at_y, *until, *colour, alt.Tooltip("cut:N"))
    names = alt.Chart(pd.DataFrame([_middle(one, i) for i in range(len(one.labels))]))
    names = names.encode(at_x, at_y, alt.Text("cut:N"))
    middle = float(np.sqrt(rate[0] * rate[-1]))
    marks = pd.DataFrame(
        {
            "rate": [float(np.clip(link.rate_bit_s * 1e-6, rate[0], rate[-1])) for link in links],
            "delay": [float(np.clip(link.delay_s * 1e3, delay[0], delay[-1])) for link in links],
            "link": [link.name for link in links],
        }
    )
    layers: list[alt.Chart] = [areas, *_written(names, fontSize=13, fontWeight="bold")]
    for right in (False, True):
        some = marks[(marks["rate"] > middle) == right]
        if len(some):
            base = alt.Chart(some).encode(x=at_x, y=at_y)
            beside: dict[str, Any] = {"align": "right" if right else "left", "dx": -9 if right else 9, "dy": -7}
            point = base.mark_point(filled=True, color="black", stroke="white", strokeWidth=1.5, size=90, opacity=1)
            layers += [point.encode(tooltip=[alt.Tooltip(name) for name in ("link:N", "rate:Q", "delay:Q")])]
            layers += _written(base.encode(alt.Text("link:N")), fontSize=12, **beside)
    return alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=alt.TitleParams(title, anchor="start"))


def _rectangles(one: Phases, rate: np.ndarray, delay: np.ndarray) -> list[dict[str, object]]:
    """As few as rows of equal links make: what is drawn apart shows its seams."""
    found, above = list[dict[str, object]](), dict[tuple[int, int, int], dict[str, object]]()
    for i, best in enumerate(one.best):
        starts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)]
        row = {(a, b, int(best[a])): above.get((a, b, int(best[a]))) for a, b in itertools.pairwise(starts)}
        above = {
            key: same or {"cut": one.labels[key[2]], "rate": rate[key[0]], "rate2": rate[key[1]], "delay": delay[i]}
            for key, same in row.items()
        }
        found += [above[key] for key, same in row.items() if same is None]
        for rectangle in above.values():
            rectangle["delay2"] = delay[i + 1]
    return found


def _written(base: alt.Chart, **style: Any) -> list[alt.Chart]:
    """White below the letters: they stand on any colour."""
    halo = base.mark_text(**style, stroke="white", strokeWidth=3, strokeJoin="round", strokeOpacity=0.85)
    return [halo, base.mark_text(**style, color="black")]


def _edges(values: np.ndarray) -> np.ndarray:
    """Between values of a geometric row, and beyond both ends as far as they go."""
    inner = np.sqrt(values[1:] * values[:-1])
    return np.concatenate([values[:1], inner, values[-1:]])


def _tens(edges: np.ndarray) -> list[float]:
    """Powers of ten within."""
    low, high = np.ceil(np.log10(edges[0] * (1 - 1e-9))), np.floor(np.log10(edges[-1] * (1 + 1e-9)))
    return [float(10.0**power) for power in np.arange(low, high + 1)]


def _middle(one: Phases, label: int) -> dict[str, object]:
    """Where a cut's name stands: in the middle of the longest stretch of its row in the middle."""
    rows = np.flatnonzero((one.best == label).any(axis=1))
    row = rows[len(rows) // 2]
    inside = np.flatnonzero(one.best[row] == label)
    stretch = max(np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1), key=len)
    at = float(np.sqrt(one.rate_bit_s[stretch[0]] * one.rate_bit_s[stretch[-1]]))
    return {"cut": one.labels[label], "rate": at * 1e-6, "delay": float(one.delay_s[row]) * 1e3}
