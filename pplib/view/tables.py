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

_FRONT = [
    "model",
    "link",
    "backend",
    "in_flight",
    "partition_label",
    "partition_name",
    "latency_s",
    "throughput_img_s",
    "bound_img_s",
    "efficiency",
    "bottleneck",
    "activation_bytes",
    "repeats_ok",
]
_HEADS = {"partition_label": "point", "partition_name": "cut after", "repeats_ok": "repeats"}


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
    wanted = [*_FRONT, *[name for name in objectives if name not in _FRONT]]
    return table[[name for name in wanted if name in table.columns]]


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
