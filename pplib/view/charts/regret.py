"""How much worse than the link's best every point is, link by link: one cut for a network that changes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import altair as alt
import pandas as pd

from pplib.analysis.robust import GROUP_KEYS, Draws, minimax_regret, regret
from pplib.columns import direction, quantity
from pplib.errors import FrameError
from pplib.view.charts.front import series_title
from pplib.view.layout.series import Panel, label_axis, labels_in_order, palette, panels, with_series

WORST = "worst of them"
"""The row below the links."""

_CELL, _ROW = 32, 28
_KNEE = 5.0
_TIGHT = alt.Scale(paddingInner=0, paddingOuter=0)


def regret_chart(
    points: pd.DataFrame, objective: str | Mapping[str, str] = "latency_s", draws: Draws | None = None
) -> alt.TopLevelMixin:
    """A heat map of regret in percent, point x link, with the worst of the links below.

    One map per model x backend x depth (and whatever else differs). A framed column is the minimax
    point: the one whose worst regret is smallest. Grey: not measured there.

    Args:
        points: one row per configuration and point, see `point_table`; two links or more.
        objective: one column; a mapping gives its direction, else the column's usual one.
        draws: of that column, see `point_draws`: then there are intervals, and points that are as good are named.

    Raises:
        FrameError: a missing column, or nothing measured; as `regret`.
    """
    wanted = {objective: direction(objective)} if isinstance(objective, str) else objective
    cells = with_series(regret(points, wanted, draws))
    choices = minimax_regret(points, wanted, draws)
    if cells["regret"].isna().all():
        raise FrameError(f"the table of points: nothing to draw: no point has {' or '.join(wanted)}")
    highest = float(cells["regret"].max()) * 100
    measure = quantity(next(iter(wanted)))
    series, _ = palette(cells)
    ordered = sorted(panels(cells, GROUP_KEYS), key=lambda one: series.index(one.rows["series"].iloc[0]))
    drawn = [_map(one, _of_group(choices, one.rows), measure.name, highest) for one in ordered]
    return drawn[0] if len(drawn) == 1 else alt.vconcat(*drawn)


def _of_group(choices: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `choices` of the one group that `rows` are of."""
    group = rows[GROUP_KEYS].drop_duplicates()
    return choices.merge(group, on=GROUP_KEYS).reset_index(drop=True)


def _map(panel: Panel, choice: pd.DataFrame, measured: str, highest: float) -> alt.LayerChart | alt.FacetChart:
    order = labels_in_order(panel.rows)
    links = list(dict.fromkeys(panel.rows["link"].astype("str")))
    keep = ["partition_label", "link", "regret", "regret_low", "regret_high"]
    # Of one link there is nothing to take the worst of.
    rows = [*links, WORST] if len(links) > 1 else links
    renamed = {"worst_regret": "regret", "worst_regret_low": "regret_low", "worst_regret_high": "regret_high"}
    worst = choice.iloc[: len(choice) if len(links) > 1 else 0].rename(columns=renamed)
    worst = worst.assign(link=WORST)
    data = pd.concat([panel.rows[keep].astype({"link": "str"}), worst[keep]], ignore_index=True)
    data["percent"] = data["regret"] * 100
    data["words"] = [_percent(value) for value in data["percent"]]
    ends = zip(data["words"], data["regret_low"], data["regret_high"], strict=True)
    data["told"] = [
        f"{one} ({_percent(low * 100)} to {_percent(high * 100)})" if low == low else one for one, low, high in ends
    ]
    # White digits on the darker half of the colours.
    data["dark"] = _depth(data["percent"]) > 0.55 * _depth(pd.Series([max(highest, 1.0)])).iloc[0]
    best = set(choice.loc[choice["minimax"], "partition_label"].astype("str"))
    base = alt.Chart(data).encode(
        x=alt.X("partition_label:N", sort=order, title="partition point", axis=label_axis(order), scale=_TIGHT),
        y=alt.Y("link:N", sort=rows, title="link", scale=_TIGHT, axis=alt.Axis(labelLimit=200)),
    )
    colour = alt.Color(
        "percent:Q",
        scale=alt.Scale(type="symlog", constant=_KNEE, scheme="blues", domain=[0, max(highest, 1.0)]),
        legend=alt.Legend(title="regret (%)", format=",.0f", values=_ticks(highest)),
    )
    tooltip = [
        alt.Tooltip("partition_label:N", title="partition point"),
        alt.Tooltip("link:N", title="link"),
        alt.Tooltip("told:N", title="regret (%), 95 % interval"),
    ]
    known, unknown = base.transform_filter("isValid(datum.percent)"), base.transform_filter("!isValid(datum.percent)")
    layers: list[alt.Chart] = [
        unknown.mark_rect(color="#e4e4e4", stroke="white").encode(tooltip=tooltip),
        known.mark_rect(stroke="white").encode(color=colour, tooltip=tooltip),
        base.mark_text(fontSize=10).encode(
            text="words:N", color=alt.condition("datum.dark", alt.value("white"), alt.value("#222222"))
        ),
    ]
    if best:
        # Without a y, a rectangle spans the whole height.
        frames = alt.Chart(pd.DataFrame({"partition_label": sorted(best, key=order.index)}))
        framed = frames.mark_rect(filled=False, stroke="#d55e00", strokeWidth=3)
        layers.append(framed.encode(x=alt.X("partition_label:N", sort=order)))
    names = ", ".join(sorted(best, key=order.index)) if best else "none was measured on every link"
    alike = sorted(set(choice.loc[choice["as_good"], "partition_label"].astype("str")) - best, key=order.index)
    smallest = float(choice["worst_regret"].min()) * 100
    words = ", the best on every link" if smallest == 0 else f", at most {_percent(smallest)} % worse than the best"
    title = alt.TitleParams(
        f"{series_title(panel)}: regret of {measured}",
        subtitle=[
            f"minimax point: {names}{words if best else ''}",
            *([f"not told from it: {', '.join(alike)}"] * bool(alike)),
        ],
        anchor="start",
        fontSize=14,
    )
    return alt.layer(*layers).properties(width=_CELL * len(order), height=_ROW * len(rows), title=title)


def _depth(percent: pd.Series[float]) -> pd.Series[float]:
    """How dark a cell is: nearly linear up to a few percent, logarithmic from there."""
    return percent.map(lambda value: math.log1p(value / _KNEE))


def _ticks(highest: float) -> list[float]:
    return [tick for tick in (0, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000) if tick <= max(highest, 1.0)]


def _percent(value: float) -> str:
    """A regret in percent, in four characters.

    >>> [_percent(value) for value in (0.0, 0.04, 3.14, 42.4, 1234.0, 54321.0, float("nan"))]
    ['0', '<0.1', '3.1', '42', '1234', '54k', '-']
    """
    if math.isnan(value):
        return "-"
    if value == 0:
        return "0"
    if value < 0.05:
        return "<0.1"
    if value < 9.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 9999.5 else f"{value / 1000:.0f}k"
