"""Where another cut wins when the link changes, in words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pplib.planner.changes.link_changes import LinkChanges
from pplib.planner.changes.other_links import Stretch
from pplib.view.words.answer import best_words
from pplib.view.words.differences import in_words, percent

NAMED = ("model", "backend", "in_flight")
"""What tells configurations apart in any case, but for their links."""


def rate_words(rate_bit_s: float) -> str:
    """Two digits: a break-even is not known better.

    >>> rate_words(38.4e6), rate_words(1.26e9), rate_words(960.2e6)
    ('38 Mbit/s', '1.3 Gbit/s', '960 Mbit/s')
    """
    rounded = float(f"{rate_bit_s:.2g}")
    return f"{rounded / 1e9:g} Gbit/s" if rounded >= 1e9 else f"{rounded / 1e6:g} Mbit/s"


def delay_words(delay_s: float) -> str:
    """Two digits.

    >>> delay_words(0.01234)
    '12 ms'
    """
    return f"{float(f'{delay_s * 1e3:.2g}'):g} ms"


def where_words(keys: Mapping[str, Any], among: Sequence[LinkChanges]) -> str:
    """A configuration but for its link, by what is always told and what else tells it from the others."""
    differing = [
        key for key in keys if key not in NAMED and len({str(one.keys[key]) for one in among}) > 1 and keys[key] != ""
    ]
    more = [in_words(key, keys[key]) for key in differing]
    return ", ".join([f"{keys['model']} {keys['backend']} in flight {keys['in_flight']}", *more])


def winner_words(stretches: Sequence[Stretch], by_rate: bool, alike: bool = False) -> str:
    """Which cut wins until where, and about that from where to where the next is as good.

    >>> winner_words([Stretch("P5", 38e6, (45e6, 33e6)), Stretch("P19", None)], by_rate=True)
    'P5 until 38 Mbit/s, then P19'
    >>> winner_words([Stretch("P5", 0.012, (0.01, 0.015)), Stretch("P19", None)], by_rate=False, alike=True)
    'P5 until 12 ms, then P19 (as good from 10 ms to 15 ms)'
    """
    told, words, near = rate_words if by_rate else delay_words, "", ""
    for one in stretches:
        words += f"{one.label}{near}" if one.until is None else f"{one.label}{near} until {told(one.until)}, then "
        near = f" (as good from {told(one.alike[0])} to {told(one.alike[1])})" if alike and one.alike else ""
    return words


def objective_sentences(one: LinkChanges, objective: str, way: str) -> Iterator[str]:
    """What of an objective changes with the link, and how that agrees with what was measured over other links.

    Args:
        one: of one configuration.
        objective: a column that it tells of.
        way: "min" or "max".
    """
    slower, later = one.by_rate[objective], one.by_delay[objective]
    best = best_words(objective, way)
    if len(slower) == len(later) == 1 and slower[0].label == later[0].label:
        yield f"{best}: {slower[0].label}, however slow or far the link is."
    else:
        delay = f"the delay changes nothing over {one.link.name}"
        if len(later) > 1:
            delay = f"over {one.link.name} as its delay grows, one way: {winner_words(later, False, alike=True)}"
        rate = winner_words(slower, True, alike=True) if len(slower) > 1 else f"{slower[0].label} at every rate"
        yield f"{best}: {rate}; {delay}."
    for check in one.checks[objective]:
        if check.told == check.best:
            yield f"Over {check.link}, which was measured, {check.told} is told, and was the best."
        else:
            yield (
                f"Over {check.link}, which was measured, {check.told} is told; the best was {check.best}, and "
                f"{check.told} {percent(float(f'{check.worse:.2g}'))} worse."
            )


def front_sentence(one: LinkChanges) -> str:
    """Until where the points of the front are on it; empty where there is nothing to tell."""
    told = []
    for label, (rate, delay) in one.front.items():
        if rate is None and delay is None:
            told.append(f"{label} throughout")
        elif not any(end is not None and math.isnan(end) for end in (rate, delay)):
            ends = [rate_words(rate)] if rate is not None else []
            ends += [delay_words(delay)] if delay is not None else []
            told.append(f"{label} until {' or '.join(ends)}")
    return f"on the front: {'; '.join(told)}." if told else ""


def closing_sentences(found: Sequence[LinkChanges], objectives: Mapping[str, str]) -> list[str]:
    """One for each model and backend where another cut wins over another link; of each objective's best configuration.

    Args:
        found: see `link_changes`.
        objectives: column -> "min" or "max".
    """
    lines = []

    def group(one: LinkChanges) -> tuple[str, str]:
        return str(one.keys["model"]), str(one.keys["backend"])

    for (model, backend), several in itertools.groupby(sorted(found, key=group), group):
        configurations, told = list(several), []
        for name, way in objectives.items():
            better = min if way == "min" else max
            one = better((each for each in configurations if name in each.chosen), key=_value(name), default=None)
            if one is not None and len(one.by_rate[name]) > 1:
                chosen = [
                    in_words(key, one.keys[key])
                    for key in one.keys
                    if len({str(each.keys[key]) for each in configurations}) > 1
                ]
                where = f" ({', '.join(chosen)})" if chosen else ""
                told.append(f"{best_words(name, way)}{where} {winner_words(one.by_rate[name], by_rate=True)}")
        if told:
            lines.append(f"{model} {backend}: {'; '.join(told)}")
    return lines


def _value(name: str) -> Any:
    return lambda one: one.chosen[name][1]
