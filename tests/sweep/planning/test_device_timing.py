"""In which order stages are timed, how often, and when that ends: with a worker and a clock that are made up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import pplib.devices
from pplib.config import Configuration
from pplib.pipeline.monitor.usage import Usage
from pplib.pipeline.wire import messages as m
from pplib.planner.profiles.device_profile import levels
from pplib.sweep.planning import device_timing
from pplib.sweep.planning.device_timing import RUNS, WARMUP, DeviceTiming, even_cuts, time_in_turns

UNITS_S = [0.1, 0.1, 0.1, 0.3, 0.3, 0.1]
COUNT = len(UNITS_S)


class Device:
    """A worker on a clock that passes only while it computes; it grows slower from visit to visit."""

    def __init__(self, name, clock, slowdown=1.0, had=1.0, memory_bytes=10**9):
        self.name, self._clock, self._slowdown, self.had = name, clock, slowdown, had
        self.description = SimpleNamespace(host={"memory_bytes": memory_bytes})
        self.visits, self.pauses_s = [], {}

    def expect(self, request, kind, timeout_s):
        if isinstance(request, m.Prepare):
            self._border = request.plan
            held = sum(range(*self._border))
            return m.Prepared(build_s=0.0, param_bytes=held, resident_bytes=100 + held)
        self.visits.append(self._border)
        self.pauses_s[self._border] = request.pause_s
        taken_s = self._slowdown * (sum(UNITS_S[slice(*self._border)]) + 1e-3) * 1.001 ** len(self.visits)
        starts = []
        for run in range(request.warmup + request.count):
            starts.append(round(self._clock.now * 1e9))
            self._clock.now += taken_s * (100 if run < request.warmup and request.warmup == WARMUP else 1)
        ends = [*starts[1:], round(self._clock.now * 1e9)]
        moments = m.Moments(compute_start_ns=starts, compute_end_ns=ends, copy_ns=[5] * len(starts))
        usage = Usage(
            duration_s=(ends[-1] - starts[0]) * 1e-9,
            process_cpu_fraction=self.had / self._slowdown,
            resident_peak_bytes=10 + len(self.visits),
            throttled=self._slowdown > 5,
        )
        return m.Trace(moments=moments, payload_bytes=0, num_outputs=0, usage=usage)


@pytest.fixture
def clock(monkeypatch):
    found = SimpleNamespace(now=0.0)
    monkeypatch.setattr(device_timing, "time", SimpleNamespace(monotonic=lambda: found.now))
    monkeypatch.setattr(device_timing, "stage_plan", lambda experiment, config, border, name: border)
    monkeypatch.setattr(m, "Prepare", SimpleRequest)
    return found


class SimpleRequest:
    """In place of a request to build: its plan is the border itself."""

    def __init__(self, plan, stage_index):
        self.plan = plan


def timing(device):
    parts = SimpleNamespace(points=range(COUNT + 1))
    experiment = SimpleNamespace(partitioned=parts, maker=SimpleNamespace(files={}))
    told = pplib.devices.Device(name=device.name, slowdown=device._slowdown)
    return DeviceTiming(experiment, Configuration(), device, told, "eager")


def test_every_stage_is_timed_once_a_round_in_orders_of_their_own_and_warm_ups_do_not_count(clock, monkeypatch):
    monkeypatch.setattr(device_timing, "SECONDS", 1e9)
    one = timing(device := Device("a", clock))
    time_in_turns([one])
    stages, look = one.stages(), device.visits[:COUNT]
    assert look == [(i, i + 1) for i in range(COUNT)]
    size = len(stages)
    rounds = [device.visits[COUNT + i * size : COUNT + (i + 1) * size] for i in range(device_timing.ROUNDS)]
    assert len(device.visits) == COUNT + size * device_timing.ROUNDS
    assert all(sorted(visited) == sorted((one.first, one.last) for one in stages) for visited in rounds)
    assert len({tuple(visited) for visited in rounds}) == device_timing.ROUNDS
    assert device.pauses_s[0, COUNT] == 0, "nothing else computes meanwhile"
    assert device.pauses_s[0, COUNT - 1] == pytest.approx(min(0.1, device_timing.PAUSE_S), rel=0.1)
    assert device.pauses_s[0, 1] == device_timing.PAUSE_S
    found, slowness, _ = levels([one.rounds_s for one in stages])
    for stage, level in zip(stages, found, strict=True):
        assert level == pytest.approx(sum(UNITS_S[stage.first : stage.last]) * found[0] / 0.1, abs=0.05 * level + 0.01)
        assert (stage.copy_s, stage.param_bytes) == (5e-9, sum(range(stage.first, stage.last)))
    assert all(slowness[1:] > slowness[:-1]), "what drifts is told"
    assert one.notes == []
    assert (WARMUP, RUNS) >= (1, 2)


def test_devices_of_one_machine_take_turns_and_no_round_is_begun_that_would_be_too_long(clock):
    slow, fast = Device("slow", clock, slowdown=9.0), Device("fast", clock)
    timings = [timing(slow), timing(fast)]
    took_s = time_in_turns(timings)
    rounds = [len(one.stages()[0].rounds_s) for one in timings]
    assert rounds == [device_timing.LEAST_ROUNDS] * 2, "as few as may be, for one is far too slow"
    assert took_s == pytest.approx(clock.now / 2)
    assert timings[0].notes == ["throttled"]
    assert timings[0].powers_w is None


def test_a_device_whose_core_others_used_says_so(clock):
    one = timing(Device("a", clock, slowdown=2.0, had=0.6))
    time_in_turns([one])
    assert one.notes == ["its stages had a core for 60% of their time only: other programs ran"]


def test_a_device_is_not_asked_to_hold_what_its_memory_has_no_room_for(clock):
    device = Device("a", clock, memory_bytes=100 + 10)  # of weights, the units have 0, 1, 2, 3, 4 and 5
    one = timing(device)
    time_in_turns([one])
    assert one.room_bytes == 10
    assert all(sum(range(*visited)) <= 10 for visited in device.visits)
    timed = {(stage.first, stage.last) for stage in one.stages()}
    assert {(0, 5), (4, 6), (0, 0), (6, 6)} <= timed, "the longest ones from and to the ends"
    assert (0, 6) not in timed


def test_anchors_begin_and_end_where_the_time_is_shared_out_evenly():
    assert even_cuts([1] * 6, 5) == [1, 2, 3, 4, 5]
    assert even_cuts([20, 1, 1, 1, 1], 3) == [1]
    assert even_cuts([1, 1, 1, 1, 20], 2) == [4]
    assert even_cuts([3], 4) == []
