"""These cuts over another link: what each would do there, which is best, and at which rate or delay that changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pplib.analysis.pareto import front_masks
from pplib.links import HEADER_BYTES, SEGMENT_BYTES
from pplib.planner.pipeline_model import Array, PipelineTimes, periodic, predict

PAYLOAD = SEGMENT_BYTES / (SEGMENT_BYTES + HEADER_BYTES)
"""Of the bytes that a link carries, what TCP's payload is at most: a link's rate counts headers, too."""

RATES_BIT_S, DELAYS_S = (1e6, 1e10), (1e-4, 0.3)
"""What links are thought of: from a poor radio link to a fast cable; one way, from a cable to a satellite."""

_RATES, _DELAYS = 61, 36  # of the grid; in a line of one of the two, that is looked at more closely, _STEPS
_STEPS, _EXACT = 121, 1e-5
_AT_ONCE = 10_000  # candidates of the model: what they take of memory

Ints = NDArray[np.intp]


def carried(fixed_s: Array, copying_s: Array, payload_bytes: Array, rate_bit_s: Array | float | None) -> Array:
    """How long a message keeps a link busy: software copies while the link carries, so that the longer counts.

    Args:
        fixed_s: of each message, however large.
        copying_s: what software takes for its bytes.
        payload_bytes: what crosses; where it is not known (NaN), software decides.
        rate_bit_s: of the link, headers included; None or infinite where nothing limits it.
    """
    wire = np.nan_to_num(payload_bytes) * 8 / PAYLOAD / (math.inf if rate_bit_s is None else rate_bit_s)
    return np.asarray(fixed_s + np.maximum(copying_s, wire), dtype=np.float64)


@dataclass(frozen=True)
class Cuts:
    """Cuts whose parts are known but for the link: measured ones, see `measured_cuts`, or predicted ones.

    Attributes:
        labels: of each cut, such as P5.
        times: what software takes; propagation is not used.
        payload_bytes: that cross each hop, (cuts, hops).
        result_bytes: that go back, (cuts, 1); where not known (NaN), the way back takes what it took.
        fixed_s: of what a hop is busy, what it takes however large a message is, (cuts, hops) or one for all.
        return_fixed_s: the same of the way back.
        fastest_bit_s: the rate above which nothing is known: of the link that the times are of.
    """

    labels: Sequence[str]
    times: PipelineTimes
    payload_bytes: Array
    result_bytes: Array
    fixed_s: Array | float = 0.0
    return_fixed_s: Array | float = 0.0
    fastest_bit_s: float = math.inf

    def over(self, rate_bit_s: Array, delay_s: Array) -> PipelineTimes:
        """The times over each of several links, both ways alike: all cuts over the first, then over the second.

        Args:
            rate_bit_s: of each link, shape (links,), infinite where nothing limits it.
            delay_s: of each, one way.
        """
        links, (count, hops) = len(rate_bit_s), np.shape(self.payload_bytes)

        def again(values: Array | None) -> Array | None:
            return None if values is None else np.tile(values, (links, 1))

        def busy(took_s: Array | None, fixed_s: Array | float, payload: Array) -> Array:
            took = np.zeros_like(payload) if took_s is None else np.asarray(took_s)
            fixed = np.minimum(fixed_s, took)
            found = carried(fixed, took - fixed, payload, rate_bit_s[:, None, None])
            return found.reshape(links * count, -1)

        propagation = np.repeat(delay_s, count)[:, None]
        known = ("compute_s", "encode_s", "decode_s", "admit_s", "start_s", "send_s", "grant_s")
        return replace(
            self.times,
            **{name: again(getattr(self.times, name)) for name in known},
            busy_s=busy(self.times.busy_s, self.fixed_s, self.payload_bytes),
            return_busy_s=busy(self.times.return_busy_s, self.return_fixed_s, self.result_bytes),
            propagation_s=np.repeat(propagation, hops, axis=1),
            return_propagation_s=propagation * hops,
        )

    def performance(self, rate_bit_s: Array, delay_s: Array, objectives: Sequence[str]) -> Array:
        """What the pipeline model says of every cut over every link.

        Args:
            rate_bit_s, delay_s: see `over`.
            objectives: of `pipeline_model.Performance`.

        Returns:
            (links, cuts, objectives).
        """
        count, found = len(self.labels), list[Array]()
        step = max(1, _AT_ONCE // count)
        for first in range(0, len(rate_bit_s), step):
            times = self.over(rate_bit_s[first : first + step], delay_s[first : first + step])
            told = predict(times, *periodic(times.in_flight))
            found.append(np.stack([getattr(told, name) for name in objectives], axis=1))
        return np.concatenate(found).reshape(len(rate_bit_s), count, len(objectives))


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


def delays(rate_bit_s: float) -> Line:
    """Delays one way, over a link of this rate."""
    return Line(np.geomspace(*DELAYS_S, _STEPS), rate_bit_s, False)


def _rate_ends(cuts: Cuts) -> tuple[float, float]:
    high = min(RATES_BIT_S[1], cuts.fastest_bit_s)
    return min(RATES_BIT_S[0], high / 2), high


class Stretch(NamedTuple):
    """A cut that is the best from where the one before ends until `until`; None where that is beyond what was asked."""

    label: str
    until: float | None


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
        first: cuts that are rather named than others.
    """

    def costs(values: Array) -> Array:
        return _costs(cuts.performance(*line.links(values), [objective])[:, :, 0], way)

    named = named_cuts(cuts, costs(line.values), indifference, first)

    def best(values: Array, before: int | None) -> Ints:
        return _kept(costs(values)[:, named], before)

    return [Stretch(cuts.labels[named[one]], until) for one, until in _stretches(best, line.values)]


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
    best = costs[:, named].argmin(axis=1).reshape(_DELAYS, _RATES)
    return Phases([cuts.labels[one] for one in named], rate, delay, best)


def named_cuts(cuts: Cuts, costs: Array, indifference: float, first: Sequence[str]) -> list[int]:
    """The fewest cuts, one after the other left out, the best of which is everywhere as good as the best of all.

    Args:
        cuts: all.
        costs: of each over each link, (links, cuts), less is better.
        indifference: what is as good, as a share.
        first: labels of cuts that are left out after the others.
    """
    best = costs.min(axis=1)
    named = sorted({*_kept(costs).tolist(), *(i for i, one in enumerate(cuts.labels) if one in first)})
    for chosen in (False, True):
        while len(named) > 1:
            loss = {
                one: float((costs[:, [other for other in named if other != one]].min(axis=1) / best).max()) - 1
                for one in named
                if (cuts.labels[one] in first) == chosen
            }
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
