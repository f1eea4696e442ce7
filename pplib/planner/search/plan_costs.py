"""What plans are made of, and what a plan takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pplib.errors import FrameError
from pplib.planner.search.relaxation import Array, Parts, Walk


@dataclass(frozen=True, kw_only=True)
class PlanCosts:
    """What each part of each plan takes for one microbatch of a model of N units over some of D devices, in seconds.

    What cannot be is infinite: a stage that does not fit into its device's memory, two devices without a link.

    Attributes:
        stage_s: (D, N + 1, N + 1): units p + 1 .. q on device d, at [d, p, q], p < q; [d, 0, 0] is what a first device
            takes that only hands on its input.
        hop_busy_s: (D, D, N + 1): how long the output of unit p keeps the way from device d to e busy, at [d, e, p];
            where several things do their part of it at once, as codecs and a link, the busiest of them.
        hop_delay_s: (D, D, N + 1): what it takes beyond that until it is there.
        back_busy_s, back_delay_s: (D,): the same of the result's way back, from each device that may be the last; 0 if
            not given.
    """

    stage_s: Array
    hop_busy_s: Array
    hop_delay_s: Array
    back_busy_s: Array | None = None
    back_delay_s: Array | None = None


class Plan(NamedTuple):
    """Devices in stage order, the cuts between them, and what they take for a microbatch.

    `latency_s` is that of one which waits for nothing; `cycle_s` is from one microbatch to the next, so that
    batch_size / cycle_s is the throughput. A first cut of 0 leaves the first device nothing but its input.
    """

    devices: tuple[int, ...]
    points: tuple[int, ...]
    latency_s: float
    cycle_s: float


class Problem:
    """Plans over kinds of devices: those of a kind are alike in all that they take, so that any of them will do.

    Args:
        costs: of all plans.
        first: the device that has the input, which is the first of every plan; None: any may be.
        in_flight: microbatches admitted whose result is not back yet.

    Raises:
        FrameError: costs whose shapes do not fit, or that are no times; no such device; nothing in flight.
    """

    def __init__(self, costs: PlanCosts, first: int | None, in_flight: float) -> None:
        back_busy, back_delay = _checked(costs, first, in_flight)
        back_busy = np.where(np.isfinite(back_delay), back_busy, np.inf)  # no way back is no plan
        self._members = _kinds(costs, np.stack([back_busy, back_delay]), first)
        self._in_flight = in_flight
        counts = np.array([len(members) for members in self._members])
        one, other = [members[0] for members in self._members], [members[-1] for members in self._members]
        start = None if first is None else self._members.index([first])
        places = np.arange(costs.stage_s.shape[1])
        stage = np.where(places[:, None] < places, costs.stage_s[one], np.inf).transpose(1, 2, 0).copy()
        busy, delay = (
            hop[np.ix_(one, other)].transpose(2, 0, 1).copy() for hop in (costs.hop_busy_s, costs.hop_delay_s)
        )
        hop = busy + delay
        hop[:, counts == 1, counts == 1] = np.inf  # from a device to itself
        if start is not None:
            stage[0, 0, start] = costs.stage_s[first, 0, 0]
            hop[:, :, start] = np.inf
        self.parts = Parts(
            stage_s=stage, hop_s=hop, busy_s=busy, back_busy_s=back_busy[one], counts=counts, start=start
        )
        self._back_s = back_busy[one] + back_delay[one]

    def latest_s(self, below_s: float, exact: float) -> Array:
        """By the last device's kind, the latency from which on what is in flight makes a cycle as long as that."""
        latest_s = np.full(len(self._back_s), -np.inf)
        there = np.isfinite(self._back_s)
        latest_s[there] = self._in_flight * below_s * (1 - exact) - self._back_s[there]
        return latest_s

    def plan(self, walk: Walk) -> Plan:
        """A walk that keeps to the devices there are, as a plan."""
        parts, stages, hops, cycle_s = self.parts, list[float](), list[float](), 0.0
        begin, before = 0, -1
        for kind, end in walk:
            if before >= 0:
                hops.append(float(parts.hop_s[begin, before, kind]))
                cycle_s = max(cycle_s, float(parts.busy_s[begin, before, kind]))
            stages.append(float(parts.stage_s[begin, end, kind]))
            cycle_s, begin, before = max(cycle_s, stages[-1]), end, kind
        latency_s = sum(stages) + sum(hops)
        free = [iter(members) for members in self._members]
        return Plan(
            devices=tuple(next(free[kind]) for kind, _ in walk),
            points=tuple(end for _, end in walk[:-1]),
            latency_s=latency_s,
            cycle_s=max(
                cycle_s,
                float(parts.back_busy_s[before]),
                (latency_s + float(self._back_s[before])) / self._in_flight,
            ),
        )


def _checked(costs: PlanCosts, first: int | None, in_flight: float) -> tuple[Array, Array]:
    """The two costs of the way back."""
    shape = np.shape(costs.stage_s)
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] < 2 or not shape[0]:
        raise FrameError(f"stage_s: expected the shape (devices, units + 1, units + 1), got {shape}")
    count = shape[0]
    back = tuple(
        np.zeros(count) if given is None else np.asarray(given, dtype=np.float64)
        for given in (costs.back_busy_s, costs.back_delay_s)
    )
    arrays = {"hop_busy_s": costs.hop_busy_s, "hop_delay_s": costs.hop_delay_s}
    arrays |= dict(zip(("back_busy_s", "back_delay_s"), back, strict=True))
    for name, values in arrays.items():
        expected = (count, count, shape[1]) if name.startswith("hop") else (count,)
        if np.shape(values) != expected:
            raise FrameError(f"{name}: expected the shape {expected}, got {np.shape(values)}")
    used = np.triu(np.ones(shape[1:], dtype=bool), k=1)
    used[0, 0] = first is not None
    for name, values in {"stage_s": costs.stage_s[:, used], **arrays}.items():
        if not (values >= 0).all():
            raise FrameError(f"{name}: expected seconds, 0 or more, got {values[~(values >= 0)][0]}")
    if first is not None and not 0 <= first < count:
        raise FrameError(f"first: expected a device from 0 to {count - 1}, got {first}")
    if not in_flight >= 1:
        raise FrameError(f"in_flight: expected 1 or more, got {in_flight}")
    return back[0], back[1]


def _kinds(costs: PlanCosts, back: Array, first: int | None) -> list[list[int]]:
    """Devices that may take each other's place, whatever the others do: all costs are the same with the two swapped."""
    hops = np.stack([costs.hop_busy_s, costs.hop_delay_s])
    places = np.arange(hops.shape[1])
    hops[:, places, places] = 0.0
    kinds = list[list[int]]()
    for device in places.tolist():
        for members in kinds:
            one, swapped = members[0], places.copy()
            swapped[[one, device]] = device, one
            if (
                first not in (one, device)
                and (back[:, one] == back[:, device]).all()
                and (costs.stage_s[one] == costs.stage_s[device]).all()
                and (hops[:, swapped][:, :, swapped] == hops).all()
            ):
                members.append(device)
                break
        else:
            kinds.append([device])
    return kinds
