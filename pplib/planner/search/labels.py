"""The cheapest plan that keeps to the devices there are, by labels that a lower bound lets live."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pplib.errors import FrameError
from pplib.planner.search.relaxation import Array, Bounds, Ints, Walk

MOST_BITS = 62


class _Labels(NamedTuple):
    """Beginnings of plans with equally many stages: the kind and the end of the last one, the devices used of each
    kind (packed), the same of the tracked kinds (a state of the bounds), what it takes, without and with prices, and
    which of those with a stage less it goes on from.
    """

    kind: Ints
    end: Ints
    used: Ints
    state: Ints
    cost: Array
    priced: Array
    origin: Ints

    def at(self, places: Ints) -> _Labels:
        kind, end, used, state, cost, priced, origin = self
        return _Labels(
            kind[places], end[places], used[places], state[places], cost[places], priced[places], origin[places]
        )


class Counter:
    """Devices used of each kind, packed into one integer.

    Raises:
        FrameError: more devices than that has bits for.
    """

    def __init__(self, counts: Ints) -> None:
        widths = np.array([int(count).bit_length() for count in counts])
        self._shift = np.concatenate([[0], widths.cumsum()[:-1]])
        self._mask, self._counts = (1 << widths) - 1, counts
        if widths.sum() > MOST_BITS:
            raise FrameError(f"expected at most {MOST_BITS} devices that differ, got {len(counts)} kinds of them")
        self.one = 1 << self._shift

    def free(self, used: Ints) -> NDArray[np.bool_]:
        """Whether there is another device of each kind: (labels, kinds)."""
        free: NDArray[np.bool_] = ((used[:, None] >> self._shift) & self._mask) < self._counts
        return free


def cheapest(
    bounds: Bounds, counter: Counter, below_s: float, limit_s: float, most_s: Array, width: int
) -> tuple[Walk | None, bool]:
    """The cheapest plan below all limits: of its latency, by its last kind too, and of what its parts are busy.

    Labels with equally many stages are made at once, from those with one less. Of those that agree in kind, end and
    devices used, the cheapest lives, if the bound lets it end below the limit.

    Args:
        bounds: for `below_s` or more.
        counter: of the devices of each kind.
        below_s: every part must be busy for less.
        limit_s: the plan must take less.
        most_s: (kinds,): and less than this, by the kind of its last device.
        width: so many labels live of equally many stages, at most: those of the lowest bounds.

    Returns:
        The plan, or None; and whether no label died of `width`, so that there is none better.

    Source: label setting for the resource-constrained elementary shortest path: Feillet, Dejax, Gendreau, Gueguen,
    Networks 44, 2004.
    """
    parts, last, kinds = bounds.parts, len(bounds.to_go) - 1, len(bounds.prices)
    lasting = np.minimum(most_s, np.where(parts.back_busy_s < below_s, np.inf, -np.inf))
    window = np.arange(bounds.longest)
    best: tuple[int, int] | None = None
    complete, history = True, list[_Labels]()
    kind = np.flatnonzero(bounds.starts < limit_s + bounds.credit)
    none = np.zeros(len(kind), dtype=np.intp)
    arrivals = _Labels(kind, none, none, none, none.astype(float), none.astype(float), none - 1)
    while len(arrivals.kind):
        level = len(history)
        state = bounds.next_state[arrivals.kind, arrivals.state]
        priced = arrivals.priced + bounds.prices[arrivals.kind]
        ends = arrivals.end[:, None] + window
        inside = ends <= last
        ends = np.minimum(ends, last)
        takes = parts.stage_s[arrivals.end[:, None], ends, arrivals.kind[:, None]]
        to_go = bounds.to_go[ends, arrivals.kind[:, None], state[:, None]]
        lives = inside & (takes < below_s) & (takes + to_go < (limit_s + bounds.credit - priced)[:, None])
        i, j = np.nonzero(lives)
        takes, kind = takes[i, j], arrivals.kind[i]
        used = arrivals.used[i] + counter.one[kind]
        labels = _Labels(
            kind, ends[i, j], used, state[i], arrivals.cost[i] + takes, priced[i] + takes, arrivals.origin[i]
        )
        labels = labels.at(_cheapest_alike(labels, kinds))
        history.append(labels)
        whole = np.flatnonzero((labels.end == last) & (labels.cost < np.minimum(limit_s, lasting[labels.kind])))
        if len(whole):
            place = whole[labels.cost[whole].argmin()]
            limit_s, best = float(labels.cost[place]), (level, int(place))
        bound = labels.priced + bounds.to_go[labels.end, labels.kind, labels.state]
        alive = np.flatnonzero((labels.end < last) & (bound < limit_s + bounds.credit))
        if len(alive) > width:
            alive, complete = alive[np.argpartition(bound[alive], width)[:width]], False
        labels = labels.at(alive)
        takes = parts.hop_s[labels.end, labels.kind]
        priced = labels.priced[:, None] + takes
        lives = counter.free(labels.used) & (parts.busy_s[labels.end, labels.kind] < below_s)
        lives &= priced + bounds.on_arrival[labels.end, :, labels.state] < limit_s + bounds.credit
        i, kind = np.nonzero(lives)
        arrivals = _Labels(
            kind, labels.end[i], labels.used[i], labels.state[i], labels.cost[i] + takes[i, kind], priced[i, kind],
            alive[i],
        )  # fmt: skip
    return _followed(history, best), complete


def _cheapest_alike(labels: _Labels, kinds: int) -> Ints:
    """The places of the cheapest of those that agree in all that matters to what may follow."""
    place = labels.end * kinds + labels.kind
    order = np.lexsort((labels.cost, labels.used, place))
    used, place = labels.used[order], place[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (used[1:] != used[:-1]) | (place[1:] != place[:-1])
    return order[new]


def _followed(history: list[_Labels], best: tuple[int, int] | None) -> Walk | None:
    """The walk that ends with a label, by its level and place."""
    if best is None:
        return None
    walk, (level, place) = Walk(), best
    for labels in history[level::-1]:
        walk.append((int(labels.kind[place]), int(labels.end[place])))
        place = int(labels.origin[place])
    return walk[::-1]
