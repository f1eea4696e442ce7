"""Which trials share a panel and which share a colour, in what order categories stand, and what axes show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import altair as alt
import pandas as pd

from pplib.analysis.required_columns import require_columns
from pplib.analysis.statistics import CONFIGURATION_KEYS, partition_key
from pplib.columns import Quantity
from pplib.view.layout.labels import Axis

_CHOSEN = ("backend", "in_flight", "runtime", "precision", "wire")
PANEL_KEYS = [key for key in CONFIGURATION_KEYS if key not in _CHOSEN]
"""What must be equal for two configurations to be drawn over each other."""

# Readable on white, told apart without red and green (Okabe and Ito); a backend is a hue, depth a tone.
_TONES = {
    "socket": ("#56b4e9", "#0072b2", "#08306b", "#3f007d"),
    "rpc": ("#e69f00", "#d55e00", "#8c2d04", "#662506"),
    "gloo": ("#66c2a4", "#009e73", "#00634a", "#00331f"),
}
_MANY = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6a51a3", "#525252", "#31a354", "#b15928"),
    *("#17becf", "#e7298a", "#bcbd22", "#000000", "#ff9896", "#08306b", "#c5b0d5", "#8c6d31", "#00331f", "#aec7e8"),
)
_OTHERS = ("#cc79a7", "#6a51a3", "#525252", "#31a354", "#b15928")


@dataclass(frozen=True)
class Panel:
    """The rows drawn in one panel, and its heading."""

    title: str
    rows: pd.DataFrame


def with_series(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with a column `series`: "socket, in flight 2"; see `series_of`.

    Raises:
        FrameError: a configuration key is missing.
    """
    require_columns(frame, [*CONFIGURATION_KEYS, "partition_point", "partition_label"], "the table of points")
    return frame.assign(series=series_of(frame))


def series_of(frame: pd.DataFrame) -> pd.Series[str]:
    """What is drawn in one colour: backend and depth, then runtime, precision and wire type where they vary."""
    depth = frame["in_flight"].astype("Int64").astype("str")
    words: pd.Series[str] = frame["backend"].astype("str") + ", in flight " + depth
    for key, before in (("runtime", ""), ("precision", ""), ("wire", "wire ")):
        if frame[key].nunique(dropna=False) > 1:
            words = words + f", {before}" + frame[key].astype("str")
    return words


def panels(frame: pd.DataFrame, keys: list[str] | None = None) -> Iterator[Panel]:
    """Split `frame` by `keys` (default: all but what a series tells).

    A heading names the model and the link, and whatever else differs between the panels.
    """
    keys = PANEL_KEYS if keys is None else keys
    named = [key for key in keys if key == "model" or frame[key].nunique(dropna=False) > 1]
    for values, rows in frame.groupby(keys, dropna=False, sort=False):
        group = dict(zip(keys, values, strict=True))
        words = [_word(key, group[key]) for key in named]
        if "link" in group and "link" not in named and group["link"] != "none":
            words.append(_word("link", group["link"]))
        yield Panel(" · ".join(words), rows.reset_index(drop=True))


def palette(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The series of `frame` in order, and a colour for each."""
    pairs = frame[["backend", "in_flight", "series"]].drop_duplicates().sort_values(["backend", "in_flight"])
    # Sockets first: they are the baseline that the others are compared with.
    pairs = pairs.sort_values("backend", key=lambda names: names != "socket", kind="stable")
    if len(pairs) > len(pairs[["backend", "in_flight"]].drop_duplicates()):  # runtimes: tones of a hue are too few
        return list(pairs["series"]), [_MANY[i % len(_MANY)] for i in range(len(pairs))]
    names, colours, spare = [], [], iter(_OTHERS * 20)
    for backend, rows in pairs.groupby("backend", sort=False):
        tones = list(_TONES.get(str(backend), ()))
        if len(rows) == 1 and tones:
            tones = tones[1:2]
        for i, name in enumerate(rows["series"]):
            names.append(str(name))
            colours.append(tones[i] if i < len(tones) else next(spare))
    return names, colours


def labels_in_order(frame: pd.DataFrame) -> list[str]:
    """The partition labels of `frame` in the model's order: P2 before P10."""
    return sorted({str(label) for label in frame["partition_label"]}, key=partition_key)


def label_axis(labels: list[str]) -> alt.Axis:
    """An axis that shows every one of these labels: upright where they are short, else slanted."""
    short = max((len(label) for label in labels), default=0) <= 3
    return alt.Axis(labelAngle=0 if short else -60, labelOverlap=False, labelLimit=200)


def scale_of(axis: Axis) -> alt.Scale:
    """The scale of an axis, which ends where it does."""
    if axis.log:
        return alt.Scale(type="log", domain=[axis.low, axis.high], nice=False)
    return alt.Scale(domain=[axis.low, axis.high], zero=False, nice=False)


def log_ticks(axis: Axis) -> list[float]:
    """Where a logarithmic axis has its labels: as few round numbers as tell the scale; [] if it is not, or is so short.

    >>> log_ticks(Axis(0.3, 5.2, 300, log=True)), log_ticks(Axis(2, 31_000, 300, log=True))
    ([0.5, 1.0, 2.0, 5.0], [10.0, 100.0, 1000.0, 10000.0])
    """
    if not axis.log:
        return []
    tens = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)))
    for steps in ((1,), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8)):
        found = [float(f"{step}e{ten}") for ten in tens for step in steps]
        if len(shown := [one for one in found if axis.low <= one <= axis.high]) >= _LEAST_LABELS:
            return shown
    return []


_LEAST_LABELS = 4


def labels_on(axis: Axis) -> alt.Axis:
    """The labels of an axis; of a logarithmic one Vega would leave out what is near another, be it the 1."""
    if ticks := log_ticks(axis):
        return alt.Axis(labelSeparation=5, values=ticks, format=",.6~g")
    return alt.Axis(labelSeparation=5)


def title_on(measure: Quantity, axis: Axis) -> str:
    """The heading of an axis: what is measured, and whether the axis is logarithmic."""
    return f"{measure.title}, log scale" if axis.log else measure.title


def _word(key: str, value: object) -> str:
    if key == "model":
        return str(value)
    if key == "link":
        return "no link shaping" if value == "none" else f"link {value}"
    if key == "optimize":
        return "optimized" if value else "not optimized"
    return f"{key.replace('_', ' ')} {value}"


def bar_ends(rows: pd.DataFrame, name: str) -> tuple[pd.Series[float], pd.Series[float]]:
    """The ends of the bars of a column: its interval where one is known, else the range of its repeats, or nothing.

    Args:
        rows: one per point, see `point_estimates` and `point_table`.
        name: of the column.
    """
    ends = []
    for known, seen in (("low", "min"), ("high", "max")):
        measured = rows.get(f"{name}_{seen}", rows[name])
        ends.append(rows[f"{name}_{known}"].fillna(measured) if f"{name}_{known}" in rows else measured)
    return ends[0], ends[1]
