"""The front with its spread: what one repeat attains, half of them, all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import altair as alt
import pandas as pd

from pplib.analysis.required_columns import numeric_column, require_columns
from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.columns import OBJECTIVES, Quantity, direction, quantity
from pplib.errors import FrameError
from pplib.view.layout.labels import Axis, axis_over
from pplib.view.layout.series import labels_on, palette, panels, scale_of, series_of, title_on


def attainment_chart(
    attained: pd.DataFrame,
    objectives: Sequence[str] | Mapping[str, str] = tuple(OBJECTIVES),
    width: int = 400,
    height: int = 260,
    columns: int = 2,
) -> alt.TopLevelMixin:
    """One panel per configuration: the stairs that a share of the repeats attains, the spread shaded.

    The middle line is what half of the repeats attain; the shade runs from the lowest level to the
    highest. The wider the shade, the less a front of medians should be believed. The axes of panels of
    one model and link are the same, so that configurations can be compared.

    Args:
        attained: see `attainment`.
        objectives: its two columns; a mapping gives their directions, else the column's usual one.
        width: of a panel, pixels.
        height: of a panel, pixels.
        columns: panels in a row.

    Raises:
        FrameError: not two objectives, a missing column, or no surface.
    """
    names = list(objectives)
    if len(names) != 2:
        raise FrameError(f"objectives: a picture of a surface needs two columns, got {names}")
    require_columns(attained, [*CONFIGURATION_KEYS, "level", "attained_by", "repeats"], "the surfaces")
    directions = objectives if isinstance(objectives, Mapping) else {name: direction(name) for name in names}
    measures = (quantity(names[0]), quantity(names[1]))
    frame = attained.assign(
        x=measures[0].shown(numeric_column(attained, names[0], "the surfaces")),
        y=measures[1].shown(numeric_column(attained, names[1], "the surfaces")),
        series=series_of(attained),
    )
    if frame.empty:
        raise FrameError("the surfaces: nothing to draw: no configuration has a usable trial")
    series, tones = palette(frame)
    drawn = []
    for shared in panels(frame):
        axes = (axis_over([*shared.rows["x"]], width, margin=0.12), axis_over([*shared.rows["y"]], height, margin=0.12))
        for name in [name for name in series if name in set(shared.rows["series"])]:
            rows = shared.rows[shared.rows["series"] == name]
            chart = _panel(rows, measures, axes, [directions[one] for one in names], tones[series.index(name)])
            title = alt.TitleParams(f"{shared.title} · {name}", anchor="start", fontSize=14)
            drawn.append(chart.properties(width=width, height=height, title=title))
    if len(drawn) == 1:
        return drawn[0]
    # Configurations with different numbers of repeats need a legend each.
    resolve: Literal["shared", "independent"] = "shared" if frame["repeats"].nunique() == 1 else "independent"
    together: alt.ConcatChart = alt.concat(*drawn, columns=columns).resolve_scale(shape=resolve)
    return together


def _panel(
    rows: pd.DataFrame, measures: tuple[Quantity, Quantity], axes: tuple[Axis, Axis], directions: list[str], tone: str
) -> alt.LayerChart | alt.FacetChart:
    # With few repeats two levels may be the same number of them.
    levels = sorted(float(level) for level in rows.drop_duplicates("attained_by")["level"])
    surfaces = {level: _stairs(rows[rows["level"] == level], axes, directions) for level in levels}
    middle = min(levels, key=lambda level: abs(level - 0.5))
    words = {level: _level(level, rows) for level in levels}
    x = alt.X("x:Q", title=title_on(measures[0], axes[0]), scale=scale_of(axes[0]), axis=labels_on(axes[0]))
    y = alt.Y("y:Q", title=title_on(measures[1], axes[1]), scale=scale_of(axes[1]), axis=labels_on(axes[1]))
    step: Literal["step-after", "step-before"] = "step-after" if directions[0] == "min" else "step-before"
    layers: list[alt.Chart] = []
    if len(levels) > 1:
        band = _between(surfaces[levels[0]], surfaces[levels[-1]], directions[0])
        shade = alt.Chart(band).mark_area(interpolate=step, color=tone, opacity=0.2)
        layers.append(shade.encode(x=x, y=y, y2=alt.Y2("y2:Q")))
    for level in levels:
        line = alt.Chart(surfaces[level]).mark_line(
            interpolate=step,
            color=tone,
            strokeWidth=2.4 if level == middle else 1,
            opacity=1 if level == middle else 0.8,
        )
        layers.append(line.encode(x=x, y=y, order=alt.Order("x:Q")))
        corners = rows[rows["level"] == level][["x", "y"]].assign(surface=words[level])
        tooltip = [
            alt.Tooltip("surface:N", title="attained by"),
            alt.Tooltip("x:Q", title=measures[0].title, format=".4~g"),
            alt.Tooltip("y:Q", title=measures[1].title, format=".4~g"),
        ]
        shape = alt.Shape(
            "surface:N",
            scale=alt.Scale(domain=[words[one] for one in levels], range=_SHAPES[: len(levels)]),
            legend=alt.Legend(title="attained by", orient="bottom", columns=4, symbolStrokeColor="#444444"),
        )
        marks = alt.Chart(corners).mark_point(color=tone, size=55, filled=level == middle, strokeWidth=1.5, opacity=1)
        layers.append(marks.encode(x=x, y=y, tooltip=tooltip, shape=shape))
    return alt.layer(*layers)


_SHAPES = [
    "triangle-up",
    "circle",
    "triangle-down",
    "square",
    "diamond",
    "cross",
    "triangle-left",
    "triangle-right",
] * 4


def _level(level: float, rows: pd.DataFrame) -> str:
    one = rows[rows["level"] == level].iloc[0]
    return f"{one['attained_by']} of {one['repeats']} repeat{'s' if one['repeats'] > 1 else ''}"


def _stairs(corners: pd.DataFrame, axes: tuple[Axis, Axis], directions: list[str]) -> pd.DataFrame:
    """The corners by x, with the ends of the surface at the border of the panel on its worse side."""
    ordered = corners[["x", "y"]].astype("float64").sort_values("x", ignore_index=True)
    worst_x = axes[0].high if directions[0] == "min" else axes[0].low
    worst_y = axes[1].low if directions[1] == "max" else axes[1].high
    first, last = ordered.iloc[0], ordered.iloc[-1]
    if directions[0] == "min":
        ends = [(first["x"], worst_y), *ordered.itertuples(index=False, name=None), (worst_x, last["y"])]
    else:
        ends = [(worst_x, first["y"]), *ordered.itertuples(index=False, name=None), (last["x"], worst_y)]
    return pd.DataFrame(ends, columns=["x", "y"])


def _between(one: pd.DataFrame, other: pd.DataFrame, direction_of_x: str) -> pd.DataFrame:
    """Both stairs at every x where either has a step: `y` and `y2`."""
    values = sorted({*one["x"], *other["x"]})
    last = direction_of_x == "min"
    height = []
    for stairs in (one, other):
        known = stairs.drop_duplicates("x", keep="last" if last else "first").set_index("x")["y"]
        worst = stairs["y"].iloc[0 if last else -1]
        height.append(known.reindex(values, method="ffill" if last else "bfill").fillna(worst))
    return pd.DataFrame({"x": values, "y": height[0].to_numpy(), "y2": height[1].to_numpy()})
