"""The search for plans against all plans there are, and against the pipeline model."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.errors import FrameError, PartitionError
from pplib.planner.pipeline_model import PipelineTimes, predict
from pplib.planner.search import fronts
from pplib.planner.search.fronts import pareto_plans
from pplib.planner.search.plan_costs import PlanCosts


def all_plans(costs, in_flight, first):
    """(latency, cycle) of every plan: each order of some devices, each choice of cuts."""
    count, last = len(costs.stage_s), costs.stage_s.shape[1] - 1
    for size in range(1, count + 1):
        for devices in permutations(range(count), size):
            if first not in (None, devices[0]):
                continue
            starts = [0] if first is not None and size > 1 else []
            for points in combinations([*starts, *range(1, last)], size - 1):
                yield devices, points, *taken(costs, in_flight, devices, points)


def taken(costs, in_flight, devices, points):
    """What a plan takes, by the definitions."""
    cuts = [0, *points, costs.stage_s.shape[1] - 1]
    busy = [costs.stage_s[device, p, q] for device, (p, q) in zip(devices, pairwise(cuts), strict=True)]
    hops = [(d, e, p) for (d, e), p in zip(pairwise(devices), points, strict=True)]
    latency = float(sum(busy) + sum(costs.hop_busy_s[hop] + costs.hop_delay_s[hop] for hop in hops))
    back_busy = float(costs.back_busy_s[devices[-1]])
    back = float(back_busy + costs.back_delay_s[devices[-1]])
    if np.isinf(back):
        return np.inf, np.inf
    return latency, max(*busy, *(costs.hop_busy_s[hop] for hop in hops), back_busy, (latency + back) / in_flight)


def front_of(plans):
    """Those pairs that no other is better than."""
    pairs = {(latency, cycle) for _, _, latency, cycle in plans if np.isfinite(latency + cycle)}
    return sorted(
        pair
        for pair in pairs
        if not any(other != pair and other[0] <= pair[0] and other[1] <= pair[1] for other in pairs)
    )


def times(generator, shape, most, forbidden):
    """Whole numbers, so that sums are exact and ties real, some of them infinite."""
    array = generator.integers(0, most + forbidden, shape, endpoint=True).astype(float)
    array[array > most] = np.inf
    return array


@st.composite
def problems(draw):
    """Up to four devices and six units: unlike in all, or of kinds; stages that do not fit, hops that are missing."""
    count, units = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    kinds = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    generator = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    if draw(st.booleans()):  # each unit adds its time
        speed = times(generator, (4, 1), 3, 0) + 1
        until = np.concatenate(
            [np.zeros((4, 1)), np.cumsum(times(generator, (1, units), 5, 0) * speed, axis=1)], axis=1
        )
        stage = np.maximum(until[:, None, :] - until[:, :, None], 0.0)
        most = draw(st.integers(1, units))
        places = np.arange(units + 1)
        stage[0, places - places[:, None] > most] = np.inf  # that many units fit into its memory
    else:
        stage = times(generator, (4, units + 1, units + 1), 9, 1)
    hops = [times(generator, (4, 4, units + 1), 4, more) for more in (1, 0)]
    back = [times(generator, (4,), 6, 1) for _ in range(2)]
    costs = PlanCosts(
        stage_s=stage[kinds],
        hop_busy_s=hops[0][np.ix_(kinds, kinds)],
        hop_delay_s=hops[1][np.ix_(kinds, kinds)],
        back_busy_s=back[0][kinds],
        back_delay_s=back[1][kinds],
    )
    first = draw(st.one_of(st.none(), st.integers(0, count - 1)))
    return costs, draw(st.sampled_from([1.0, 2.0, 4.0, np.inf])), first


def check(costs, in_flight, first):
    expected = front_of(all_plans(costs, in_flight, first))
    if not expected:
        with pytest.raises(PartitionError, match="no plan: expected devices whose stages take all units"):
            pareto_plans(costs, in_flight, first)
        return
    found = pareto_plans(costs, in_flight, first)
    for plan in found:
        assert len(set(plan.devices)) == len(plan.devices) == len(plan.points) + 1
        assert plan[2:] == pytest.approx(taken(costs, in_flight, plan.devices, plan.points), rel=1e-12)
    assert [plan[2:] for plan in found] == [pytest.approx(pair, rel=1e-12) for pair in expected]


@settings(max_examples=200)
@given(problems())
def test_the_front_is_that_of_all_plans(problem):
    check(*problem)


@settings(max_examples=60)
@given(problems())
def test_the_front_is_the_same_however_few_labels_live_at_first(problem):
    """So that bounds are renewed, devices tracked, and searches widened, which small problems do not need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fronts, "FIRST_WIDTH", 1)
        patch.setattr(fronts, "FIRST_STATES", 2)
        check(*problem)


def unlike_devices(seed, units=12, count=5):
    """Devices of unlike speed, for each unit another, joined by unlike links."""
    generator = np.random.default_rng(seed)
    unit = generator.lognormal(-4, 0.6, units) * generator.lognormal(0, 0.2, (count, units))
    until = np.concatenate([np.zeros((count, 1)), (unit * generator.uniform(1, 5, (count, 1))).cumsum(axis=1)], axis=1)
    sizes = generator.lognormal(-6, 1, units + 1)
    return PlanCosts(
        stage_s=np.maximum(until[:, None, :] - until[:, :, None], 0.0),
        hop_busy_s=sizes * generator.uniform(0.5, 3, (count, count, 1)),
        hop_delay_s=generator.uniform(0, 0.002, (count, count, 1)) + np.zeros(units + 1),
        back_busy_s=generator.uniform(0, 0.001, count),
        back_delay_s=generator.uniform(0, 0.002, count),
    )


