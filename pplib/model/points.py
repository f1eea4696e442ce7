"""The model room: partition points, and which of them go together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pplib.errors import PartitionError


@dataclass(frozen=True)
class PartitionPoint:
    """A place to cut, after unit `index`, and what crosses there for the example batch.

    `name` is the last module before the cut; `input` and `output` at the two baselines.
    `activation_bytes` is numel x itemsize.
    """

    index: int
    label: str
    name: str
    activation_shape: tuple[int, ...]
    activation_dtype: str
    activation_bytes: int


MOST_PARTITIONS = 100_000


def combinations(num_points_N: int, num_stages: int) -> list[tuple[int, ...]]:
    """Every valid choice of points for `num_stages` stages: the two baselines, and all increasing ones.

    >>> combinations(3, 2)
    [(0,), (1,), (2,), (3,)]
    >>> combinations(4, 3)
    [(0, 0), (1, 2), (1, 3), (2, 3), (4, 4)]
    """
    if num_stages < 2:
        raise PartitionError(f"num_stages: expected an integer >= 2, got {num_stages}")
    cuts = num_stages - 1
    count = math.comb(max(0, num_points_N - 1), cuts)
    if count > MOST_PARTITIONS:
        raise PartitionError(
            f"partition_points: all: {num_points_N} units over {num_stages} devices can be cut in {count} ways, "
            f"expected at most {MOST_PARTITIONS}: give a list of points, even, auto or plan, or granularity: block"
        )
    between = itertools.combinations(range(1, num_points_N), cuts)
    return [(0,) * cuts, *between, (num_points_N,) * cuts]


def even_points(num_units: int, num_stages: int) -> tuple[int, ...]:
    """Partition points that give every stage the same number of units, give or take one.

    Raises:
        PartitionError: fewer than two stages, or fewer units than stages.

    >>> even_points(19, 2)
    (9,)
    >>> even_points(19, 4)
    (4, 9, 14)
    """
    if num_stages < 2:
        raise PartitionError(f"num_stages: expected 2 or more, got {num_stages}")
    if num_units < num_stages:
        raise PartitionError(
            f"{num_stages} stages need at least {num_stages} units, got {num_units}: "
            "use fewer stages, or granularity: layer"
        )
    return tuple(stage * num_units // num_stages for stage in range(1, num_stages))


def validate_points(points: Sequence[int], num_points_N: int) -> None:
    """Raise PartitionError, which lists the valid points, unless `points` cut a model of N units.

    Strictly increasing within 1..N-1; or all 0 (everything on the last device), or all N (on the first).

    >>> validate_points((0, 0), 19)
    >>> validate_points((20,), 19)
    Traceback (most recent call last):
    pplib.errors.PartitionError: partition point 20 is not valid: valid are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, \
11, 12, 13, 14, 15, 16, 17, 18, 19 (0: everything on the last device, 19: on the first)
    """
    inner = all(0 < point < num_points_N for point in points)
    increasing = all(a < b for a, b in itertools.pairwise(points))
    baseline = len(set(points)) == 1 and points[0] in (0, num_points_N)
    if not points or (inner and increasing) or baseline:
        return
    if len(points) == 1:
        valid = ", ".join(str(point) for point in range(num_points_N + 1))
        raise PartitionError(
            f"partition point {points[0]} is not valid: valid are {valid} "
            f"(0: everything on the last device, {num_points_N}: on the first)"
        )
    raise PartitionError(
        f"partition points {tuple(points)} are not valid: expected {len(points)} strictly increasing points within "
        f"1..{num_points_N - 1}, or all 0 (everything on the last device), or all {num_points_N} (on the first)"
    )
