"""Which workers may be used together again after one of them was lost: a session's side of rpc groups."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from pplib.errors import WorkerError
from pplib.links import UNSHAPED
from pplib.pipeline.coordinator.client import WorkerFailed
from pplib.pipeline.wire.messages import Stop
from pplib.testbed.session import Session
from pplib.testbed.session_file import Address, SessionFile

ADDRESSES = [Address(name, f"/{name}", "/nowhere") for name in ("a", "b")]


class Worker:
    """Has joined so many groups; `busy` with somebody else for so many calls; starts again when it is stopped."""

    def __init__(self, groups, busy=0, comes_back=True):
        self.groups, self.busy, self.comes_back, self.starts = groups, busy, comes_back, 0

    def reach(self, patience_s):
        if self.busy and patience_s == 0:
            self.busy -= 1
            raise WorkerError("another coordinator is using this worker")
        return SimpleNamespace(
            description=SimpleNamespace(rpc_groups=self.groups), request=self.request, close=lambda: None
        )

    def request(self, message, timeout_s):
        assert isinstance(message, Stop)
        self.starts += 1
        self.groups = 0 if self.comes_back else self.groups


def reach_all(monkeypatch, *workers):
    by_name = dict(zip(("a", "b"), workers, strict=True))
    monkeypatch.setattr(
        Session, "_reach", lambda self, address, stack, patience_s=None: by_name[address.name].reach(patience_s)
    )
    told = SessionFile("", "00", ["rpc"], ADDRESSES, 1.0, "none", "none", UNSHAPED, True)
    with contextlib.ExitStack() as stack:
        clients = Session(told, Path("/nowhere"), None, False)._reach_all(ADDRESSES, stack)
    return [client.description.rpc_groups for client in clients]


def test_members_of_the_same_groups_stay_as_they_are(monkeypatch):
    workers = Worker(3), Worker(3)
    assert reach_all(monkeypatch, *workers) == [3, 3]
    assert [one.starts for one in workers] == [0, 0]


def test_with_one_that_was_started_again_the_others_are_too(monkeypatch):
    workers = Worker(3), Worker(0)
    assert reach_all(monkeypatch, *workers) == [0, 0]
    assert [one.starts for one in workers] == [1, 0]


def test_one_that_was_only_busy_is_started_again_with_the_others_that_were_ended_for_it(monkeypatch):
    workers = Worker(3), Worker(3, busy=1)
    assert reach_all(monkeypatch, *workers) == [0, 0]
    assert [one.starts for one in workers] == [1, 1]


def test_workers_that_never_agree_are_an_error(monkeypatch):
    with pytest.raises(WorkerError, match="a, b: started again and again"):
        reach_all(monkeypatch, Worker(3, comes_back=False), Worker(0))


@pytest.mark.parametrize(("failures", "asked"), [([True], 1), ([False, False, True], 3)])
def test_a_worker_that_answers_with_a_failure_that_lasts_is_not_asked_again(monkeypatch, tmp_path, failures, asked):
    left = list(failures)

    def connect(*arguments, **options):
        raise WorkerFailed("pi-1: Found no NVIDIA driver", lasting=left.pop(0))

    monkeypatch.setattr("pplib.testbed.session.WorkerClient", connect)
    monkeypatch.setattr("pplib.limits.REACH_RETRY_S", 0.0)
    told = SessionFile("", "00", ["rpc"], ADDRESSES, 60.0, "none", "none", UNSHAPED, True)
    session = Session(told, Path("/nowhere"), None, False)
    address = Address("pi-1", "/nowhere", str(tmp_path / "log"))
    with pytest.raises(WorkerFailed, match="NVIDIA"), contextlib.ExitStack() as stack:
        session._reach(address, stack)
    assert len(failures) - len(left) == asked


@pytest.mark.parametrize(("limit_s", "told"), [(60.0, "NVIDIA"), (0.0, "another coordinator")])
def test_a_worker_that_is_still_leaving_the_run_before_is_asked_until_it_must_have_ended(
    monkeypatch, tmp_path, limit_s, told
):
    left = [WorkerFailed("pi-1: another coordinator is using this worker", busy=True)] * 3
    left.append(WorkerFailed("pi-1: Found no NVIDIA driver"))

    def connect(*arguments, **options):
        raise left.pop(0)

    monkeypatch.setattr("pplib.testbed.session.WorkerClient", connect)
    for name, seconds in (("REACH_RETRY_S", 0.0), ("LEAVE_SESSION_S", limit_s), ("SESSION_WAIT_S", 0.0)):
        monkeypatch.setattr(f"pplib.limits.{name}", seconds)
    file = SessionFile("", "00", ["rpc"], ADDRESSES, 60.0, "none", "none", UNSHAPED, True)
    session = Session(file, tmp_path, None, False)
    with pytest.raises(WorkerFailed, match=told), contextlib.ExitStack() as stack:
        session._reach(Address("pi-1", "/nowhere", str(tmp_path / "log")), stack)
    assert len(left) == (0 if limit_s else 3)
