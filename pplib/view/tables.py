"""Which rows and columns of the results make a table, in stored units; `table_html` shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from pplib.analysis.estimated.uncertainty import with_fronts
from pplib.analysis.pareto import in_order
from pplib.analysis.required_columns import require_columns
from pplib.analysis.statistics import CONFIGURATION_KEYS, GIVEN_KEYS, fronts
from pplib.columns import INDIFFERENCE, OBJECTIVES, quantity
from pplib.view.table_html import cell, with_range

_SHOWN = (
    "partition_label partition_name on_front latency_s latency_s_min latency_s_max latency_s_low latency_s_high "
    "latency_s_raw throughput_img_s throughput_img_s_min throughput_img_s_max throughput_img_s_low "
    "throughput_img_s_high throughput_img_s_raw bound_img_s efficiency bottleneck activation_bytes accuracy "
    "accuracy_top5 repeats_ok"
).split()
_NAMED = ("model", "link", "backend", "in_flight")
_LINK_PARTS = (
    # Words, factor from the stored unit, column of the request, and of the measurement: "{}" is before or after.
    ("round trip (ms)", 1e3, "requested_rtt_s", "rtt_{}_s"),
    ("round trip, 99th percentile (ms)", 1e3, None, "rtt_p99_{}_s"),
    ("jitter: round trips, 10th to 90th percentile (ms)", 1e3, "requested_rtt_spread_s", "rtt_spread_{}_s"),
    ("forward (Mbit/s)", 1e-6, "requested_forward_bit_s", "forward_{}_bit_s"),
    ("backward (Mbit/s)", 1e-6, "requested_backward_bit_s", "backward_{}_bit_s"),
    ("forward loss (%)", 100.0, "requested_loss", "forward_loss_{}"),
    ("backward loss (%)", 100.0, "requested_backward_loss", "backward_loss_{}"),
    ("segments forward, for the loss", 1.0, None, "forward_segments_{}"),
    ("segments backward, for the loss", 1.0, None, "backward_segments_{}"),
)


def trials_table(summary: pd.DataFrame) -> pd.DataFrame:
    """How many trials each configuration has, succeeded and failed.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
    """
    keys = [*configuration_columns(summary), "status"]
    return summary.groupby(keys, dropna=False, sort=False, as_index=False).size().rename(columns={"size": "trials"})


def points_table(points: pd.DataFrame, more: Iterable[str] = ()) -> pd.DataFrame:
    """Every point with its median, range and interval as far as `points` has them, in stored units.

    Args:
        points: one row per configuration and point, see `point_estimates` and `fronts`.
        more: further columns to show, with their intervals.
    """
    new = [name + end for name in more if name not in _SHOWN for end in ("", "_low", "_high")]
    wanted = [*configuration_columns(points), *_SHOWN, *new]
    return points[[name for name in wanted if name in points.columns]].reset_index(drop=True)


def front_table(
    points: pd.DataFrame, objectives: Mapping[str, str] | None = None, probability: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The points on each configuration's front, in stored units, best on the first objective first.

    Args:
        points: one row per configuration and point, see `point_table`.
        objectives: column -> "min" or "max"; latency and throughput if not given.
        probability: see `front_probability`, of the same objectives: then what it calls the front is.

    Raises:
        FrameError: a column is missing.
    """
    if objectives is None:
        objectives = OBJECTIVES
    require_columns(points, CONFIGURATION_KEYS, "the table of points")
    found = fronts(points, objectives, INDIFFERENCE) if probability is None else with_fronts(points, probability)
    groups = [
        in_order(rows[rows["on_front"]], objectives)
        for _, rows in found.groupby(CONFIGURATION_KEYS, dropna=False, sort=False)
    ]
    table = pd.concat(groups, ignore_index=True) if groups else points
    return points_table(table, objectives).drop(columns="on_front", errors="ignore")


def overall_table(
    points: pd.DataFrame, probability: pd.DataFrame, objectives: Mapping[str, str] = OBJECTIVES
) -> pd.DataFrame:
    """The points on the one front over all configurations, in stored units, best on the first objective first.

    Args:
        points: one row per configuration and point, see `point_estimates`.
        probability: see `front_probability`, within `GIVEN_KEYS`.
        objectives: column -> "min" or "max".
    """
    found = with_fronts(points, probability)
    groups = [in_order(rows[rows["on_front"]], objectives) for _, rows in found.groupby(GIVEN_KEYS, dropna=False)]
    table = pd.concat(groups, ignore_index=True)
    shown = points_table(table, objectives).drop(columns="on_front")
    shown.insert(list(shown.columns).index("partition_label") + 1, "front_probability", table["front_probability"])
    return shown


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
                row[when] = with_range(*(link[name + end] * factor for end in ("", "_min", "_max")))
            rows.append(row)
    return pd.DataFrame(rows, columns=["link", "engine", "hop", "quantity", "requested", "before", "after"])


def configuration_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that name a row's configuration: model, link, backend, depth, and whatever else differs."""
    keys = [*_NAMED, *[key for key in CONFIGURATION_KEYS if key not in _NAMED]]
    return [key for key in keys if key in frame.columns and (key in _NAMED or frame[key].nunique(dropna=False) > 1)]


def metrics_table(metrics: Mapping[str, object]) -> pd.DataFrame:
    """The figures of one trial, each in its display unit, as text: a row per figure that was measured.

    Args:
        metrics: column of `summary.csv` -> value, in stored units.

    >>> metrics_table({"latency_s": 0.25, "energy_j": None, "num_microbatches": 8})["value"].tolist()
    ['250 ms', '8']
    """
    rows = []
    for name, value in metrics.items():
        measure = quantity(name)
        if value is None or value != value:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool) and measure.unit
        shown = cell(float(value) * measure.factor if number else value)  # type: ignore[arg-type]
        rows.append({"quantity": measure.name, "value": f"{shown} {measure.unit}".strip()})
    return pd.DataFrame(rows, columns=["quantity", "value"])
