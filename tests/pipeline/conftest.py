"""A worker inside the test's own process."""

from __future__ import annotations

import threading

import pytest

from pplib import limits
from pplib.pipeline.worker.settings import WorkerSettings
from pplib.pipeline.worker.worker import Worker

TOKEN = b"t" * 32


@pytest.fixture
def short(monkeypatch):
    """Limits as in a worker, only shorter."""
    for name in ("FIRST_REQUEST_S", "REQUEST_REST_S", "BLOCK_S"):
        monkeypatch.setattr(limits, name, 1.0)


@pytest.fixture
def running(short):
    """A worker in this process."""
    one = Worker(WorkerSettings(name="w", token=TOKEN))
    thread = threading.Thread(target=one.serve)
    thread.start()
    yield one
    one.stop()
    thread.join(20)
    assert not thread.is_alive()