@pytest.mark.parametrize("in_flight", [3, np.inf])
@pytest.mark.parametrize("seed", range(3))
def test_the_front_of_five_unlike_devices(seed, in_flight):
    check(unlike_devices(seed, units=9), in_flight, 0 if seed else None)


@pytest.mark.parametrize("indifference", [0.02, 0.2])
def test_with_indifference_some_plan_is_as_good_but_for_that(indifference):
    costs = unlike_devices(4)
    front = pareto_plans(costs, np.inf)
    fewer = pareto_plans(costs, np.inf, indifference=indifference)
    assert len(fewer) < len(front)
    for plan in front:
        assert any(
            other.latency_s <= plan.latency_s * (1 + 1e-9) and other.cycle_s * (1 - indifference) <= plan.cycle_s
            for other in fewer
        )


@pytest.mark.parametrize("in_flight", [2, 4])
def test_a_pipeline_does_what_its_plan_says(in_flight):
    costs = unlike_devices(5)
    for plan in pareto_plans(costs, in_flight, first=0):
        if len(plan.devices) < 2:
            continue
        hops = [(d, e, p) for (d, e), p in zip(pairwise(plan.devices), plan.points, strict=True)]
        cuts, last = [0, *plan.points, 12], plan.devices[-1]
        pipeline = PipelineTimes(
            compute_s=np.array(
                [[costs.stage_s[d, p, q] for d, (p, q) in zip(plan.devices, pairwise(cuts), strict=True)]]
            ),
            busy_s=np.array([[costs.hop_busy_s[hop] for hop in hops]]),
            propagation_s=np.array([[costs.hop_delay_s[hop] for hop in hops]]),
            return_busy_s=costs.back_busy_s[[[last]]],
            return_propagation_s=costs.back_delay_s[[[last]]],
            in_flight=in_flight,
            batch_size=8,
        )
        predicted = predict(pipeline, 400, warmup=200)
        assert predicted.throughput_img_s[0] == pytest.approx(8 / plan.cycle_s, rel=0.01)
        alone = predict(PipelineTimes(**{**vars(pipeline), "in_flight": 1}))
        assert alone.latency_s[0] == pytest.approx(plan.latency_s)


def test_two_devices_by_hand():
    """Three units of 2, 1 and 1 s on the first device, half of that on the second one; the ways take 1 s and 0.5 s."""
    until = np.array([[0, 2, 3, 4], [0, 1, 1.5, 2]])
    costs = PlanCosts(
        stage_s=until[:, None, :] - until[:, :, None],
        hop_busy_s=np.full((2, 2, 4), 1.0),
        hop_delay_s=np.full((2, 2, 4), 0.5),
    )
    assert pareto_plans(costs, np.inf, first=0) == [
        ((0, 1), (0,), 3.5, 2.0),  # all on the second: 1.5 there, and 2
    ]
    assert pareto_plans(costs, np.inf) == [((1,), (), 2.0, 2.0), ((1, 0), (2,), 4.0, 1.5)]
    assert pareto_plans(costs, 1) == [((1,), (), 2.0, 2.0)]


@pytest.mark.parametrize(
    ("more", "arguments", "message"),
    [
        ({"stage_s": np.zeros((2, 3, 4))}, {}, r"stage_s: expected the shape \(devices, units \+ 1, units \+ 1\), got"),
        ({"hop_busy_s": np.zeros((2, 2, 3))}, {}, r"hop_busy_s: expected the shape \(2, 2, 4\), got \(2, 2, 3\)"),
        ({"back_delay_s": np.zeros(3)}, {}, r"back_delay_s: expected the shape \(2,\), got \(3,\)"),
        ({"hop_delay_s": np.full((2, 2, 4), -1.0)}, {}, "hop_delay_s: expected seconds, 0 or more, got -1.0"),
        ({"stage_s": np.full((2, 4, 4), np.nan)}, {}, "stage_s: expected seconds, 0 or more, got nan"),
        ({}, {"first": 2}, "first: expected a device from 0 to 1, got 2"),
        ({}, {"in_flight": 0}, "in_flight: expected 1 or more, got 0"),
        ({}, {"indifference": 1.0}, "indifference: expected a share, 0 or more and below 1, got 1.0"),
    ],
)
def test_arguments_that_make_no_sense_are_named(more, arguments, message):
    costs = {"stage_s": np.ones((2, 4, 4)), "hop_busy_s": np.zeros((2, 2, 4)), "hop_delay_s": np.zeros((2, 2, 4))}
    with pytest.raises(FrameError, match=message):
        pareto_plans(PlanCosts(**{**costs, **more}), **{"in_flight": 2, **arguments})


def test_more_devices_than_can_be_told_apart_are_refused_but_not_more_that_are_alike():
    hop = np.zeros((63, 63, 2))
    unlike = PlanCosts(stage_s=np.ones((63, 2, 2)) * np.arange(63)[:, None, None], hop_busy_s=hop, hop_delay_s=hop)
    with pytest.raises(FrameError, match="expected at most 62 devices that differ, got 63 kinds of them"):
        pareto_plans(unlike, 1)
    alike = PlanCosts(stage_s=np.ones((63, 2, 2)), hop_busy_s=hop, hop_delay_s=hop)
    assert pareto_plans(alike, 1) == [((0,), (), 1.0, 1.0)]
