"""The Pareto front as a picture: over each other, or one panel per configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt
import pandas as pd

from pplib.analysis.estimated.uncertainty import with_fronts
from pplib.analysis.required_columns import numeric_column
from pplib.analysis.statistics import CONFIGURATION_KEYS, fronts
from pplib.columns import INDIFFERENCE, OBJECTIVES, Quantity, direction, quantity
from pplib.errors import FrameError
from pplib.view.layout.labels import Axis, axis_over, place_labels
from pplib.view.layout.series import Panel, bar_ends, labels_on, palette, panels, scale_of, title_on, with_series

_SIZE = 70
_SHAPES = {"socket": "circle", "rpc": "diamond", "gloo": "triangle-up"}  # of backends
_SIZES = alt.Legend(title="share of resamples on the front", orient="bottom", format=".0%", values=[0, 0.25, 0.5, 1])


def front_chart(
    points: pd.DataFrame,
    objectives: Sequence[str] | Mapping[str, str] = tuple(OBJECTIVES),
    width: int = 620,
    height: int = 400,
    probability: pd.DataFrame | None = None,
    chosen: alt.Parameter | None = None,
) -> alt.LayerChart | alt.FacetChart | alt.ConcatChart:
    """All partition points pale, each configuration's front strong, joined and labelled.

    The stairs are what a front attains: to their worse side every point is dominated. Bars are the intervals of the
    points on the front, or the range of their repeats where there are none. One panel per model x link (and whatever
    else differs); backend, in-flight depth, runtime, precision and wire type are colours.

    Args:
        points: one row per configuration and point, see `point_table`.
        objectives: two columns; a mapping gives their directions, else the column's usual one.
        probability: see `front_probability`: then the larger and stronger a mark, the likelier it is on
            the front of its configuration. Names, bars and stairs are those of what it calls on the front.
        width: of a panel, pixels.
        height: of a panel, pixels.
        chosen: a selection of one `point_id`, then a column of `points`: a click on a mark or a name chooses it.

    Raises:
        FrameError: not two objectives, a missing column, or nothing measured.
    """
    prepared, measures = prepared_points(points, objectives, probability)
    drawn = [
        front_panel(one, measures, width, height, palette(prepared), label_all=False, chosen=chosen)
        for one in panels(prepared)
        if len(one.rows)
    ]
    return drawn[0] if len(drawn) == 1 else alt.concat(*drawn, columns=2)


def front_per_configuration_chart(
    points: pd.DataFrame,
    objectives: Sequence[str] | Mapping[str, str] = tuple(OBJECTIVES),
    width: int = 400,
    height: int = 280,
    columns: int = 2,
    probability: pd.DataFrame | None = None,
) -> alt.TopLevelMixin:
    """Small multiples: one panel per configuration, every point labelled, the front strong.

    Each panel has its own axes. See `front_chart` for the arguments and errors.
    """
    prepared, measures = prepared_points(points, objectives, probability)
    colours = palette(prepared)
    ordered = sorted(panels(prepared, CONFIGURATION_KEYS), key=lambda one: colours[0].index(one.rows["series"].iloc[0]))
    drawn = [
        front_panel(Panel(series_title(one), one.rows), measures, width, height, colours, label_all=True)
        for one in ordered
    ]
    return alt.concat(*drawn, columns=columns) if len(drawn) > 1 else drawn[0]


def series_title(panel: Panel) -> str:
    """The heading of a configuration's panel, which always names backend and depth."""
    told = ("backend ", "in flight ", "runtime ", "precision ", "wire ")  # by the series, where they vary
    words = [word for word in panel.title.split(" · ") if not word.startswith(told)]
    return " · ".join([*words, str(panel.rows["series"].iloc[0])])


