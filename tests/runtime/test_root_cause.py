"""Which of several workers' errors is told: that of the one at which it began."""

from __future__ import annotations

import threading

import pytest

from pplib.errors import WorkerError
from pplib.runtime import messages as m
from pplib.runtime.client import WorkerLost
from pplib.runtime.coordinator import Coordinator


class Scripted:
    """A worker that fails at once with `error`; without one, when its connection is closed, for it never lets go."""

    def __init__(self, name, error=None, note=""):
        self.name, self._error, self._closed = name, error, threading.Event()
        if note:
            self._error.add_note(note)

    def request(self, message, timeout_s):
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
    monkeypatch.setattr("pplib.runtime.coordinator.GIVE_UP_S", 0.1)


def ask(*workers):
    with Coordinator(workers) as coordinator:
        with pytest.raises(WorkerError) as caught:
            coordinator.ask([m.Describe()] * len(workers), 10)
        return str(caught.value), coordinator.lost


def test_a_worker_that_does_not_let_go_is_not_taken_for_the_one_that_failed():
    assert ask(Scripted("a"), Scripted("b", WorkerError("b: out of memory"))) == ("b: out of memory", True)


def test_where_a_neighbour_only_starved_the_silent_worker_is_the_cause():
    starved = Scripted("b", WorkerError("b: a: not done in time"), "TransportError")
    assert ask(Scripted("a"), starved) == ("a: closed the connection", True)


def test_a_pipeline_whose_workers_all_answered_is_not_lost():
    workers = (
        Scripted("a", WorkerError("a: cannot"), "WorkerError"),
        Scripted("b", WorkerError("b: a: gone"), "TransportError"),
    )
    assert ask(*workers) == ("a: cannot", False)
