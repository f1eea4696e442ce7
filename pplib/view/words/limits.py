"""What is said of limits and of energy: which points are within, the best of them, the nearest where none is."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from pplib.analysis.statistics import CONFIGURATION_KEYS, GIVEN_KEYS
from pplib.columns import quantity
from pplib.objectives import Aims
from pplib.view.words.answer import where_words
from pplib.view.words.differences import in_words


def figure(name: str, value: float) -> str:
    """A column's value in its display unit, with its name.

    >>> figure("latency_s", 0.08)
    'latency 80 ms'
    """
    measure = quantity(name)
    return f"{measure.name} {value * measure.factor:.4g} {measure.unit}".strip()


def limit_lines(table: pd.DataFrame, aims: Aims) -> list[str]:
    """A sentence for each model and link.

    Args:
        table: see `within_limits`.
        aims: whose limits it is of.
    """
    bounds = " and ".join(
        f"{'at most' if aims.directions[name] == 'min' else 'at least'} {figure(name, value)}"
        for name, value in aims.limits.items()
    )
    lines = []
    for key, group in table.groupby(GIVEN_KEYS, dropna=False, sort=True):
        given = dict(zip(GIVEN_KEYS, key, strict=True))
        where = where_words(given)
        best = group[group["best"]]
        if best.empty:
            lines.append(f"{where}: no trial succeeded.")
            continue
        row = best.iloc[0]
        choices = [name for name in CONFIGURATION_KEYS if name not in GIVEN_KEYS and group[name].nunique() > 1]
        named = " ".join([str(row["partition_label"]), *(in_words(name, row[name]) for name in choices)])
        values = ", ".join(figure(name, float(row[name])) for name in aims.directions)
        if row["within"]:
            lines.append(
                f"{where}: {int(group['within'].sum())} of {len(group)} points have {bounds}; the best of them is "
                f"{named} ({values}){_sure(row)}."
            )
        else:
            beyond = "; ".join(_miss(name, limit, float(row[name]), aims) for name, limit in aims.limits.items())
            share = float(row["within_probability"])
            chance = "" if share != share else f"; within in {share:.0%} of what other sweeps might find"
            lines.append(f"{where}: no point has {bounds}; the nearest is {named} ({beyond}{chance}).")
    return lines


def energy_words(summary: pd.DataFrame, columns: Iterable[str]) -> str:
    """Of what the energies are that a front or a limit is of, and whether they were measured; empty without any.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        columns: that are shown.
    """
    told = []
    for name in (one for one in columns if one.endswith("energy_per_image_j") and one in summary.columns):
        scope_of = name.replace("energy_per_image_j", "energy_scope")
        scopes: Iterable[str] = summary[scope_of].dropna().astype("str").unique() if scope_of in summary.columns else []
        guessed = summary.get("energy_estimated", pd.Series(0, index=summary.index)).fillna(0).astype("float64")
        source = {0: "measured", 1: "estimated from idle_w and busy_w"}
        how = " and ".join(source[int(one)] for one in sorted((guessed[summary[name].notna()] > 0).unique()))
        told.append(f"{quantity(name).name}: {how}, of {', '.join(scopes) or 'what is not told'}")
    return f"Energy: {'; '.join(told)}." if told else ""


def _sure(row: pd.Series) -> str:
    if row["within_probability"] != row["within_probability"]:
        return ": how surely is not known, nothing was repeated"
    return (
        f": within in {row['within_probability']:.0%} of what other sweeps might find, the best or as good in "
        f"{row['best_probability']:.0%}"
    )


def _miss(name: str, limit: float, value: float, aims: Aims) -> str:
    less = aims.directions[name] == "min"
    if (value <= limit) if less else (value >= limit):
        return f"{figure(name, value)} is within"
    share = f", {abs(value - limit) / abs(limit):.1%} too {'much' if less else 'little'}" if limit else ", too much"
    return f"{figure(name, value)}{share}"
