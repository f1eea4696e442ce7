"""`partition_points: auto`: from the units' times, the devices' speeds and the link; the same for the same inputs."""

from __future__ import annotations

import pytest

from pplib.config import configuration
from pplib.devices import Device, Testbed
from pplib.errors import TrialError
from pplib.pipeline.coordinator.coordinator import PipelineRun
from pplib.records import StageTimeline
from pplib.sweep.auto import choose, store_choice, stored_choice, with_speeds
from pplib.sweep.experiment import prepare
from pplib.sweep.speeds import is_settled, settle, time_stages

TIMES = [4.0, 4.0, 4.0, 4.0]
SIZES = [10_000_000, 1_000, 1_000, 1_000]


def devices(*slowdowns):
    return Testbed(devices=[Device(name=f"d{i}", slowdown=slowdown) for i, slowdown in enumerate(slowdowns)])


def refuse():
    pytest.fail("measured again")


@pytest.fixture
def config(tiny, links):
    return configuration({**tiny, "partition_points": "auto"})


def test_a_slower_device_gets_less_and_a_slow_link_is_cut_where_little_crosses(config, tiny):
    assert choose(config, devices(1.0, 1.0), SIZES, lambda: TIMES).points == [2]
    assert choose(config, devices(3.0, 1.0), SIZES, lambda: TIMES).points == [1]
    narrow = configuration({**tiny, "partition_points": "auto", "link": "narrow"})
    chosen = choose(narrow, devices(3.0, 1.0), [size * 10 for size in SIZES], lambda: TIMES)
    assert chosen.points == [2], "40 s of link for the first cut"
    assert chosen.transfer_s[0] == 40.0


def test_what_was_chosen_stays_and_configurations_alike_share_what_was_measured(config, tiny):
    first = choose(config, devices(1.0, 1.0), SIZES, lambda: TIMES)
    store_choice(config, first)
    assert choose(config, devices(1.0, 1.0), SIZES, refuse) == first == stored_choice(config)
    other = configuration({**tiny, "partition_points": "auto", "backend": "rpc"})
    assert choose(other, devices(1.0, 1.0), SIZES, refuse) == first
    plain = configuration({**tiny, "partition_points": "auto", "optimize": False})
    assert choose(plain, devices(1.0, 1.0), SIZES, lambda: [9.0, 1.0, 1.0, 1.0]).points == [1]


def test_real_devices_get_by_what_they_were_timed_at_and_configurations_of_the_same_devices_share_that(config, tiny):
    before = choose(config, devices(1.0, 1.0), SIZES, lambda: TIMES)
    timed = with_speeds(before, [2.0, 8.0])  # the planning machine takes 8 s for two units
    assert (timed.speeds, timed.timed_at, timed.points) == ([4.0, 1.0], [2], [3])
    store_choice(config, timed)
    assert stored_choice(config) == timed
    other = configuration({**tiny, "partition_points": "auto", "backend": "rpc"})
    assert choose(other, devices(1.0, 1.0), SIZES, refuse) == timed
    assert choose(other, devices(1.0, 2.0), SIZES, refuse).timed_at == [], "those have not been timed"


class Ring:
    """A coordinator whose devices take what they take."""

    def __init__(self, taken_s):
        self.taken_s, self.plans, self.counts = taken_s, [], []

    def open(self, backend):
        pass

    def prepare(self, plan):
        self.plans.append(plan)

    def run(self, plan, length, timeout_s):
        starts = [10.0 * i for i in range(length.most)]
        stages = []
        for i, taken_s in enumerate(self.taken_s):
            ends = [start + taken_s * (9 if seq < 3 else 1) for seq, start in enumerate(starts)]
            same = dict.fromkeys(("ready_s", "received_s", "copy_s", "send_start_s"), starts)
            stages.append(
                StageTimeline(stage_index=i, device=f"d{i}", compute_start_s=starts, compute_end_s=ends, **same)
            )
        return PipelineRun(stages, starts, [], [0], [None, None], None)


def test_the_devices_run_a_stage_each_before_the_cut_is_decided_and_the_new_cut_is_proven(tiny, monkeypatch):
    monkeypatch.setattr("pplib.sweep.experiment.unit_times_s", lambda *given: TIMES)
    experiment = prepare(configuration({**tiny, "partition_points": "auto", "in_flight": 3}), progress=False)
    assert experiment.points == [(2,)]
    assert not is_settled(experiment)
    ring = Ring([0.5, 1.5])
    taken_s = time_stages(experiment, ring)
    assert taken_s == pytest.approx([0.5, 1.5]), "the warm-up does not count"
    assert (ring.plans[0].points, ring.plans[0].in_flight) == ((2,), 1)
    proven = []
    monkeypatch.setattr("pplib.model.stages.proof.Reference.check", lambda reference, stages: proven.append(stages))
    settled = settle(experiment, taken_s)
    assert settled.points == [(3,)]
    assert len(proven) == 1
    assert is_settled(settled)
    assert settled.plan((3,)).stages == experiment.plan((3,)).stages
    with pytest.raises(TrialError, match=r"d1: its stage took 0\.0 s, expected more than 0"):
        time_stages(experiment, Ring([0.5, 0.0]))


def test_units_are_timed_as_a_stage_executes_them(tiny, monkeypatch):
    asked = []

    def profiled(model, batch, granularity, optimize):
        asked.append(optimize)
        return []

    monkeypatch.setattr("pplib.sweep.experiment.profile_model", profiled)
    monkeypatch.setattr("pplib.sweep.auto.balanced_points", lambda *values: (2,))
    for optimize in (True, False):
        prepare(configuration({**tiny, "partition_points": "auto", "optimize": optimize}), progress=False)
    assert asked == [True, False]