def prepared_points(
    points: pd.DataFrame, objectives: Sequence[str] | Mapping[str, str], probability: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, tuple[Quantity, Quantity]]:
    """Measured rows with `on_front`, the two measures in display units (`x`, `y`) and their bars."""
    names = list(objectives)
    if len(names) != 2:
        raise FrameError(f"objectives: a picture of a front needs two columns, got {names}")
    for name in names:
        numeric_column(points, name, "the table of points")
    directions = objectives if isinstance(objectives, Mapping) else {name: direction(name) for name in names}
    measured = points[points[names].notna().all(axis=1)].reset_index(drop=True)
    if measured.empty:
        raise FrameError("the table of points: nothing to draw: no point has both " + " and ".join(names))
    found = with_fronts(measured, probability) if probability is not None else None
    frame = with_series(fronts(measured, directions, INDIFFERENCE) if found is None else found)
    measures = (quantity(names[0]), quantity(names[1]))
    for field, measure in zip(("x", "y"), measures, strict=True):
        frame[field] = measure.shown(frame[measure.column])
        for end, values in zip(("min", "max"), bar_ends(frame, measure.column), strict=True):
            frame[f"{field}_{end}"] = measure.shown(values)
    frame["point"] = frame["partition_label"].astype("str")
    if "partition_name" in frame:
        frame["point"] += " " + frame["partition_name"].astype("str")
    frame["place"] = frame["on_front"].map({True: "on the front", False: "dominated"})
    frame["stairs"] = "step-after" if directions[names[0]] == "min" else "step-before"
    if probability is not None:
        frame["probability"] = frame["front_probability"]
        frame["chance"] = [f"{one:.0%}" if one == one else "unknown: one repeat" for one in frame["probability"]]
    kept = ["series", *CONFIGURATION_KEYS, *(["point_id"] if "point_id" in frame else [])]
    shown = ["x", "x_min", "x_max", "y", "y_min", "y_max", "partition_label", "point", "on_front", "place", "stairs"]
    known = probability is not None and frame["probability"].notna().any()
    return frame[[*kept, *shown, *(["probability", "chance"] if known else [])]], measures


def front_panel(
    panel: Panel,
    measures: tuple[Quantity, Quantity],
    width: int,
    height: int,
    colours: tuple[list[str], list[str]],
    label_all: bool,
    shapes: Sequence[str] | None = None,
    told: tuple[str, str] = ("configuration", "on the front on every link"),
    chosen: alt.Parameter | None = None,
) -> alt.LayerChart | alt.FacetChart:
    """One panel of `prepared_points`, with axes of its own; a ring around every point whose `ringed` is true.

    Args:
        panel: its rows and heading.
        measures: of x and y.
        width: pixels.
        height: pixels.
        colours: see `palette`.
        label_all: name the dominated points too, and leave the legend out. Ringed points are always named.
        shapes: one per series; those of the backends if not given.
        told: in a tooltip: what a series is, and what a ring says.
        chosen: see `front_chart`.
    """
    rows = panel.rows
    front = rows[rows["on_front"]]
    x_axis = axis_over([*rows["x"], *front["x_min"], *front["x_max"]], width)
    y_axis = axis_over([*rows["y"], *front["y_min"], *front["y_max"]], height)
    domain, tones = colours
    data = rows.drop(columns=[*CONFIGURATION_KEYS, "stairs"])

    def x(field: str = "x") -> alt.X:
        return alt.X(f"{field}:Q", title=title_on(measures[0], x_axis), scale=scale_of(x_axis), axis=labels_on(x_axis))

    def y(field: str = "y") -> alt.Y:
        return alt.Y(f"{field}:Q", title=title_on(measures[1], y_axis), scale=scale_of(y_axis), axis=labels_on(y_axis))

    legend = None if label_all else alt.Legend(title=None, orient="bottom", columns=4, labelLimit=300, symbolOpacity=1)
    colour = alt.Color("series:N", scale=alt.Scale(domain=domain, range=tones), legend=legend)
    pale: dict[str, Any] = {"opacity": alt.condition("datum.on_front", alt.value(1.0), alt.value(0.3))}
    size: dict[str, Any] = {}
    tooltip = [
        alt.Tooltip("point:N", title="cut after"),
        alt.Tooltip("series:N", title=told[0]),
        alt.Tooltip("x:Q", title=measures[0].title, format=".4~g"),
        alt.Tooltip("y:Q", title=measures[1].title, format=".4~g"),
        alt.Tooltip("place:N", title="Pareto"),
    ]
    title = alt.TitleParams(panel.title, anchor="start", fontSize=14)
    if "probability" in data:
        tooltip.append(alt.Tooltip("chance:N", title="on the front in"))
        # The scales start at 0 and end at 1 in every panel, so that panels can be compared. Where there is no
        # probability the mark is as it would be without any.
        unknown = "!isValid(datum.probability)"
        pales = [{"test": f"{unknown} && {word}datum.on_front", "value": tone} for word, tone in (("", 1), ("!", 0.3))]
        faint, wide = alt.Scale(domain=[0, 1], range=[0.3, 1]), alt.Scale(domain=[0, 1], range=[25, 220])
        pale = {"opacity": alt.Opacity("probability:Q", scale=faint, legend=None, condition=pales)}
        plain = {"test": unknown, "value": _SIZE}
        size = {"size": alt.Size("probability:Q", scale=wide, legend=_SIZES, condition=plain)}
    if "ringed" in data:
        tooltip.append(alt.Tooltip("ringed:N", title=told[1]))
    # The front is drawn last, over the others.
    data = data.sort_values("on_front", kind="stable")
    base = alt.Chart(data)
    on_front = base.transform_filter("datum.on_front")
    # Bars of the dominated points as well would hide what is to be seen.
    ranges = on_front.mark_rule(strokeWidth=1, opacity=0.5)
    stairs = on_front.mark_line(interpolate=rows["stairs"].iloc[0], strokeWidth=2, opacity=0.9)
    cursor: Literal["default", "pointer"] = "default" if chosen is None else "pointer"
    marks = base.mark_point(filled=True, size=_SIZE, invalid=None, cursor=cursor).encode(
        x=x(), y=y(), color=colour, tooltip=tooltip, shape=_shapes(domain, legend, shapes), **pale, **size
    )
    layers = [
        ranges.encode(x=x("x_min"), x2=alt.X2("x_max:Q"), y=y(), color=colour),
        ranges.encode(x=x(), y=y("y_min"), y2=alt.Y2("y_max:Q"), color=colour),
        stairs.encode(x=x(), y=y(), color=colour, order=alt.Order("x:Q")),
    ]
    if chosen is not None:
        # Below the marks, which are to be pointed at.
        halo = base.transform_filter(chosen).mark_point(size=420, strokeWidth=2.5, filled=False, color="black")
        layers.append(halo.encode(x=x(), y=y()))
        marks = marks.add_params(chosen)
    layers.append(marks)
    if "ringed" in data:
        rings = base.transform_filter("datum.ringed").mark_point(size=210, strokeWidth=2, filled=False, opacity=1)
        layers.append(rings.encode(x=x(), y=y(), color=colour))
    layers += _names(rows, x_axis, y_axis, x(), y(), colour, label_all)
    return alt.layer(*layers).properties(width=width, height=height, title=title)


