"""A stage that gets no memory: real allocations that fail, and what is said of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from pplib.errors import WeightsError, WorkerError
from pplib.pipeline.coordinator import client as client_module
from pplib.pipeline.coordinator.client import WorkerClient, WorkerFailed, WorkerLost
from pplib.pipeline.process.memory import NONE_LEFT, memory_for
from pplib.pipeline.stage.length import Length
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Deadline
from pplib.pipeline.wire.plan import TensorSpec
from tests.helpers.in_process_hops import in_process_ring, one_of_two

SPEC = TensorSpec((2, 3), "float32")
HUGE = 1 << 60


@pytest.mark.parametrize("allocate", [torch.empty, bytearray])
def test_a_stage_that_runs_out_of_memory_says_so_and_which_it_is(allocate):
    loop = one_of_two(lambda tensor: (allocate(HUGE), 0), 0, SPEC, inputs=[np.zeros(SPEC.shape, np.float32)])
    with pytest.raises(WorkerError, match=r"^stage 0 while it ran: out of memory \(.+\): choose another cut"):
        loop.run(in_process_ring(2)[0], 1, Length(3, 3), Deadline(10, "trial"))


def test_what_is_no_lack_of_memory_passes_as_it_is():
    missing = ImportError("No module named 'x'")
    for error in (RuntimeError("no such operator"), WeightsError("damaged"), OSError(2, "no such file"), missing):
        with pytest.raises(type(error)) as caught, memory_for("stage 0"):
            raise error
        assert caught.value is error


def test_a_library_that_finds_no_room_when_it_is_loaded_is_lack_of_memory():
    said = "lib-dynload/_lsprof.so: failed to map segment from shared object"
    with pytest.raises(WorkerError, match=r"^stage 1: out of memory \(.*failed to map segment"), memory_for("stage 1"):
        raise ImportError(said)


def test_a_stage_whose_threads_do_not_come_up_fails_with_memory_as_the_cause(monkeypatch):
    monkeypatch.setattr("pplib.limits.THREAD_START_S", 0.1)
    monkeypatch.setattr("_thread.start_new_thread", lambda job, arguments: 0)  # it dies before its first line
    loop = one_of_two(lambda tensor: (tensor, 0), 1, SPEC)
    with pytest.raises(WorkerError, match=r"^stage 1 while it ran: out of memory \(thread receive_inputs did not come"):
        loop.run(in_process_ring(2)[1], 1, Length(3, 3), Deadline(10, "trial"))


LIMITED = """
import resource
from pplib.pipeline.process.memory import end_without_memory, memory_left

assert memory_left()
end_without_memory("nothing")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), -1))
assert not memory_left()
end_without_memory("a thread for somebody")
print("goes on")
"""


def test_a_process_without_memory_ends_and_says_why_so_that_a_new_one_takes_its_place():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (NONE_LEFT, ""), done.stderr
    assert done.stderr == "a thread for somebody: out of memory, and none is left: this worker ends\n"


STAYS = """
import _thread

from pplib import limits
from pplib.pipeline.hops import rpc as rpc_hops

limits.THREAD_START_S = 0.5
{fault}
rpc_hops._or_end({job}, 5.0, "leaving an rpc group")
print("goes on")
"""
NO_THREAD = "_thread.start_new_thread = lambda job, arguments: 0  # memory for it is there again, but it died before"


@pytest.mark.parametrize(("fault", "job"), [(NO_THREAD, "print"), ("", "lambda: bytearray(1 << 60)")])
def test_a_worker_that_cannot_leave_its_rpc_group_for_lack_of_memory_is_in_none_any_more(fault, job):
    words = [sys.executable, "-c", STAYS.format(fault=fault, job=job)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (NONE_LEFT, ""), done.stderr
    assert "leaving an rpc group: out of memory" in done.stderr


@pytest.mark.parametrize(("ends", "kind"), [(True, WorkerLost), (False, WorkerFailed)])
def test_a_worker_that_ends_with_its_answer_is_lost_and_the_answer_is_the_cause(monkeypatch, ends, kind):
    answer = m.encode(m.Failed(kind="WorkerError", message="stage 1: out of memory", ends=ends))
    monkeypatch.setattr(client_module, "receive_message", lambda connection, deadline: answer)
    client = WorkerClient.__new__(WorkerClient)
    client.name, client._connection = "pi-2", None
    with pytest.raises(WorkerError, match="pi-2: stage 1: out of memory") as caught:
        client._reply(None)
    assert type(caught.value) is kind
