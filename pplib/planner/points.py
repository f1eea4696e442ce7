"""Where to cut when nothing has been measured yet: evenly, or balanced over the devices."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pplib.errors import PartitionError
from pplib.planner.search.fronts import pareto_plans
from pplib.planner.search.plan_costs import PlanCosts


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

    Every stage holds at least one unit. Among equally good choices one with the smallest sum of all stage and
    transfer times wins.

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

    until = np.concatenate([[0.0], np.cumsum(times)]) / np.array(factors)[:, None]
    stage_s = until[:, None, :] - until[:, :, None]
    stage_s[0, 0, 0] = np.inf  # the first one is not left empty
    # All devices, in this order: each can only send to the next, and only the last one has a way back.
    busy_s = np.full((num_stages, num_stages, count + 1), np.inf)
    busy_s[np.arange(num_stages - 1), np.arange(1, num_stages)] = [0.0, *hops]
    back_s = np.where(np.arange(num_stages) < num_stages - 1, np.inf, 0.0)
    costs = PlanCosts(stage_s=stage_s, hop_busy_s=busy_s, hop_delay_s=np.zeros_like(busy_s), back_busy_s=back_s)
    return pareto_plans(costs, math.inf, first=0)[-1].points


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
