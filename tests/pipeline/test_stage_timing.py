"""A stage timed alone: what is run, when, and on what; and what a worker answers."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from pplib import limits
from pplib.config import configuration
from pplib.devices import Device, Testbed
from pplib.errors import TransportError, WorkerError
from pplib.pipeline.coordinator.client import WorkerClient
from pplib.pipeline.coordinator.weights_sending import send_weights
from pplib.pipeline.stage import runners
from pplib.pipeline.stage.builder import StageBuilder
from pplib.pipeline.stage.timing import StageTiming, made_up
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.plan import DTYPES, ExportedStage, TensorSpec
from pplib.sweep.experiment import prepare
from pplib.sweep.planning.device_timing import stage_plan
from tests.helpers.local_workers import local_workers

SPEC = TensorSpec((2, 3, 4, 4), "float32", "channels_last")
TOKEN = b"x" * 32


class Clock:
    """Time that passes only where somebody waits or computes."""

    def __init__(self, monkeypatch):
        self.now_ns = 10**9
        monkeypatch.setattr(runners.time, "monotonic_ns", lambda: self.now_ns)
        monkeypatch.setattr(runners.time, "sleep", self.pass_s)

    def pass_s(self, seconds):
        self.now_ns += round(seconds * 1e9)


class Waiting:
    """In place of an event: waits on that clock."""

    def __init__(self, clock):
        self._clock, self.waits_s = clock, []

    def wait(self, seconds):
        self.waits_s.append(seconds)
        self._clock.pass_s(seconds)
        return False


def test_runs_follow_a_pause_and_warm_ups_do_not_and_the_slowdown_is_in_the_times(monkeypatch):
    clock, seen = Clock(monkeypatch), []

    def stage(array):
        clock.pass_s(0.002)
        seen.append(array.copy(order="K"))
        array[:] = -1  # a stage may write into its input: the next run is given it anew
        return array, 7

    one = StageTiming(stage, SPEC, slowdown=3.0)
    one._stopped = waiting = Waiting(clock)
    one.run(2, 3, 0.5)
    moments = one.trace
    assert [b - a for a, b in zip(moments.compute_start_ns, moments.compute_end_ns, strict=True)] == [6_000_000] * 5
    assert waiting.waits_s == [0.0, 0.0, 0.5, 0.5, 0.5]
    assert moments.copy_ns == [7] * 5
    assert np.diff(moments.compute_start_ns).tolist() == [6_000_000, *[506_000_000] * 3]
    assert all((one == seen[0]).all() for one in seen)
    assert SPEC.is_laid_out(seen[0])


def test_a_timing_that_is_given_up_ends_with_the_cause():
    one = StageTiming(lambda array: (array, 0), SPEC)
    one.stop(TransportError("the coordinator went away"))
    with pytest.raises(TransportError, match="went away"):
        one.run(0, 1000, 60.0)
    assert one.trace.copy_ns == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_input_that_is_made_up_has_no_denormal_number_and_indexes_anything(dtype):
    spec = TensorSpec((2, 3, 5, 5), dtype, "channels_last")
    array = made_up(spec)
    assert (array.shape, array.dtype) == (spec.shape, spec.array_dtype)
    assert spec.is_laid_out(array)
    if dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    least, most = (0, 1) if array.dtype.kind in "iub" else (0.5, 2)
    assert least <= array.min() < array.max() <= most


@pytest.fixture(scope="module")
def worker():
    testbed = Testbed(devices=[Device(name="a", idle_w=2.0, busy_w=5.0), Device(name="b")])
    with local_workers(testbed, TOKEN, ["socket"]) as started:
        client = WorkerClient("a", started[0][1].control, TOKEN)
        yield client
        client.close()


@pytest.mark.parametrize("name", ["eager", "onnxruntime"])
def test_a_worker_times_any_stage_that_it_was_given(worker, name):
    config = configuration({"model": "tests.helpers.models:tiny", "num_images": 4, "batch_size": 2, "runtime": name})
    experiment, taken = prepare(config, progress=False), {}
    for border in ((0, 0), (0, 4), (1, 3), (4, 4)):
        plan = stage_plan(experiment, config, border, name)
        for file in experiment.maker.files.values():
            send_weights(worker, file)
        worker.expect(m.Prepare(plan=plan, stage_index=0), m.Prepared, 60)
        trace = worker.expect(m.TimeStage(warmup=2, count=4, pause_s=0.001), m.Trace, limits.TIME_STAGE_S)
        moments = trace.moments
        spans = [b - a for a, b in zip(moments.compute_start_ns, moments.compute_end_ns, strict=True)]
        assert len(spans) == len(moments.copy_ns) == 6
        assert moments.ready_ns == moments.send_start_ns == []
        assert trace.usage.energy_j > 0, "by idle_w and busy_w"
        assert trace.usage.resident_peak_bytes > 1e6
        taken[border] = min(spans)
    assert taken[0, 0] < taken[0, 4]


def test_a_worker_that_has_no_stage_or_not_the_memory_says_so(worker):
    worker.expect(m.CloseHops(), m.Done, 60)
    empty = ExportedStage("eager", "float32", b"", "0" * 64, 0)
    config = configuration({"model": "tests.helpers.models:tiny", "num_images": 4, "batch_size": 2})
    plan = stage_plan(prepare(config, progress=False), config, (0, 0), "eager")
    huge = TensorSpec((2**20, 2**20), "float32")
    with pytest.raises(WorkerError, match=r"a: .*do not fit"):
        worker.expect(
            m.Prepare(plan=msgspec.structs.replace(plan, tensors=(huge, huge), stages=(empty,)), stage_index=0),
            m.Prepared,
            60,
        )
    with pytest.raises(WorkerError, match="asked to time a stage, but none is built"):
        worker.expect(m.TimeStage(warmup=0, count=1, pause_s=0.0), m.Trace, 60)
    worker.expect(m.Prepare(plan=plan, stage_index=0), m.Prepared, 60)
    with pytest.raises(WorkerError, match="asked about a run, but there was none"):
        worker.expect(m.TakeTrace(), m.Trace, 60)


def test_a_stage_that_only_rests_gives_a_copy_in_the_layout_of_its_input(monkeypatch):
    clock, given = Clock(monkeypatch), made_up(SPEC)
    runner, held_bytes = StageBuilder("cpu", 1)._opened(
        ExportedStage("eager", "float32", b"", "0" * 64, 0, pause_s=0.25), SPEC
    )
    begun_ns = clock.now_ns
    output, copied = runner(given)
    assert (clock.now_ns - begun_ns, held_bytes, copied) == (250_000_000, 0, 0)
    assert (output == given).all()
    assert output is not given
    assert not np.shares_memory(output, given)
    assert SPEC.is_laid_out(output)
