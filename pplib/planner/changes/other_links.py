"""Over which links which cut is best, and at which rate or delay that changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pplib.analysis.pareto import front_masks
from pplib.planner.cuts import Cuts
from pplib.planner.pipeline_model import Array

RATES_BIT_S, DELAYS_S = (1e6, 1e11), (1e-4, 0.3)
"""What links are thought of: from a poor radio link to what no software keeps up with; from a cable to a satellite."""

_RATES, _DELAYS = 76, 36  # of the grid; in a line of one of the two, that is looked at more closely, _STEPS
_STEPS, _EXACT = 121, 1e-5

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Line:
    """Links that differ in their rate, or in their delay.

    Attributes:
        values: in bit/s or s one way, in the order in which one walks: from the fastest link, or the shortest delay.
        fixed: of the other one of the two.
        of_rate: whether the values are rates.
    """

    values: Array
    fixed: float
    of_rate: bool

    def links(self, values: Array) -> tuple[Array, Array]:
        """Rates and delays."""
        other = np.full_like(values, self.fixed)
        return (values, other) if self.of_rate else (other, values)


def rates(cuts: Cuts, delay_s: float) -> Line:
    """From the fastest link that anything is known of to the slowest that is thought of."""
    return Line(np.geomspace(*_rate_ends(cuts)[::-1], _STEPS), delay_s, True)


def delays(rate_bit_s: float, delay_s: float = 0.0) -> Line:
    """Delays one way from this one on, over a link of this rate."""
    least, most = DELAYS_S
    return Line(np.geomspace(max(least, min(delay_s, most / 2)), most, _STEPS), rate_bit_s, False)


def _rate_ends(cuts: Cuts) -> tuple[float, float]:
    high = min(RATES_BIT_S[1], cuts.fastest_bit_s)
    return min(RATES_BIT_S[0], high / 2), high


class Stretch(NamedTuple):
    """A cut that is the best from where the one before ends.

    Attributes:
        label: of the cut.
        until: where it ends, as one walks along the line; None where that is beyond it.
        alike: from where to where, about that, the next is as good but for what does not matter; None where that is
            next to nothing.
    """

    label: str
    until: float | None
    alike: tuple[float, float] | None = None


def winners(
    cuts: Cuts, objective: str, way: str, line: Line, indifference: float = 0.0, first: Sequence[str] = ()
) -> list[Stretch]:
    """Which cut is best along a line of links.

    Where one cut ends and the next begins, both are equally good: that is found on a grid, and then more closely. A cut
    that is never better than all others by more than `indifference` is not named.

    Args:
        cuts: that may win.
        objective: of `pipeline_model.Performance`.
        way: "min" or "max".
        line: of links.
        indifference: what difference does not matter, as a share.
        first: cuts that are named, where they are the best of those that are.
    """

    def costs(values: Array) -> Array:
        return _costs(cuts.performance(*line.links(values), [objective])[:, :, 0], way)

    named = named_cuts(cuts, costs(line.values), indifference, first)

    def best(values: Array, before: int | None) -> Ints:
        return _kept(costs(values)[:, named], before)

    found = _stretches(best, line.values)
    stretches = list[Stretch]()
    for i, (one, until) in enumerate(found):
        alike = None
        if until is not None and indifference:
            pair = [named[one], named[found[i + 1][0]]]

            def near(values: Array, before: int | None) -> Ints:
                both = costs(values)[:, pair]  # noqa: B023
                return np.asarray(both.max(axis=1) <= both.min(axis=1) * (1 + indifference), dtype=np.intp)

            alike = _around(_stretches(near, line.values), until, line.values)
        stretches.append(Stretch(cuts.labels[named[one]], until, alike))
    return stretches


def _around(stretches: list[tuple[int, float | None]], place: float, values: Array) -> tuple[float, float] | None:
    """The stretch of 1 that holds a place on a line."""
    ends = [values[0], *(values[-1] if end is None else end for _, end in stretches)]
    for (told, _), (start, end) in zip(stretches, itertools.pairwise(ends), strict=True):
        if told and min(start, end) <= place <= max(start, end):
            return float(start), float(end)
    return None


def front_until(
    cuts: Cuts, label: str, objectives: Mapping[str, str], line: Line, indifference: float = 0.0
) -> float | None:
    """Until where a cut stays on the front; None where it does so over all of a line of links, NaN where it never is.

    Args:
        cuts: that compete with it.
        label: of the cut.
        objectives: of `pipeline_model.Performance` -> "min" or "max".
        line: of links.
        indifference: what difference does not matter, as a share, see `front_masks`.
    """
    place, signs = list(cuts.labels).index(label), [1.0 if way == "min" else -1.0 for way in objectives.values()]

    def off(values: Array, before: int | None = None) -> Ints:
        found = cuts.performance(*line.links(values), list(objectives)) * signs
        return (~front_masks(found, indifference)[1][:, place]).astype(np.intp)

    if off(line.values[:1])[0]:
        return math.nan
    return _stretches(off, line.values)[0][1]


class Phases(NamedTuple):
    """Which cut is best over each link of a grid: `labels[best[i, j]]` at `delay_s[i]` and `rate_bit_s[j]`."""

    labels: list[str]
    rate_bit_s: Array
    delay_s: Array
    best: Ints


def phases(cuts: Cuts, objective: str, way: str, indifference: float = 0.0, first: Sequence[str] = ()) -> Phases:
    """Which cut is best over each link of a grid of rates and delays; see `winners` for the arguments."""
    rate = np.geomspace(*_rate_ends(cuts), _RATES)
    delay = np.geomspace(*DELAYS_S, _DELAYS)
    every = np.tile(rate, _DELAYS), np.repeat(delay, _RATES)
    costs = _costs(cuts.performance(*every, [objective])[:, :, 0], way)
    named = named_cuts(cuts, costs, indifference, first)
    used, best = np.unique(costs[:, named].argmin(axis=1), return_inverse=True)
    return Phases([cuts.labels[named[one]] for one in used], rate, delay, best.reshape(_DELAYS, _RATES))


def named_cuts(cuts: Cuts, costs: Array, indifference: float, first: Sequence[str]) -> list[int]:
    """The fewest cuts, one after the other left out, the best of which is everywhere as good as the best of all.

    Args:
        cuts: all.
        costs: of each over each link, (links, cuts), less is better.
        indifference: what is as good, as a share.
        first: labels of cuts that are not left out.
    """
    best = costs.min(axis=1)
    kept = [i for i, one in enumerate(cuts.labels) if one in first]
    named = sorted({*_kept(costs).tolist(), *kept})
    while len(named) > 1:
        others = {one: [other for other in named if other != one] for one in named if one not in kept}
        loss = {one: float((costs[:, rest].min(axis=1) / best).max()) - 1 for one, rest in others.items()}
        least = min(loss, key=lambda one: loss[one], default=None)
        if least is None or loss[least] > indifference + 1e-9:
            break
        named.remove(least)
    return named


def _costs(values: Array, way: str) -> Array:
    """Less is better, and a ratio of two is that of the values, or of what an image takes."""
    return values if way == "min" else 1 / values


def _kept(costs: Array, before: int | None = None) -> Ints:
    """The best of each row; of equally good ones that of the row before, for two cuts may share what decides."""
    found = [] if before is None else [before]
    for row in costs:
        best = int(row.argmin())
        found.append(found[-1] if found and row[found[-1]] <= row[best] * (1 + 1e-9) else best)
    return np.array(found[-len(costs) :], dtype=np.intp)


def _stretches(
    told: Callable[[Array, int | None], Ints], values: Array, before: int | None = None
) -> list[tuple[int, float | None]]:
    """What is told along values, each with where it ends; where it changes is looked at until it is known exactly."""
    found = told(values, before)
    if abs(math.log(values[-1] / values[0])) < _EXACT:
        return [(int(found[0]), float(math.sqrt(values[0] * values[-1]))), (int(found[-1]), None)]
    stretches = list[tuple[int, float | None]]()
    for i in np.flatnonzero(np.diff(found)):
        closer = np.geomspace(values[i], values[i + 1], 33)
        closer[0], closer[-1] = values[i], values[i + 1]
        stretches += [one for one in _stretches(told, closer, int(found[i])) if one[1] is not None]
    stretches.append((int(found[-1]), None))
    return [one for i, one in enumerate(stretches) if i + 1 == len(stretches) or stretches[i + 1][0] != one[0]]
