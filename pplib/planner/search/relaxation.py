"""A lower bound on what a plan takes: the shortest walk that may use some kinds of devices too often, at a price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.intp]
Walk = list[tuple[int, int]]
"""Of each stage the kind of its device, and the cut after it."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a plan may consist of, in seconds, by kinds of devices that may take each other's place.

    Attributes:
        stage_s: (N + 1, N + 1, kinds): units p + 1 .. q, at [p, q]; infinite where p >= q, but for [0, 0, start]:
            what a first device takes that only hands on its input.
        hop_s, busy_s: (N + 1, kinds, kinds): from one to the other at a cut; infinite where that cannot be. How long of
            it the hop is busy.
        back_busy_s: (kinds,): how long a result's way back is busy.
        counts: (kinds,): devices of each.
        start: the kind of the first device, which no other is of, and no hop leads to; None for any.
    """

    stage_s: Array
    hop_s: Array
    busy_s: Array
    back_busy_s: Array
    counts: Ints
    start: int | None


class Bounds:
    """Least sums of times and prices to the end of a plan none of whose parts is busy for `below_s` or longer.

    Of the `tracked` kinds no more devices are used than there are; of others there may be, but each costs its price.
    A state says how many of each tracked kind are used so far. `to_go` (N + 1, kinds, states): a stage ends at a cut,
    on this kind, which the state counts already; `on_arrival` (N + 1, kinds, states): one is to begin there.
    `least` is that of a whole plan, less the prices of all devices: so never more than what a plan takes.

    Source: state-space relaxation: Christofides, Mingozzi, Toth, Networks 11, 1981; tracking those that a relaxed
    solution uses too often: Righini, Salani, Networks 51, 2008; prices: Lagrangian relaxation, Fisher, Management
    Science 27, 1981.
    """

    def __init__(self, parts: Parts, below_s: float, prices: Array, tracked: Sequence[int]) -> None:
        counts, last = parts.counts, len(parts.stage_s) - 1
        self.num_states = num_states = math.prod(int(counts[kind]) + 1 for kind in tracked)
        states, kinds = np.arange(num_states), len(counts)
        self.next_state = np.tile(states, (kinds, 1))
        cost = np.repeat(prices[:, None], num_states, axis=1)
        stride = 1
        for kind in tracked:
            full = states // stride % (counts[kind] + 1) == counts[kind]
            self.next_state[kind] = np.where(full, states, states + stride)
            cost[kind, full] = np.inf
            stride *= int(counts[kind]) + 1
        self.parts, self.prices, self.tracked, self.credit = parts, prices, list(tracked), float(prices @ counts)
        self._stage_s = np.where(parts.stage_s < below_s, parts.stage_s, np.inf)
        self._hop_s = np.where(parts.busy_s < below_s, parts.hop_s, np.inf)
        possible = self._stage_s.min(axis=2) < np.inf
        reach = np.where(possible.any(axis=1), last + 1 - possible[:, ::-1].argmax(axis=1), 0).tolist()
        self.longest = max(end - p for p, end in enumerate(reach))  # one more than the most units of a stage
        self.to_go = to_go = np.full((last + 1, kinds, num_states), np.inf)
        self.on_arrival = on_arrival = np.full((last + 1, kinds, num_states), np.inf)
        to_go[last] = np.where(parts.back_busy_s < below_s, 0.0, np.inf)[:, None]
        after = self.next_state + np.arange(kinds)[:, None] * num_states
        for p in range(last - 1, -1, -1):
            ends = slice(p + 1, reach[p])
            if p + 1 < reach[p]:
                ahead = np.minimum.reduce(self._stage_s[p, ends, :, None] + to_go[ends], axis=0)
                np.add(ahead.take(after), cost, out=on_arrival[p])
            np.minimum.reduce(self._hop_s[p, :, :, None] + on_arrival[p], axis=1, out=to_go[p])
        self.starts = on_arrival[0, :, 0].copy()
        self.empty_first = False
        if parts.start is not None:
            start = parts.start
            self.starts[np.arange(kinds) != start] = np.inf
            with_none = self._stage_s[0, 0, start] + prices[start] + to_go[0, start, self.next_state[start, 0]]
            self.empty_first = bool(with_none < self.starts[start])
            self.starts[start] = min(self.starts[start], with_none)
        self.least = float(self.starts.min()) - self.credit

    def walk(self) -> Walk:
        """A shortest one, which must exist."""
        kind, p, last, walk = int(self.starts.argmin()), 0, len(self.to_go) - 1, Walk()
        state = self.next_state[kind, 0]
        if self.empty_first:
            walk.append((kind, 0))
            kind = int((self._hop_s[0, kind] + self.on_arrival[0, :, state]).argmin())
            state = self.next_state[kind, state]
        while True:
            p += 1 + int((self._stage_s[p, p + 1 :, kind] + self.to_go[p + 1 :, kind, state]).argmin())
            walk.append((kind, p))
            if p == last:
                return walk
            kind = int((self._hop_s[p, kind] + self.on_arrival[p, :, state]).argmin())
            state = self.next_state[kind, state]


def visits(walk: Walk, kinds: int) -> Ints:
    """How many devices of each kind a walk uses."""
    return np.bincount([kind for kind, _ in walk], minlength=kinds)
