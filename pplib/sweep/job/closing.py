"""The last lines of the command: each configuration's front, by what differs between them, with figures."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.uncertainty import UNDECIDED, front_probability, ties, with_fronts
from pplib.analysis.pareto import in_order
from pplib.analysis.repeats import point_name
from pplib.analysis.statistics import CONFIGURATION_KEYS, GIVEN_KEYS
from pplib.columns import INDIFFERENCE, OBJECTIVES
from pplib.links import UNSHAPED
from pplib.view.words.disturbed import disturbed_words
from pplib.view.words.fidelity import fidelity_words
from pplib.view.words.ties import tie_lines

NAMED = ("model", "backend", "link", "in_flight")  # always told
_BEST = (("lowest latency", "latency_s", 1e3, "ms", True), ("most images", "throughput_img_s", 1.0, "img/s", False))


def closing_lines(summary: pd.DataFrame, indifference: float = INDIFFERENCE) -> list[str]:
    """What to read first of a summary with at least one trial that succeeded.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        indifference: what difference between two points does not matter, as a share.
    """
    sure = front_probability(summary, OBJECTIVES, indifference=indifference)
    points = with_fronts(point_estimates(summary), sure)
    others = [key for key in CONFIGURATION_KEYS if key not in (*NAMED, "setup")]
    differing = [key for key in others if points[key].nunique(dropna=False) > 1]
    alike = ties(summary, OBJECTIVES, indifference=indifference)
    tied = {point_name(row): row["tied_with"] for row in alike.to_dict("records")}
    lines = list(_overall(summary, points, indifference))
    for key, group in points.groupby(CONFIGURATION_KEYS, dropna=False, sort=True):
        named = dict(zip(CONFIGURATION_KEYS, key, strict=True))
        more = [_word(key, named[key]) for key in differing] + ([str(named["setup"])] if named["setup"] else [])
        over = "" if named["link"] == UNSHAPED.name else f" over {named['link']}"
        title = f"{named['model']} {named['backend']}{over} in flight {named['in_flight']}"
        front = in_order(group[group["on_front"]], OBJECTIVES)
        where = ", ".join(front["partition_label"]) if len(front) else "no trial succeeded"
        lines += [f"front:   {', '.join([title, *more])}: {where}", *(_best(front) if len(front) else ())]
        lines += [f"         {words}"] if (words := fidelity_words(group)) else []
        rest = group[~group["partition_label"].isin(front["partition_label"])].to_dict("records")
        mine = {point_name(row) for row in group.to_dict("records")}
        here = alike[[point_name(row) in mine for row in alike.to_dict("records")]]
        lines += [f"         {line}" for line in tie_lines(here, indifference)]
        open_ones = [row for row in rest if not tied[point_name(row)] and row["front_probability"] >= UNDECIDED]
        if labels := [f"{row['partition_label']} ({row['front_probability']:.0%})" for row in open_ones]:
            lines.append(f"         not decided, on it in so many of 100 such sweeps: {', '.join(labels)}")
    if words := disturbed_words(summary):
        lines.append(f"disturbed: {words}")
    return lines


def _overall(summary: pd.DataFrame, points: pd.DataFrame, indifference: float) -> Iterator[str]:
    """For each model and link the points on the one front over all configurations, where there are several."""
    if len(points.drop_duplicates(CONFIGURATION_KEYS)) < 2:
        return
    sure = front_probability(summary, OBJECTIVES, indifference=indifference, within=GIVEN_KEYS)
    for key, group in with_fronts(points, sure).groupby(GIVEN_KEYS, dropna=False, sort=True):
        given = dict(zip(GIVEN_KEYS, key, strict=True))
        choices = [name for name in CONFIGURATION_KEYS if name not in GIVEN_KEYS and group[name].nunique() > 1]
        front = in_order(group[group["on_front"]], OBJECTIVES).to_dict("records")
        told = [
            f"{' '.join([str(row['partition_label']), *(_choice(name, row[name]) for name in choices)])} "
            f"({row['latency_s'] * 1e3:.4g} ms, {row['throughput_img_s']:.4g} img/s)"
            for row in front
        ]
        over = "" if given["link"] == UNSHAPED.name else f" over {given['link']}"
        setup = f", {given['setup']}" if given["setup"] else ""
        yield f"best:    {given['model']}{over}{setup}: {'; '.join(told) if told else 'no trial succeeded'}"


def _choice(name: str, value: object) -> str:
    return str(value) if name in ("backend", "runtime", "precision") else _word(name, value)


def _best(front: pd.DataFrame) -> Iterator[str]:
    """The two ends of a front: the value at each, and its interval, or the range of its repeats."""
    for words, column, factor, unit, least in _BEST:
        row = front.sort_values(column, ascending=least, kind="stable").iloc[0]
        known = row[f"{column}_low"] == row[f"{column}_low"]
        ends = ("_low", "", "_high") if known else ("_min", "", "_max")
        low, middle, high = (float(row[column + end]) * factor for end in ends)
        told = f"95 %: {low:.4g} to {high:.4g}" if known else f"repeats: {low:.4g} to {high:.4g}"
        yield f"         {words} {row['partition_label']}: {middle:.4g} {unit} ({told})"


def _word(key: str, value: object) -> str:
    if key == "optimize":
        return "optimized" if value else "not optimized"
    return f"{key.replace('_', ' ')} {value}"
