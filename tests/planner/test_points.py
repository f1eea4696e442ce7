"""Planning against all combinations of cuts."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplib.errors import PartitionError
from pplib.planner.points import balanced_points, even_points


def cost(times, points, speeds, hops):
    borders = [0, *points, len(times)]
    stages = [sum(times[a:b]) / speed for (a, b), speed in zip(pairwise(borders), speeds, strict=True)]
    links = [hops[p - 1] for p in points]
    return max(stages + links), sum(stages) + sum(links)


@st.composite
def chains(draw):
    count = draw(st.integers(2, 9))
    stages = draw(st.integers(2, min(4, count)))
    # Whole numbers and powers of two, so that sums are exact and ties are real ties.
    numbers = st.lists(st.integers(0, 6), min_size=count, max_size=count)
    speeds = draw(st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=stages, max_size=stages))
    return draw(numbers), stages, speeds, draw(numbers)


@given(chains())
def test_balanced_points_are_the_best_of_all_combinations(chain):
    times, stages, speeds, hops = chain
    points = balanced_points(times, stages, speeds, hops)
    every = combinations(range(1, len(times)), stages - 1)
    assert cost(times, points, speeds, hops) == min(cost(times, candidate, speeds, hops) for candidate in every)


@given(st.integers(2, 200), st.integers(2, 8))
def test_even_points_differ_by_at_most_one_unit(units, stages):
    if units < stages:
        with pytest.raises(PartitionError, match="at least"):
            even_points(units, stages)
        return
    sizes = [b - a for a, b in pairwise([0, *even_points(units, stages), units])]
    assert sum(sizes) == units
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_a_slower_device_gets_less():
    assert balanced_points([1.0] * 6, 2) == (3,)
    assert balanced_points([1.0] * 6, 2, speeds=[0.5, 1.0]) == (2,)


def test_links_count_as_bottlenecks():
    assert balanced_points([1, 1, 1, 1], 2, transfer_s=[0, 9, 0, 0]) == (1,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], 2), "2 stages need at least 2 units, got 1"),
        (([1.0, 1.0], 1), "num_stages: expected 2 or more, got 1"),
        (([1.0, -1.0], 2), r"unit_times_s\[1\]: expected a number >= 0, got -1.0"),
        (([1.0, float("nan")], 2), r"unit_times_s\[1\]"),
        (([1.0, 1.0], 2, [1.0]), "speeds: expected 2 numbers, got 1"),
        (([1.0, 1.0], 2, [1.0, 0.0]), r"speeds\[1\]: expected a number above 0, got 0.0"),
        (([1.0, 1.0], 2, None, [1.0]), "transfer_s: expected 2 numbers, got 1"),
    ],
)
def test_input_that_makes_no_sense_is_named(arguments, message):
    with pytest.raises(PartitionError, match=message):
        balanced_points(*arguments)
