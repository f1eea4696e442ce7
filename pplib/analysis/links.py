"""Links as requested and as measured, before the trials and after them."""

from __future__ import annotations

import re

import pandas as pd

from pplib.analysis.required_columns import numeric_column, require_columns
from pplib.analysis.statistics import CONFIGURATION_KEYS

REQUESTED = (
    "requested_rtt_s",
    "requested_rtt_spread_s",
    "requested_forward_bit_s",
    "requested_backward_bit_s",
    "requested_loss",
    "requested_backward_loss",
)

MEASURED = tuple(
    f"{name}_{when}{unit}"
    for name, unit in (
        ("rtt", "_s"),
        ("rtt_p99", "_s"),
        ("rtt_spread", "_s"),
        ("forward", "_bit_s"),
        ("backward", "_bit_s"),
        ("forward_loss", ""),
        ("backward_loss", ""),
        ("forward_segments", ""),
        ("backward_segments", ""),
    )
    for when in ("before", "after")
)
"""What is measured of every hop: round trips, their 99th percentile and spread (s), TCP payload per direction
(bit/s), the share of segments lost, and of how many."""

_HOP = re.compile(rf"hop(\d+)_(?:{'|'.join(MEASURED)})")
_COLUMNS = ["link", "link_engine", "hop", "configurations", *REQUESTED]


def link_table(summary: pd.DataFrame) -> pd.DataFrame:
    """What was requested of every link, and what each hop of it was measured to do.

    A link is measured before and after each block of trials, and the trials of a block share what was
    measured: a configuration counts once in the medians, however many trials it has. Failed trials
    count: a link that missed its setting is what this table should show. Times are of one clock. Rates
    are TCP payload; a requested rate includes headers, so that at MTU 1500 at most 1448 / 1500 of it can
    be measured.

    Args:
        summary: one row per trial, the columns of `summary.csv`: `link_engine`, `link_requested_*` and
            `hop<i>_*` as far as they are there.

    Returns:
        One row per link, engine and hop of which anything was measured: `link`, `link_engine`, `hop`
        (from 0), `configurations`, the columns `REQUESTED`, and for each of `MEASURED` its median over
        configurations, `<column>_min` and `<column>_max`: the extremes of all trials. Seconds, bit/s,
        shares for the losses; NaN where there is no limit, or no measurement. Empty for a summary
        without such columns.

    Raises:
        FrameError: a configuration key is missing, or a column does not hold numbers.
    """
    require_columns(summary, CONFIGURATION_KEYS, "the summary")
    hops = sorted({int(match[1]) for name in summary.columns if (match := _HOP.fullmatch(str(name)))})
    rows = []
    for hop in hops:
        names = {name: f"hop{hop}_{name}" for name in MEASURED if f"hop{hop}_{name}" in summary.columns}
        values = pd.DataFrame({name: numeric_column(summary, column, "the summary") for name, column in names.items()})
        for name in REQUESTED:
            known = f"link_{name}" in summary.columns
            values[name] = numeric_column(summary, f"link_{name}", "the summary") if known else float("nan")
        values["link"] = summary["link"]
        values["link_engine"] = summary["link_engine"] if "link_engine" in summary.columns else None
        values["configuration"] = summary.groupby(CONFIGURATION_KEYS, dropna=False, sort=False).ngroup()
        measured = values[values[list(names)].notna().any(axis=1)]
        for (link, engine), group in measured.groupby(["link", "link_engine"], dropna=False, sort=False):
            middle = group.groupby("configuration")[[*REQUESTED, *names]].median()
            row = {"link": link, "link_engine": engine, "hop": hop, "configurations": len(middle)}
            row |= {name: middle[name].median() for name in REQUESTED}
            for name in MEASURED:
                column = group[name] if name in names else pd.Series(dtype="float64")
                row[name] = middle[name].median() if name in names else float("nan")
                row[f"{name}_min"], row[f"{name}_max"] = column.min(), column.max()
            rows.append(row)
    added = [f"{name}{end}" for name in MEASURED for end in ("", "_min", "_max")]
    table = pd.DataFrame(rows, columns=[*_COLUMNS, *added])
    return table.sort_values(["link", "link_engine", "hop"], kind="stable", ignore_index=True)
