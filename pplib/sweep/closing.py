"""The last lines of the command: what to do, then each configuration's front, with figures; kept beside the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from pplib.analysis.estimated.point_estimates import point_estimates
from pplib.analysis.estimated.uncertainty import UNDECIDED, front_probability, ties, with_fronts
from pplib.analysis.estimated.within_limits import within_limits
from pplib.analysis.pareto import in_order
from pplib.analysis.repeats import point_name
from pplib.analysis.statistics import CONFIGURATION_KEYS, GIVEN_KEYS
from pplib.columns import OBJECTIVES, quantity
from pplib.links import UNSHAPED
from pplib.objectives import Aims
from pplib.planner.changes.link_changes import link_changes
from pplib.records import write_atomic
from pplib.view.words.answer import answer_sentences, best_words, where_words
from pplib.view.words.differences import in_words
from pplib.view.words.disturbed import disturbed_words
from pplib.view.words.fidelity import fidelity_words
from pplib.view.words.limits import energy_words, figure, limit_lines
from pplib.view.words.link_changes import closing_sentences
from pplib.view.words.ties import tie_lines

ANSWER = "answer.txt"  # in the folder of results
NAMED = ("model", "backend", "link", "in_flight")  # always told


def write_answer(folder: Path, summary: pd.DataFrame, aims: Aims | None = None) -> None:
    """Write `answer.txt` beside the results: the lines of `closing_lines`.

    Raises:
        OutputError: it cannot be written.
    """
    write_atomic(folder / ANSWER, "".join(f"{line}\n" for line in closing_lines(summary, aims)).encode())


def closing_lines(summary: pd.DataFrame, aims: Aims | None = None) -> list[str]:
    """What to read first of a summary with at least one trial that succeeded.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        aims: what is wanted of a cut; latency and throughput without limits if not given.
    """
    aims, lacking = (aims or Aims()).known(summary)
    objectives, indifference = aims.objectives, aims.indifference
    sure = front_probability(summary, objectives, indifference=indifference)
    points = with_fronts(point_estimates(summary, columns=objectives), sure)
    others = [key for key in CONFIGURATION_KEYS if key not in (*NAMED, "setup")]
    differing = [key for key in others if points[key].nunique(dropna=False) > 1]
    alike = ties(summary, objectives, indifference=indifference)
    tied = {point_name(row): row["tied_with"] for row in alike.to_dict("records")}
    lines = [f"note:    {one}" for one in (*lacking, energy_words(summary, aims.directions)) if one]
    for first, *more_said in answer_sentences(summary, aims):
        lines += [f"answer:  {first}", *(f"         {one}" for one in more_said)]
    if aims.limits:
        lines += [f"limits:  {line}" for line in limit_lines(within_limits(summary, aims), aims)]
    lines += _overall(summary, points, aims)
    changes = link_changes(summary, points, objectives, indifference)
    lines += [f"links:   {line}" for line in closing_sentences(changes, objectives)]
    for key, group in points.groupby(CONFIGURATION_KEYS, dropna=False, sort=True):
        named = dict(zip(CONFIGURATION_KEYS, key, strict=True))
        more = [in_words(key, named[key]) for key in differing] + ([str(named["setup"])] if named["setup"] else [])
        over = "" if named["link"] == UNSHAPED.name else f" over {named['link']}"
        title = f"{named['model']} {named['backend']}{over} in flight {named['in_flight']}"
        front = in_order(group[group["on_front"]], objectives)
        where = ", ".join(front["partition_label"]) if len(front) else "no trial succeeded"
        lines += [f"front:   {', '.join([title, *more])}: {where}", *(_best(front, objectives) if len(front) else ())]
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


def _overall(summary: pd.DataFrame, points: pd.DataFrame, aims: Aims) -> Iterator[str]:
    """For each model and link the points on the one front over all configurations, where there are several."""
    if len(points.drop_duplicates(CONFIGURATION_KEYS)) < 2:
        return
    sure = front_probability(summary, aims.objectives, indifference=aims.indifference, within=GIVEN_KEYS)
    for key, group in with_fronts(points, sure).groupby(GIVEN_KEYS, dropna=False, sort=True):
        given = dict(zip(GIVEN_KEYS, key, strict=True))
        choices = [name for name in CONFIGURATION_KEYS if name not in GIVEN_KEYS and group[name].nunique() > 1]
        front = in_order(group[group["on_front"]], aims.objectives).to_dict("records")
        told = [
            f"{' '.join([str(row['partition_label']), *(in_words(name, row[name]) for name in choices)])} "
            f"({', '.join(_value(name, float(row[name])) for name in aims.objectives)})"
            for row in front
        ]
        yield f"best:    {where_words(given)}: {'; '.join(told) if told else 'no trial succeeded'}"


def _value(name: str, value: float) -> str:
    """With its unit, which says what latency and throughput are; others are named."""
    measure = quantity(name)
    return f"{value * measure.factor:.4g} {measure.unit}" if name in OBJECTIVES else figure(name, value)


def _best(front: pd.DataFrame, objectives: Mapping[str, str]) -> Iterator[str]:
    """The ends of a front: the value at each, and its interval, or the range of its repeats."""
    for column, way in objectives.items():
        measure = quantity(column)
        words = best_words(column, way)
        row = front.sort_values(column, ascending=way == "min", kind="stable").iloc[0]
        known = row[f"{column}_low"] == row[f"{column}_low"]
        ends = ("_low", "", "_high") if known else ("_min", "", "_max")
        low, middle, high = (float(row.get(column + end, row[column])) * measure.factor for end in ends)
        told = f" ({'95 %' if known else 'repeats'}: {low:.4g} to {high:.4g})" if known or low < high else ""
        told = told or (f" (repeats: {low:.4g} to {high:.4g})" if column in OBJECTIVES else "")
        yield f"         {words} {row['partition_label']}: {middle:.4g} {measure.unit}".rstrip() + told
