"""Which of several workers' errors is told: that of the one at which it began."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from pplib.errors import ProtocolError, TransportError, WorkerError
from pplib.pipeline.coordinator.client import WorkerClient, WorkerLost
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.plan import TensorSpec
from pplib.pipeline.worker.settings import WorkerSettings
from pplib.pipeline.worker.worker import Worker

SPEC = TensorSpec((1, 2), "float32")


class Scripted:
    """A worker that fails at once with `error`; without one, when its connection is closed, for it never lets go."""

    def __init__(self, name, error=None, note=""):
        self.name, self._error, self._closed = name, error, threading.Event()
        if note:
            self._error.add_note(note)

    def expect(self, message, kind, timeout_s):
        if self._error is not None:
            raise self._error
        assert self._closed.wait(10)
        raise WorkerLost(f"{self.name}: closed the connection")

    def abort(self):
        pass

    def close(self):
        self._closed.set()


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr("pplib.limits.GIVE_UP_S", 0.1)


def ask(*workers):
    with Coordinator(workers) as coordinator:
        with pytest.raises(WorkerError) as caught:
            coordinator.ask([m.Describe()] * len(workers), m.Description, 10)
        return str(caught.value), coordinator.lost


def test_a_worker_that_does_not_let_go_is_not_taken_for_the_one_that_failed():
    assert ask(Scripted("a"), Scripted("b", WorkerError("b: out of memory"))) == ("b: out of memory", True)


def test_where_a_neighbour_only_starved_the_silent_worker_is_the_cause():
    starved = Scripted("b", WorkerError("b: a: not done in time"), "TransportError")
    assert ask(Scripted("a"), starved) == ("a: closed the connection", True)


def test_an_answer_of_another_kind_is_an_error_that_names_both(monkeypatch):
    client = WorkerClient.__new__(WorkerClient)
    client.name = "pi-2"
    monkeypatch.setattr(client, "request", lambda message, timeout_s: m.Done())
    with pytest.raises(ProtocolError, match="pi-2: answered Done to Describe, expected Description"):
        client.expect(m.Describe(), m.Description, 1)


def test_what_goes_wrong_while_leaving_does_not_take_the_place_of_the_cause():
    worker, told = Worker(WorkerSettings(name="w", token=b"t" * 32)), []
    try:
        worker._stage = SimpleNamespace(
            plan=SimpleNamespace(digest="d", num_stages=2, in_flight=1, tensors=(SPEC,) * 3, encodings=()),
            stage_index=0,
            runner=None,
        )
        worker._inputs = [SPEC.allocate()]

        class Stuck:
            sender = SimpleNamespace(payload_bytes=0, start=lambda spec, trial: None)
            receiver = SimpleNamespace(start=lambda spec, trial: told.append(1) or fail())

            def abort(self):
                pass

            def close(self, graceful):
                raise TransportError("rpc group: shutdown failed")

        def fail():
            raise WorkerError("stage 0: the cause")

        worker._ring.hops = Stuck()
        request = m.Run(trial=1, plan_digest="d", slots=(1, 1), most=1, least=1, limit_s=None, timeout_s=5)
        with pytest.raises(WorkerError, match="the cause") as caught:
            worker._carry_out(request)
        assert caught.value.__notes__ == ["then: rpc group: shutdown failed"]
    finally:
        worker._data.close()
        worker._control.close()


def test_a_pipeline_whose_workers_all_answered_is_not_lost():
    workers = (
        Scripted("a", WorkerError("a: cannot"), "WorkerError"),
        Scripted("b", WorkerError("b: a: gone"), "TransportError"),
    )
    assert ask(*workers) == ("a: cannot", False)
