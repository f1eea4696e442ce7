"""One way to show a table, in a notebook and in the report: words and units in the head, few digits in the cells."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pplib.columns import Quantity, quantity

_HEADS = {
    "partition_label": "point",
    "partition_name": "cut after",
    "repeats_ok": "repeats",
    "remedy": "what to do",
    "minimax": "the choice",
    "max_abs_err": "largest error",
}
# What a row is about, and what is read as a sentence, stays a column however often it says the same.
_ROW_NAMES = ("partition_label", "label", "lane", "hop", "quantity", "unit", "index", "trials", "status")
_PROSE = ("warning", "reason", "remedy", "error", "tied_with")

STYLE = """
.table { overflow-x: auto; margin: 1rem 0; }
.table table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.table th, .table td { padding: 0.3rem 0.6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e3e6eb; }
.table th { background: #f3f5f8; color: #1d2129; border-bottom: 2px solid #c8ced8; font-weight: 600; }
.table .n { text-align: right; white-space: nowrap; }
.table th.n { white-space: normal; }
.table .t { white-space: nowrap; }
.table .w { min-width: 17rem; max-width: 30rem; white-space: normal; }
p.same { color: #565d69; font-size: 0.85rem; margin: 0.5rem 0; }
"""


@dataclass(frozen=True)
class _Column:
    name: str
    head: str
    kind: str  # n: numbers, t: a few words, w: sentences
    cells: list[str]


def table_html(frame: pd.DataFrame) -> str:
    """`frame` as an escaped HTML table; columns in s, bytes and bit/s are shown in ms, MB, Mbit/s.

    A value and its range (`_min`, `_max`) stand in one cell, as do the ends of an interval (`_low`, `_high`).
    Columns without any value are left out; what is the same in every row is said once, above. Those that
    `frame.attrs["kept"]` names stay as they are.

    >>> table_html(pd.DataFrame({"latency_s": [0.25]})).split("</thead>")[0]
    '<table><thead><tr><th class="n">latency (ms)</th></tr>'
    """
    kept = frame.attrs.get("kept", ())
    columns = [column for column in _columns(frame) if set(column.cells) - {"-", ""} or column.name in kept]
    same = [column for column in columns if column.name not in kept and _says_the_same(column, frame)]
    shown = [column for column in columns if column not in same] or columns
    words = "; ".join(f"{column.head} {column.cells[0]}" for column in same if column not in shown)
    above = f'<p class="same">In every row: {html.escape(words)}.</p>' if words else ""
    head = "".join(f'<th class="{column.kind}">{html.escape(column.head)}</th>' for column in shown)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{column.kind}">{html.escape(column.cells[row])}</td>' for column in shown)
        + "</tr>"
        for row in range(len(frame))
    )
    return f"{above}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def notebook_table(frame: pd.DataFrame) -> str:
    """The same with its style, in a box of its own that scrolls where the page is narrow."""
    return f'<style>{STYLE}</style><div class="table">{table_html(frame)}</div>'


def with_range(middle: float, low: float, high: float) -> str:
    """A value and its range in one cell.

    >>> with_range(10.21, 10.2, 10.24), with_range(5.0, 5.0, 5.0), with_range(*[float("nan")] * 3)
    ('10.21 [10.2, 10.24]', '5', '-')
    """
    words = [cell(value) for value in (middle, low, high)]
    return words[0] if words[0] == words[1] == words[2] else f"{words[0]} [{words[1]}, {words[2]}]"


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


def _columns(frame: pd.DataFrame) -> list[_Column]:
    names = [str(name) for name in frame.columns]
    inside = {_end(name, end) for name in names for end in ("min", "max", "low", "high")} & set(names)
    found = []
    for name in names:
        if name in inside and _base(name) in names:
            continue
        column = frame[name]
        if not _is_number(column):
            head = _HEADS.get(name, name.replace("_", " "))
            found.append(_Column(name, head, "w" if name in _PROSE else "t", [cell(value) for value in column]))
            continue
        measure = quantity(name)
        head = _HEADS.get(name, measure.title)
        low, high = _end(name, "min"), _end(name, "max")
        if low in names and high in names:
            cells = [with_range(*row) for row in zip(*_shown(frame, (name, low, high), measure), strict=True)]
            found.append(_Column(name, f"{head}{' [range]' if any('[' in one for one in cells) else ''}", "n", cells))
        else:
            found.append(_Column(name, head, "n", [cell(value) for value in measure.shown(column)]))
        low, high = _end(name, "low"), _end(name, "high")
        if low in names and high in names:
            ends = zip(*_shown(frame, (low, high), measure), strict=True)
            cells = ["-" if pd.isna(a) else f"[{cell(a)}, {cell(b)}]" for a, b in ends]
            found.append(_Column(low, "95 % interval", "n", cells))
    return found


def _says_the_same(column: _Column, frame: pd.DataFrame) -> bool:
    """Whether a column that names a setting is constant; a measured one stays, whatever it says."""
    if len(frame) < 2 or len(set(column.cells)) > 1 or column.name in (*_ROW_NAMES, *_PROSE):
        return False
    return column.name not in frame or not pd.api.types.is_float_dtype(frame[column.name].dtype)


def _shown(frame: pd.DataFrame, names: Sequence[str], measure: Quantity) -> list[pd.Series[float]]:
    return [measure.shown(frame[name]) for name in names]


def _is_number(column: pd.Series[float]) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def _end(name: str, end: str) -> str:
    """The column of a quantity's range: `latency_s` -> `latency_s_min`; a unit's profile has `time_min_s`."""
    return f"time_{end}_s" if name == "time_s" else f"{name}_{end}"


def _base(name: str) -> str:
    if name.startswith("time_"):
        return "time_s"
    return name.rpartition("_")[0]
