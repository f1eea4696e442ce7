"""The stage loop over in-process hops: what flows, how much at once, and how it ends."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from pplib.errors import TransportError, WorkerError
from pplib.pipeline.stage.length import Length
from pplib.pipeline.stage.loop import StageLoop
from pplib.pipeline.wire.connection import Deadline
from pplib.pipeline.wire.plan import TensorSpec
from tests.helpers.in_process_hops import in_process_ring, one_of_two

SPEC = TensorSpec((2, 3), "float32")


def _slots(slots, in_flight, stages, i):
    slots = slots or [in_flight] * stages
    return slots[i], slots[(i + 1) % stages]


def pipeline(runners, in_flight, count=0, slowdown=1.0, timeout_s=20.0, length=None, slots=None, told=False):
    """Run one pipeline of `runners` in threads of this process; its loops, and what each raised."""
    ring, stages = in_process_ring(len(runners)), len(runners)
    inputs = [np.full(SPEC.shape, float(i), np.float32) for i in range(3)]
    loops = [
        StageLoop(
            runner,
            stage_index=i,
            num_stages=stages,
            tensor_in=SPEC,
            tensor_out=SPEC,
            result=SPEC,
            in_flight=in_flight,
            slots=_slots(slots, in_flight, stages, i),
            inputs=inputs if i == 0 else (),
            slowdown=slowdown if i == 0 else 1.0,
        )
        for i, runner in enumerate(runners)
    ]
    errors = [None] * stages

    def run(i):
        try:
            loops[i].run(ring[i], 1, length or Length(count, count), Deadline(timeout_s, "trial"))
        except TransportError as exc:
            errors[i] = exc
        except (RuntimeError, WorkerError) as exc:
            errors[i] = exc
            ring[i].abort()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(stages)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s + 10)
        assert not thread.is_alive()
    if told:
        raise next(error for error in errors[::-1] if error is not None)
    return loops, errors


class Busy:
    """A codec that leaves activations as they are, in 10 ms each way."""

    carried = SPEC

    def encode(self, tensor):
        time.sleep(0.01)  # stands for work
        return tensor

    decode = encode


def test_encoding_and_decoding_take_longer_on_a_slow_device_as_computing_does():
    ring, inputs = in_process_ring(2), [np.ones(SPEC.shape, np.float32)]
    loops = [
        StageLoop(double, stage_index=i, num_stages=2, tensor_in=SPEC, tensor_out=SPEC, result=SPEC, in_flight=1,
                  slots=(1, 1), inputs=inputs, slowdown=3.0, decoder=Busy() if i else None,
                  encoder=None if i else Busy())
        for i in range(2)
    ]  # fmt: skip
    second = threading.Thread(target=loops[1].run, args=(ring[1], 1, Length(2, 2), Deadline(20, "trial")))
    second.start()
    loops[0].run(ring[0], 1, Length(2, 2), Deadline(20, "trial"))
    second.join(20)
    assert [float(one.mean()) for one in loops[1].outputs] == [4, 4]
    taken = [*loops[0].trace.encode_ns, *loops[1].trace.decode_ns]
    assert len(taken) == 4 and min(taken) >= 30e6
    assert loops[0].trace.decode_ns == loops[1].trace.encode_ns == []
    assert loops[0].payload_bytes(100 + SPEC.num_bytes) == 100 + SPEC.num_bytes


def double(tensor):
    return tensor * 2, 0


def busy(seconds):
    def runner(tensor):
        time.sleep(seconds)  # stands for work: the duration is what the test is about
        return tensor + 1, 0

    return runner


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("in_flight", [1, 2, 5])
def test_outputs_are_those_of_the_composed_stages_in_order(stages, in_flight):
    loops, errors = pipeline([double] * stages, in_flight, count=7)
    assert errors == [None] * stages
    assert [float(out[0, 0]) for out in loops[-1].outputs] == [2**stages * (i % 3) for i in range(7)]
    for loop in loops:
        assert len(loop.trace.received_ns) == len(loop.trace.send_start_ns) == 7


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_never_more_microbatches_in_the_pipeline_than_asked(in_flight):
    loops, _ = pipeline([busy(0.002), busy(0.006)], in_flight, count=12)
    admitted, returned = loops[0].trace.received_ns, loops[0].trace.returned_ns
    for n, moment in enumerate(admitted):
        back = sum(1 for one in returned if one <= moment)
        assert n + 1 - back <= in_flight
    if in_flight > 1:
        assert any(admitted[n + 1] < returned[n] for n in range(11)), "stages must overlap"


@pytest.mark.parametrize("prefetch", [0, 1, 2])
def test_no_more_microbatches_wait_for_a_stage_than_its_prefetch_says(prefetch):
    """In-process hops bring memory of their own, as rpc does: room is what was granted, whatever holds the tensor."""
    loops, errors = pipeline([double, busy(0.01)], 6, count=14, slots=[6, prefetch + 1])
    assert errors == [None, None]
    sent, freed, slots = loops[0].trace.send_start_ns, loops[1].trace.send_start_ns, prefetch + 1
    assert all(sent[n] >= freed[n - slots] for n in range(slots, 14)), "sent only into room that was there"
    assert any(sent[n] < freed[n - slots + 1] for n in range(slots, 14)) or prefetch == 0, "all the room is used"


@pytest.mark.alone
@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_a_trial_with_a_limit_ends_about_then_and_all_stages_agree_on_its_length(in_flight):
    """Each microbatch holds the slowest stage for 20 ms; 0.4 s are enough for some 20 of the 1000."""
    begun = time.monotonic()
    loops, errors = pipeline([double, busy(0.02), double], in_flight, length=Length(1000, 3, limit_s=0.4))
    took_s = time.monotonic() - begun
    assert errors == [None] * 3
    (count,) = {len(loop.trace.compute_end_ns) for loop in loops}
    assert len(loops[0].trace.returned_ns) == len(loops[-1].outputs) == count
    assert 5 <= count <= 21
    trace = loops[0].trace
    assert (trace.returned_ns[-1] - trace.received_ns[0]) * 1e-9 < 0.6
    assert took_s < 5


def test_a_trial_with_a_limit_has_its_least_length_all_the_same():
    loops, _ = pipeline([double, busy(0.05)], 2, length=Length(1000, 6, limit_s=0.01))
    assert len(loops[-1].outputs) == 6


def test_an_emulated_slow_device_computes_longer_and_the_trace_shows_it():
    loops, _ = pipeline([busy(0.01), double], 1, count=4, slowdown=3.0)
    trace = loops[0].trace
    assert all(e - s >= 29e6 for s, e in zip(trace.compute_start_ns, trace.compute_end_ns, strict=True))


def test_a_failing_stage_stops_the_whole_pipeline_with_its_own_cause():
    def fails(tensor):
        if float(tensor[0, 0]) == 2:
            raise RuntimeError("no such operator in this stage")
        return tensor, 0

    _, errors = pipeline([lambda t: (t, 0), fails], 2, count=6)
    assert "no such operator in this stage" in str(errors[1])
    assert isinstance(errors[0], TransportError)


def test_a_stage_that_gets_nothing_ends_at_the_deadline():
    ring = in_process_ring(2)
    loop = one_of_two(double, 1, SPEC)
    with pytest.raises(TransportError, match="trial: not done within 0 s"):
        loop.run(ring[1], 1, Length(3, 3), Deadline(0.4, "trial"))


def test_stop_ends_a_running_stage_from_another_thread():
    ring = in_process_ring(2)
    loop = one_of_two(double, 1, SPEC)
    timer = threading.Timer(0.2, loop.stop, (TransportError("given up"),))
    timer.start()
    with pytest.raises(TransportError, match="given up"):
        loop.run(ring[1], 1, Length(3, 3), Deadline(30, "trial"))
    timer.join()
