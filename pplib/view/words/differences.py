"""Differences between configurations in words: how much more or less, with the interval, or that they are equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pplib.analysis.estimated.device_ratios import DeviceRatio

_SHARES = {"latency_s": "latency", "throughput_img_s": "throughput"}


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.02), percent(0.125), percent(0.0)
    ('2 %', '12.5 %', '0 %')
    """
    return f"{share * 100:.3g} %"


def difference_lines(differences: pd.DataFrame, indifference: float, key: str = "backend") -> list[str]:
    """One sentence for each pair of configurations.

    Args:
        differences: see `paired_differences`; of latency, throughput, and the transfers of hops.
        indifference: latency and throughput are equal that differ by no more than this share.
        key: what the configurations of a pair differ in.
    """
    lines = []
    for (first, second), pairs in differences.groupby(["first", "second"], sort=False):
        keys = [name for name in ("model", "backend", "link", "in_flight", "batch_size") if name in pairs.columns]
        telling = [name for name in keys if name == "in_flight" or differences[name].nunique(dropna=False) > 1]
        shared = list(pairs.columns[: list(pairs.columns).index("first")])
        for values, rows in pairs.groupby(shared, dropna=False, sort=False):
            named = dict(zip(pairs.columns, values, strict=False))
            where = ", ".join(in_words(name, named[name]) for name in telling)
            cuts = int(rows["cuts"].max())
            if told := "; ".join(_words(row, indifference) for row in _known(rows)):
                words = [*([where] if where else []), f"{in_words(key, first)} against {in_words(key, second)}"]
                line = f"{', '.join(words)}, {cuts} cuts that both have: {told}."
                lines.append(line[0].upper() + line[1:])
    return lines


def device_lines(ratios: Sequence[DeviceRatio], level: float = 0.95) -> list[str]:
    """A sentence for each configuration and device but the first of its pipeline.

    Args:
        ratios: see `device_ratios`.
        level: the share of cases in which an interval should hold.
    """
    lines = []
    telling = [name for name in (ratios[0].keys if ratios else ()) if len({str(one.keys[name]) for one in ratios}) > 1]
    for one in ratios:
        where = ", ".join(in_words(name, one.keys[name]) for name in telling)
        low, high = np.quantile(one.draws, [(1 - level) / 2, (1 + level) / 2])
        lines.append(
            f"For the same work {one.device} takes {one.ratio:.3g} ({low:.3g} to {high:.3g}) times as long as "
            f"{one.against}{f' ({where})' if where else ''}."
        )
    return lines


def difference_words(what: str, ratio: Sequence[float], indifference: float) -> str:
    """By how much something is more or less.

    Args:
        what: it is.
        ratio: of what is compared, with the ends of its interval, NaN where these are not known.
        indifference: what difference does not matter, as a share.

    >>> difference_words("throughput", (1.732, 1.61, 1.85), 0.02)
    'throughput 73.2 % more (61.0 to 85.0)'
    """
    middle, low, high = (100 * (each - 1) for each in ratio)
    return _share(what, middle, low, high, 100 * indifference)


def in_words(key: str, value: object) -> str:
    """A configuration's value in words.

    >>> in_words("backend", "rpc"), in_words("in_flight", 2), in_words("optimize", False)
    ('rpc', 'in flight 2', 'not optimized')
    """
    if key == "optimize":
        return "optimized" if value else "not optimized"
    return str(value) if key in ("backend", "runtime", "precision", "setup") else f"{key.replace('_', ' ')} {value}"


def _known(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in rows.to_dict("records"):
        if row["cuts"] and pd.notna(row["ratio"]):
            yield {str(name): value for name, value in row.items()}


def _words(row: dict[str, Any], indifference: float) -> str:
    column = str(row["column"])
    if column in _SHARES:
        return difference_words(_SHARES[column], [row[f"ratio{end}"] for end in ("", "_low", "_high")], indifference)
    hop = column.removeprefix("hop").removesuffix("_transfer_s")
    return _milliseconds(hop, *(1e3 * row[f"difference{end}"] for end in ("", "_low", "_high")))


def _share(what: str, middle: float, low: float, high: float, equal: float) -> str:
    """In percent.

    >>> _share("latency", 4.6, 0.6, 7.0, 2.0)
    'latency 4.6 % more (0.6 to 7.0)'
    >>> _share("throughput", -0.4, -1.5, 0.9, 2.0)
    'throughput equal within 1.5 %'
    >>> _share("throughput", -1.2, -3.6, 1.6, 2.0)
    'throughput not told apart (-3.6 to 1.6 %)'
    """
    if pd.isna(low):
        return f"{what} {abs(middle):.1f} % {'more' if middle > 0 else 'less'} (not repeated: by how much is not known)"
    if max(abs(low), abs(high)) <= equal:
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
