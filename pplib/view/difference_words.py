"""Differences between configurations in words: how much more or less, with the interval, or that they are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from pplib.columns import INDIFFERENCE

_SHARES = {"latency_s": "latency", "throughput_img_s": "throughput"}


def difference_lines(differences: pd.DataFrame) -> list[str]:
    """One sentence for each pair of configurations.

    Args:
        differences: see `paired_differences`; of latency, throughput, and the transfers of hops.
    """
    lines = []
    for (first, second), pairs in differences.groupby(["first", "second"], sort=False):
        keys = [name for name in ("model", "link", "in_flight", "batch_size") if name in pairs.columns]
        telling = [name for name in keys if name == "in_flight" or differences[name].nunique(dropna=False) > 1]
        shared = list(pairs.columns[: list(pairs.columns).index("first")])
        for values, rows in pairs.groupby(shared, dropna=False, sort=False):
            named = dict(zip(pairs.columns, values, strict=False))
            where = ", ".join(f"{name.replace('_', ' ')} {named[name]}" for name in telling)
            cuts = int(rows["cuts"].max())
            if told := "; ".join(_words(row) for row in _known(rows)):
                lines.append(f"{where.capitalize()}, {first} against {second}, {cuts} cuts that both have: {told}.")
    return lines


def _known(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in rows.to_dict("records"):
        if row["cuts"] and pd.notna(row["ratio"]):
            yield {str(name): value for name, value in row.items()}


def _words(row: dict[str, Any]) -> str:
    column = str(row["column"])
    if column in _SHARES:
        return _share(_SHARES[column], *(100 * (row[f"ratio{end}"] - 1) for end in ("", "_low", "_high")))
    hop = column.removeprefix("hop").removesuffix("_transfer_s")
    return _milliseconds(hop, *(1e3 * row[f"difference{end}"] for end in ("", "_low", "_high")))


def _share(what: str, middle: float, low: float, high: float) -> str:
    """In percent.

    >>> _share("latency", 4.6, 0.6, 7.0)
    'latency 4.6 % more (0.6 to 7.0)'
    >>> _share("throughput", -0.4, -1.5, 0.9)
    'throughput equal within 1.5 %'
    >>> _share("throughput", -1.2, -3.6, 1.6)
    'throughput not told apart (-3.6 to 1.6 %)'
    """
    if pd.isna(low):
        return f"{what} {abs(middle):.1f} % {'more' if middle > 0 else 'less'} (not repeated: by how much is not known)"
    if max(abs(low), abs(high)) <= 100 * INDIFFERENCE:
        return f"{what} equal within {max(abs(low), abs(high)):.1f} %"
    if low <= 0 <= high:
        return f"{what} not told apart ({low:.1f} to {high:.1f} %)"
    return f"{what} {abs(middle):.1f} % {'more' if middle > 0 else 'less'} ({_span(low, high, 1)})"


def _milliseconds(hop: str, middle: float, low: float, high: float) -> str:
    """Of one hop.

    >>> _milliseconds("0", -1.21, -1.35, -1.07)
    'hop 0 takes 1.21 ms less (1.07 to 1.35)'
    >>> _milliseconds("1", 0.02, -0.03, 0.05)
    'hop 1 not told apart (-0.03 to 0.05 ms)'
    """
    if pd.isna(low):
        return f"hop {hop} takes {abs(middle):.2f} ms {'more' if middle > 0 else 'less'} (not repeated)"
    if low <= 0 <= high:
        return f"hop {hop} not told apart ({low:.2f} to {high:.2f} ms)"
    return f"hop {hop} takes {abs(middle):.2f} ms {'more' if middle > 0 else 'less'} ({_span(low, high, 2)})"


def _span(low: float, high: float, digits: int) -> str:
    least, most = sorted((abs(low), abs(high)))
    return f"{least:.{digits}f} to {most:.{digits}f}"
