"""Tables as a reader wants them: words and units in the head, four digits in the cells."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

import pandas as pd

from pplib.analysis.columns import require_columns
from pplib.analysis.pareto import pareto_front
from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.view.quantities import direction, quantity

_SHOWN = (
    "partition_label partition_name on_front latency_s latency_s_min latency_s_max latency_s_low latency_s_high "
    "throughput_img_s throughput_img_s_min throughput_img_s_max throughput_img_s_low throughput_img_s_high bound_img_s "
    "efficiency bottleneck activation_bytes repeats_ok"
).split()
_NAMED = ("model", "link", "backend", "in_flight")
_HEADS = {
    "partition_label": "point",
    "partition_name": "cut after",
    "repeats_ok": "repeats",
    "remedy": "what to do",
    "minimax": "the choice",
}
_LINK_PARTS = (
    # Words, factor from the stored unit, column of the request, and of the measurement: "{}" is before or after.
    ("round trip (ms)", 1e3, "requested_rtt_s", "rtt_{}_s"),
    ("round trip, 99th percentile (ms)", 1e3, None, "rtt_p99_{}_s"),
    ("forward (Mbit/s)", 1e-6, "requested_forward_bit_s", "forward_{}_bit_s"),
    ("backward (Mbit/s)", 1e-6, "requested_backward_bit_s", "backward_{}_bit_s"),
)


def points_table(points: pd.DataFrame) -> pd.DataFrame:
    """Every point with its median, range and interval as far as `points` has them, in stored units.

    Args:
        points: one row per configuration and point, see `point_table`, `fronts`, `with_confidence`.
    """
    wanted = [*configuration_columns(points), *_SHOWN]
    return points[[name for name in wanted if name in points.columns]].reset_index(drop=True)


def front_table(points: pd.DataFrame, objectives: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The points on each configuration's front, in stored units, best on the first objective first.

    Args:
        points: one row per configuration and point, see `point_table`.
        objectives: column -> "min" or "max"; latency and throughput if not given.

    Raises:
        FrameError: a column is missing.
    """
    if objectives is None:
        objectives = {name: direction(name) for name in ("latency_s", "throughput_img_s")}
    require_columns(points, CONFIGURATION_KEYS, "the table of points")
    groups = [
        pareto_front(rows, objectives) for _, rows in points.groupby(CONFIGURATION_KEYS, dropna=False, sort=False)
    ]
    table = pd.concat(groups, ignore_index=True) if groups else points
    more = [name for name in objectives if name not in _SHOWN]
    return pd.concat([points_table(table).drop(columns="on_front", errors="ignore"), table[more]], axis=1)


def requested_and_measured(links: pd.DataFrame) -> pd.DataFrame:
    """What was asked of every link, beside what it did: a row per link, engine, hop and quantity, as text.

    Args:
        links: see `link_table`.

    Returns:
        `link`, `engine`, `hop`, `quantity` (with its unit), `requested` ("-": no limit), and `before` and
        `after` the trials: the median over configurations, and the extremes where they differ from it.

    Raises:
        FrameError: a column is missing.
    """
    wanted = [column for *_, request, _ in _LINK_PARTS if (column := request)]
    require_columns(links, ["link", "link_engine", "hop", *wanted], "the table of links")
    rows = []
    for link in links.to_dict("records"):
        for words, factor, request, measured in _LINK_PARTS:
            row = {"link": link["link"], "engine": link["link_engine"], "hop": str(link["hop"]), "quantity": words}
            row["requested"] = cell(link[request] * factor) if request else ""
            for when in ("before", "after"):
                name = measured.format(when)
                row[when] = _with_extremes(*(link[name + end] * factor for end in ("", "_min", "_max")))
            rows.append(row)
        if link["requested_loss"] > 0:
            row = {"link": link["link"], "engine": link["link_engine"], "hop": str(link["hop"]), "quantity": "loss (%)"}
            rows.append({**row, "requested": cell(link["requested_loss"] * 100), "before": "", "after": ""})
    return pd.DataFrame(rows, columns=["link", "engine", "hop", "quantity", "requested", "before", "after"])


def configuration_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that name a row's configuration: model, link, backend, depth, and whatever else differs."""
    keys = [*_NAMED, *[key for key in CONFIGURATION_KEYS if key not in _NAMED]]
    return [key for key in keys if key in frame.columns and (key in _NAMED or frame[key].nunique(dropna=False) > 1)]


def table_html(frame: pd.DataFrame) -> str:
    """`frame` as an escaped HTML table; columns in s, bytes and bit/s are shown in ms, MB, Mbit/s.

    >>> table_html(pd.DataFrame({"latency_s": [0.25]})).split("</thead>")[0]
    '<table><thead><tr><th class="n">latency (ms)</th></tr>'
    """
    heads, columns, classes = [], [], []
    for name in frame.columns:
        column = frame[name]
        number = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
        measure = quantity(str(name))
        heads.append(_HEADS.get(str(name), measure.title if number else str(name).replace("_", " ")))
        columns.append([cell(value) for value in (measure.shown(column) if number else column)])
        classes.append(' class="n"' if number else "")
    head = "".join(f"<th{kind}>{html.escape(text)}</th>" for kind, text in zip(classes, heads, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{html.escape(text)}</td>" for kind, text in zip(classes, row, strict=True))
        + "</tr>"
        for row in zip(*columns, strict=True)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _with_extremes(middle: float, low: float, high: float) -> str:
    """Median and extremes in one cell.

    >>> _with_extremes(10.21, 10.2, 10.24), _with_extremes(5.0, 5.0, 5.0), _with_extremes(*[float("nan")] * 3)
    ('10.21 (10.2..10.24)', '5', '-')
    """
    words = [cell(value) for value in (middle, low, high)]
    return words[0] if words[0] == words[1] == words[2] else f"{words[0]} ({words[1]}..{words[2]})"


def cell(value: object) -> str:
    """One value in a few characters.

    >>> [cell(value) for value in (0.123456, 12345.6, 8, True, None, 2e-7)]
    ['0.1235', '12,346', '8', 'yes', '-', '2.00e-07']
    """
    if value is None or (not isinstance(value, str) and pd.isna(value)):  # type: ignore[call-overload]
        return "-"
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
