"""A stage that gets no memory: real allocations that fail, and what is said of them."""

from __future__ import annotations

import pytest
import torch

from pplib.errors import WeightsError, WorkerError
from pplib.runtime.connection import Deadline
from pplib.runtime.hops import in_process_ring
from pplib.runtime.memory import memory_for
from pplib.runtime.plan import TensorSpec
from pplib.runtime.stage_loop import Length, StageLoop

SPEC = TensorSpec((2, 3), "float32")
HUGE = 1 << 60


def loop_of(runner, stage_index, inputs=()):
    return StageLoop(
        runner,
        stage_index=stage_index,
        num_stages=2,
        tensor_in=SPEC,
        tensor_out=SPEC,
        result=SPEC,
        in_flight=1,
        slots=1,
        inputs=inputs,
    )


@pytest.mark.parametrize("allocate", [torch.empty, bytearray])
def test_a_stage_that_runs_out_of_memory_says_so_and_which_it_is(allocate):
    loop = loop_of(lambda tensor: (allocate(HUGE), 0), stage_index=0, inputs=[torch.zeros(SPEC.shape)])
    with pytest.raises(WorkerError, match=r"^stage 0 while it ran: out of memory \(.+\): choose another cut"):
        loop.run(in_process_ring(2)[0], 1, Length(3, 3), Deadline(10, "trial"))


def test_what_is_no_lack_of_memory_passes_as_it_is():
    for error in (RuntimeError("no such operator"), WeightsError("damaged"), OSError(2, "no such file")):
        with pytest.raises(type(error)) as caught, memory_for("stage 0"):
            raise error
        assert caught.value is error


def test_a_stage_whose_threads_do_not_come_up_fails_with_memory_as_the_cause(monkeypatch):
    monkeypatch.setattr("pplib.runtime.threads.START_S", 0.1)
    monkeypatch.setattr("_thread.start_new_thread", lambda job, arguments: 0)  # it dies before its first line
    loop = loop_of(lambda tensor: (tensor, 0), stage_index=1)
    with pytest.raises(WorkerError, match=r"^stage 1 while it ran: out of memory \(thread receive_inputs did not come"):
        loop.run(in_process_ring(2)[1], 1, Length(3, 3), Deadline(10, "trial"))
