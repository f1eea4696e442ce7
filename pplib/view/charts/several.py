"""More than two objectives at once: every pair of them, and all side by side; a selection in one is one in all."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from pplib.analysis.estimated.uncertainty import with_fronts
from pplib.analysis.required_columns import numeric_column
from pplib.columns import Quantity, quantity
from pplib.errors import FrameError
from pplib.view.charts.front import front_chart
from pplib.view.layout.labels import axis_over
from pplib.view.layout.series import palette, panels, scale_of, with_series


def several_objectives_chart(
    points: pd.DataFrame, objectives: Mapping[str, str], probability: pd.DataFrame, width: int = 250, height: int = 190
) -> alt.TopLevelMixin:
    """Every pair of objectives as a scatter plot, and below them parallel coordinates; one block per model and link.

    Points on the front are strong, the others pale; points that are chosen with the mouse in one plot are chosen in
    all. On every parallel axis the better end is up, whichever way its column goes, and its ends are written there.

    Args:
        points: one row per configuration and point, see `point_estimates`.
        objectives: three columns or more -> "min" or "max".
        probability: see `front_probability`, of the same objectives.
        width: of a panel, pixels.
        height: of a panel, pixels.

    Raises:
        FrameError: fewer than three objectives, a missing column, or no point that has all.

    Source: parallel coordinates, Inselberg (1985); brushing scatter plots, Becker and Cleveland (1987).
    """
    names = list(objectives)
    if len(names) < 3:
        raise FrameError(f"objectives: a picture of several needs three columns or more, got {names}")
    for name in names:
        numeric_column(points, name, "the table of points")
    measured = points[points[names].notna().all(axis=1)].reset_index(drop=True)
    if measured.empty:
        raise FrameError("the table of points: nothing to draw: no point has all of " + ", ".join(names))
    frame = with_series(with_fronts(measured, probability))
    measures = [quantity(name) for name in names]
    for k, measure in enumerate(measures):
        frame[f"v{k}"] = measure.shown(frame[measure.column].astype("float64"))
    colours = palette(frame)
    with warnings.catch_warnings():
        # One selection over all plots of a block is what is wanted; altair tells of it as of a mistake.
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")
        # A name of its own for the selection of each block: one chosen in one model says nothing of another.
        blocks = [
            _block(one.rows, one.title, measures, list(objectives.values()), colours, f"chosen{i}", (width, height))
            for i, one in enumerate(panels(frame))
        ]
    return blocks[0] if len(blocks) == 1 else alt.vconcat(*blocks)


def objectives_chart(
    points: pd.DataFrame, objectives: Mapping[str, str], probability: pd.DataFrame
) -> alt.TopLevelMixin | None:
    """The picture of a front of any number of objectives: `front_chart` for two, none for one, whose front is a point.

    See `several_objectives_chart` for the arguments and errors.
    """
    if len(objectives) < 2:
        return None
    if len(objectives) == 2:
        return front_chart(points, objectives, probability=probability)
    return several_objectives_chart(points, objectives, probability)


def _block(
    rows: pd.DataFrame,
    title: str,
    measures: list[Quantity],
    ways: list[str],
    colours: tuple[list[str], list[str]],
    name: str,
    size: tuple[int, int],
) -> alt.VConcatChart:
    fields = [f"v{k}" for k in range(len(measures))]
    data = rows[[*fields, "series", "on_front", "front_probability"]].sort_values("on_front", kind="stable")
    data["point"] = rows["partition_label"].astype("str")
    data["line"] = data["series"] + " " + data["point"]
    brush = alt.selection_interval(name=name, resolve="intersect")
    domain, tones = colours
    legend = alt.Legend(title=None, orient="bottom", columns=4, labelLimit=300, symbolOpacity=1)
    colour = alt.condition(
        brush, alt.Color("series:N", scale=alt.Scale(domain=domain, range=tones), legend=legend), alt.value("#dddddd")
    )
    tooltip = [
        alt.Tooltip("line:N", title="cut"),
        *[alt.Tooltip(f"{one}:Q", title=m.title, format=".4~g") for one, m in zip(fields, measures, strict=True)],
        alt.Tooltip("front_probability:Q", title="on the front in", format=".0%"),
    ]
    strong = alt.condition("datum.on_front", alt.value(1.0), alt.value(0.25))
    pairs = []
    for j in range(1, len(fields)):
        row = []
        for i in range(j):
            axes = [axis_over([*data[fields[k]]], 100) for k in (i, j)]
            x, y = (
                kind(
                    f"{fields[k]}:Q",
                    title=measures[k].title + (", log" if axis.log else ""),
                    scale=scale_of(axis),
                )
                for kind, k, axis in zip((alt.X, alt.Y), (i, j), axes, strict=True)
            )
            marks = (
                alt.Chart(data)
                .mark_point(filled=True, size=55)
                .encode(x=x, y=y, color=colour, opacity=strong, tooltip=tooltip)
            )
            row.append(marks.add_params(brush).properties(width=size[0], height=size[1]))
        pairs.append(alt.hconcat(*row))
    lines = _parallel(data, fields, measures, ways, colour, brush, size)
    title_of = alt.TitleParams(title, anchor="start", fontSize=14)
    return alt.vconcat(*pairs, lines).properties(title=title_of)


def _parallel(
    data: pd.DataFrame,
    fields: list[str],
    measures: list[Quantity],
    ways: list[str],
    colour: Any,
    brush: alt.Parameter,
    size: tuple[int, int],
) -> alt.LayerChart | alt.FacetChart:
    """All objectives side by side, up is better; each line is a point."""
    pieces, ends = [], []
    for k, (one, measure, way) in enumerate(zip(fields, measures, ways, strict=True)):
        low, high = float(data[one].min()), float(data[one].max())
        share = (data[one] - low) / (high - low) if high > low else data[one] * 0 + 0.5
        pieces.append(data.assign(objective=measure.title, rank=k, share=1 - share if way == "min" else share))
        for value, place in ((low, 1.0 if way == "min" else 0.0), (high, 0.0 if way == "min" else 1.0)):
            ends.append({"objective": measure.title, "place": place, "words": f"{value:.4g}"})
    order = [measure.title for measure in measures]
    x = alt.X("objective:N", sort=order, title=None, axis=alt.Axis(labelAngle=0, labelLimit=220))
    blank = alt.Axis(labels=False, ticks=False, grid=False)
    y = alt.Y("share:Q", title="better upwards", scale=alt.Scale(domain=[-0.1, 1.1], nice=False), axis=blank)
    long = pd.concat(pieces, ignore_index=True)
    lines = (
        alt.Chart(long)
        .mark_line(strokeWidth=1.6)
        .encode(
            x=x,
            y=y,
            detail="line:N",
            order="rank:Q",
            color=colour,
            opacity=alt.condition("datum.on_front", alt.value(0.95), alt.value(0.15)),
            tooltip=["line:N"],
        )
    )
    told = alt.Chart(pd.DataFrame(ends))
    rules = told.mark_rule(color="#888888").encode(x=x)
    words = [
        told.transform_filter(f"datum.place == {place}")
        .mark_text(dy=dy, color="#444444", fontSize=10)
        .encode(x=x, y=alt.Y("place:Q", axis=blank, title="better upwards"), text="words:N")
        for place, dy in ((1.0, -8), (0.0, 9))
    ]
    room = size[0] * max(2, len(fields) - 1)
    return alt.layer(rules, lines, *words).properties(width=room, height=size[1] + 40)
