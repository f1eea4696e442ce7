"""The answer in two or three sentences: which cut, how sure that is, what it gains over one device alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from pplib.analysis.estimated.answer import Answer, Choice, answers, trials_of
from pplib.columns import quantity
from pplib.links import UNSHAPED
from pplib.objectives import Aims
from pplib.planner.changes.what_if import DEPTH, LINK, Change, changes_that_help
from pplib.view.words.differences import difference_words, in_words

BEST = {"latency_s": "lowest latency", "throughput_img_s": "most images"}
"""Others are told by their own names."""


def answer_sentences(summary: pd.DataFrame, aims: Aims) -> list[list[str]]:
    """Sentences for each model and link; what the trials do not tell is not in them.

    Args:
        summary: one row per trial, the columns of `summary.csv`.
        aims: objectives that the trials have, see `Aims.known`.
    """
    found = []
    for one in answers(summary, aims):
        changes = changes_that_help(trials_of(summary, one.given), aims.objectives)
        first, *rest = [*_sentences(one, aims.indifference), *_helping(changes, one, aims)]
        found.append([f"{where_words(one.given)}: {first[0].lower()}{first[1:]}", *rest])
    return found


def where_words(given: Mapping[str, Any]) -> str:
    """A model, its link and setup.

    >>> where_words({"model": "alexnet", "link": "wifi-poor", "setup": ""})
    'alexnet over wifi-poor'
    """
    over = "" if given["link"] == UNSHAPED.name else f" over {given['link']}"
    return f"{given['model']}{over}" + (f", {given['setup']}" if given["setup"] else "")


def best_words(column: str, way: str) -> str:
    """What the best by an objective has.

    >>> best_words("latency_s", "min"), best_words("payload_bytes", "min")
    ('lowest latency', 'lowest payload')
    """
    return BEST.get(column, f"{'lowest' if way == 'min' else 'highest'} {quantity(column).name}")


def _sentences(one: Answer, indifference: float) -> Iterator[str]:
    for _, group in itertools.groupby(one.choices, lambda choice: str(choice.keys)):
        same = list(group)
        has = " and ".join(best_words(each.objective, each.way) for each in same)
        figures = " and ".join(_figure(each) for each in same)
        yield f"{has[0].upper()}{has[1:]}: {_point(same[0], one)}, {figures}, {_sure(same)}."
    if gains := [words for each in one.choices if (words := _gain(each, one, indifference))]:
        yield f"Against everything on one device: {'; '.join(gains)}."
    if ways := [words for each in one.choices if (words := _in_the_way(each, one))]:
        yield f"In the way: {'; '.join(ways)}."


def _point(choice: Choice, one: Answer) -> str:
    label, named = choice.keys["partition_label"], ", ".join(in_words(key, choice.keys[key]) for key in one.differing)
    whole = "" if choice.device is None else f", which is no split but all of it on {_device(choice.device, one)}"
    return f"{label} ({named}){whole}" if named else f"{label}{whole}"


def _device(stage: int, one: Answer) -> str:
    return one.devices[stage] if stage < len(one.devices) else f"the device of stage {stage}"


def _figure(choice: Choice) -> str:
    measure, (value, low, high) = quantity(choice.objective), choice.figure
    told = f"{value * measure.factor:.4g} {measure.unit}".rstrip()
    return told + (f" ({low * measure.factor:.4g} to {high * measure.factor:.4g})" if low == low else "")


def _sure(group: Sequence[Choice]) -> str:
    """On the front in how many of such sweeps, and how many others cannot be told from it."""
    first = group[0]
    if first.probability != first.probability:
        return "how surely is not known, as nothing was repeated"
    alike = min(each.alike for each in group)
    others = f", not told from {alike} other point{'s' if alike > 1 else ''}" if alike else ""
    return f"on the front in {first.probability:.0%} of such sweeps{others}"


def _gain(choice: Choice, one: Answer, indifference: float) -> str:
    if choice.alone is None or choice.device is not None:
        return ""
    name = quantity(choice.objective).name
    return f"{difference_words(name, choice.ratio, indifference)}, there on {_device(choice.alone, one)}"


def _in_the_way(choice: Choice, one: Answer) -> str:
    label = choice.keys["partition_label"]
    if choice.objective == "throughput_img_s" and choice.bottleneck:
        kind, _, number = choice.bottleneck.partition(" ")
        where = f" ({_device(int(number), one)})" if kind == "stage" else ""
        return f"of {label}'s rate {choice.bottleneck}{where}, busy {min(choice.busy, 1.0):.0%} of the time"
    if choice.objective == "latency_s" and choice.shares:
        return f"of {label}'s latency " + ", ".join(f"{share:.0%} {word}" for word, share in choice.shares.items())
    return ""


def _helping(changes: Sequence[Change], one: Answer, aims: Aims) -> Iterator[str]:
    """The change that would bring most for each objective, and those that would bring nothing."""
    told = []
    for name, way in aims.objectives.items():
        most = max(changes, key=lambda each: each.gains.get(name, 0.0), default=None)
        if most is not None and most.gains.get(name, 0.0) > 1 + aims.indifference:
            told.append(f"{quantity(name).name} {_times(way, most.gains[name])} with {_change(most, one)}")
    vain = [_change(each, one) for each in changes if max(each.gains.values(), default=0.0) <= 1 + aims.indifference]
    if vain:
        told.append(f"nothing from {' or '.join(vain)}")
    if told:
        yield f"What would help most, computed from the measured parts: {'; '.join(told)}."


def _change(change: Change, one: Answer) -> str:
    if change.part == DEPTH:
        return "one more in flight"
    return f"{'a link' if change.part == LINK else _device(int(change.part), one)} twice as fast"


def _times(way: str, gain: float) -> str:
    """By how much.

    >>> _times("min", 1.25), _times("max", 1.5)
    ('20 % less', '50 % more')
    """
    return f"{1 - 1 / gain:.0%} less".replace("%", " %") if way == "min" else f"{gain - 1:.0%} more".replace("%", " %")
