"""Where to cut when nothing has been measured yet: evenly, or balanced over the devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from pplib.errors import PartitionError


def even_points(num_units: int, num_stages: int) -> tuple[int, ...]:
    """Partition points that give every stage the same number of units, give or take one.

    Raises:
        PartitionError: fewer than two stages, or fewer units than stages.

    >>> even_points(19, 2)
    (9,)
    >>> even_points(19, 4)
    (4, 9, 14)
    """
    _check_counts(num_units, num_stages)
    return tuple(stage * num_units // num_stages for stage in range(1, num_stages))


def balanced_points(
    unit_times_s: Sequence[float],
    num_stages: int,
    speeds: Sequence[float] | None = None,
    transfer_s: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """The partition points whose slowest stage or hop is as fast as can be: exact, no heuristics.

    Every stage holds at least one unit. Among equally good choices the one with the smallest sum of
    all stage and transfer times wins, then the earliest cuts.

    Args:
        unit_times_s: seconds per microbatch of unit 1..N on a device of speed 1.
        num_stages: k >= 2.
        speeds: one factor per stage, 2.0 computes twice as fast as 1.0; all 1.0 if not given.
        transfer_s: seconds that sending on the output of unit 1..N keeps the link busy (the last entry
            is not used: it is no cut between stages); if not given, links count as free.

    Returns:
        k - 1 strictly increasing points in 1..N-1.

    Raises:
        PartitionError: fewer units than stages, or times, speeds or lengths that make no sense.

    Source: minimax partition of a chain by dynamic programming over the cuts, O(k N^2).

    >>> balanced_points([4, 1, 1, 1, 1], 2)
    (1,)
    >>> balanced_points([4, 1, 1, 1, 1], 2, speeds=[3.0, 1.0])
    (3,)
    >>> balanced_points([4, 1, 1, 1, 1], 2, transfer_s=[9, 2, 2, 2, 0])
    (2,)
    """
    times = [float(time) for time in unit_times_s]
    count = len(times)
    _check_counts(count, num_stages)
    factors = [1.0] * num_stages if speeds is None else [float(speed) for speed in speeds]
    hops = [0.0] * count if transfer_s is None else [float(time) for time in transfer_s]
    _check_numbers("unit_times_s", times, count, least=0.0)
    _check_numbers("speeds", factors, num_stages, least=math.ulp(0.0))
    _check_numbers("transfer_s", hops, count, least=0.0)

    until = [0.0, *accumulate(times)]

    def stage_s(stage: int, first: int, last: int) -> float:
        return (until[last] - until[first]) / factors[stage]

    # Two passes: the smallest bottleneck first, then the smallest sum that keeps to it. One pass over
    # pairs (bottleneck, sum) would be wrong: a prefix with the larger bottleneck but the smaller sum
    # is the better one whenever a later stage is slower than both.
    # bottleneck[s][j]: the least possible slowest part when stages s.. run units j+1..N.
    infinite = math.inf
    bottleneck = [[infinite] * (count + 1) for _ in range(num_stages)]
    total = [[infinite] * (count + 1) for _ in range(num_stages)]
    for j in range(count):
        bottleneck[-1][j] = stage_s(num_stages - 1, j, count)
    for stage in reversed(range(num_stages - 1)):
        for j in range(stage, count):
            cuts = range(j + 1, count - (num_stages - stage - 1) + 1)
            parts = (max(stage_s(stage, j, p), hops[p - 1], bottleneck[stage + 1][p]) for p in cuts)
            bottleneck[stage][j] = min(parts, default=infinite)
    limit = bottleneck[0][0]

    chosen = [[0] * (count + 1) for _ in range(num_stages)]
    for j in range(count):
        if stage_s(num_stages - 1, j, count) <= limit:
            total[-1][j] = stage_s(num_stages - 1, j, count)
    for stage in reversed(range(num_stages - 1)):
        for j in range(stage, count):
            for p in range(j + 1, count - (num_stages - stage - 1) + 1):
                here = stage_s(stage, j, p)
                if here > limit or hops[p - 1] > limit:
                    continue
                candidate = here + hops[p - 1] + total[stage + 1][p]
                if candidate < total[stage][j]:
                    total[stage][j], chosen[stage][j] = candidate, p
    points: list[int] = []
    for stage in range(num_stages - 1):
        points.append(chosen[stage][points[-1] if points else 0])
    return tuple(points)


def _check_counts(num_units: int, num_stages: int) -> None:
    if num_stages < 2:
        raise PartitionError(f"num_stages: expected 2 or more, got {num_stages}")
    if num_units < num_stages:
        raise PartitionError(
            f"{num_stages} stages need at least {num_stages} units, got {num_units}: "
            "use fewer stages, or granularity: layer"
        )


def _check_numbers(name: str, values: Sequence[float], length: int, least: float) -> None:
    if len(values) != length:
        raise PartitionError(f"{name}: expected {length} numbers, got {len(values)}")
    for i, value in enumerate(values):
        if not (math.isfinite(value) and value >= least):
            kind = "a number >= 0" if least == 0 else "a number above 0"
            raise PartitionError(f"{name}[{i}]: expected {kind}, got {value}")