def _names(
    rows: pd.DataFrame, x_axis: Axis, y_axis: Axis, x: alt.X, y: alt.Y, colour: alt.Color, label_all: bool
) -> list[alt.Chart]:
    """Text layers: the front's names strong, the others' (where wanted) small and grey."""
    # Front points first: they get the best places.
    wanted = rows["on_front"] | rows["ringed"] if "ringed" in rows else rows["on_front"]
    named = rows[wanted | label_all].sort_values("on_front", ascending=False, kind="stable")
    placed = place_labels(
        [str(label) for label in named["partition_label"]],
        list(zip(named["x"], named["y"], strict=True)),
        list(zip(rows["x"], rows["y"], strict=True)),
        x_axis,
        y_axis,
    )
    text = named[["partition_label", "series", "on_front", *(["point_id"] if "point_id" in named else [])]].assign(
        x=[place[0] for place in placed], y=[place[1] for place in placed]
    )
    layers = []
    for strong in (True, False):
        chosen = text[text["on_front"] == strong]
        if chosen.empty:
            continue
        base = alt.Chart(chosen).encode(x=x, y=y, text=alt.Text("partition_label:N"))
        style: dict[str, Any] = {
            "fontSize": 11 if strong else 10,
            "fontWeight": "bold" if strong else "normal",
            "align": "center",
            "baseline": "middle",
        }
        # White below the letters: range bars and stairs run behind them.
        layers.append(base.mark_text(**style, stroke="white", strokeWidth=3, strokeJoin="round").encode())
        layers.append(base.mark_text(**style).encode(color=colour if strong else alt.ColorValue("#666666")))
    return layers


def _shapes(domain: list[str], legend: alt.Legend | None, shapes: Sequence[str] | None) -> alt.Shape:
    """A shape per backend, so that a print without colour still tells them apart."""
    shapes = shapes or [_SHAPES.get(name.partition(",")[0], "square") for name in domain]
    return alt.Shape("series:N", scale=alt.Scale(domain=domain, range=shapes), legend=legend)
