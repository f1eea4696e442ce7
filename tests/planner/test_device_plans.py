"""Plans over all orders and choices of devices: against all of them, predicted one by one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from pplib.links import Direction, LinkProfile
from pplib.planner.device_plans import device_plans, promising_cuts, reordered
from pplib.planner.prediction import draw_cuts
from pplib.planner.profiles.stage_times import StageTimes
from tests.planner.test_prediction import COUNT, pipeline
from tests.planner.test_stage_times import UNITS_S, profile, truth_s


def unlike(*slowdowns, **more):
    """Devices of which each takes so many times as long."""
    one = pipeline(stages=len(slowdowns), **more)
    stages = [StageTimes(profile(lambda a, b, by=by: truth_s(a, b) * by)) for by in slowdowns]
    return replace(one, stages=stages)


def test_the_front_of_all_orders_is_that_of_every_order_and_cut_predicted_alone():
    one = unlike(3.0, 1.0, 2.0, in_flight=3)
    found = device_plans(one, first=None)
    values = []
    for count in (2, 3):
        for devices in itertools.permutations(range(3), count):
            if count == 2 or set(devices) == {0, 1, 2}:
                cuts = list(itertools.combinations(range(1, COUNT), count - 1))
                alone = reordered(one, found[0]._replace(devices=devices))
                told = draw_cuts(alone, cuts, draws=2).values
                values += list(zip(told["latency_s"][:, 0], told["throughput_img_s"][:, 0], strict=True))
    latency, throughput = np.array(values).T
    assert min(plan.latency_s for plan in found if len(plan.devices) > 1) >= latency.min() * 0.99
    assert 8 / found[-1].cycle_s == pytest.approx(throughput.max(), rel=0.03)
    assert len(found[-1].devices) == 3
    assert found[0].devices == (1,), "one microbatch is through soonest on the quickest device alone"


def test_the_device_with_the_input_is_the_first():
    found = device_plans(unlike(3.0, 1.0, 2.0, in_flight=3), first=0)
    assert {plan.devices[0] for plan in found} == {0}


def test_of_too_many_cuts_those_are_looked_at_that_may_be_on_the_front():
    slow = LinkProfile(name="x", forward=Direction(rate_bit_s=2e8), backward=Direction())
    one = unlike(1.0, 2.0, 1.5, in_flight=3, link=slow)
    some = promising_cuts(one)
    every = [*itertools.combinations(range(1, COUNT), 2), (0, 0), (COUNT, COUNT)]
    assert set(some) <= set(every)
    told = draw_cuts(one, every, draws=2).values
    best = [every[int(np.argmin(told["latency_s"][:, 0]))], every[int(np.argmax(told["throughput_img_s"][:, 0]))]]
    assert set(best) <= set(some)
    assert promising_cuts(one) == some
    assert len(UNITS_S) == COUNT
