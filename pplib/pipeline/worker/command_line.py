"""The command line of a worker process: settings in, one ready line out, gone when its parent is gone."""

from __future__ import annotations

import os
import sys
import threading
import traceback

import msgspec

from pplib.errors import ParetoPipeError, ProtocolError
from pplib.pipeline.stage.builder import load_torch
from pplib.pipeline.wire.connection import name_of
from pplib.pipeline.wire.messages import UNREADABLE
from pplib.pipeline.worker.settings import WorkerSettings
from pplib.pipeline.worker.worker import Worker

FORGOTTEN = 75  # the exit status of a worker that nobody has talked to for too long


class Ready(msgspec.Struct, frozen=True):
    """The line a worker prints once it listens."""

    name: str
    pid: int
    control: str
    data_port: int


def read_ready(said: bytes | str, name: str) -> Ready:
    """The ready line of worker `name`.

    Raises:
        ProtocolError: it said something else.
    """
    try:
        return msgspec.json.decode(said, type=Ready)
    except UNREADABLE as exc:
        raise ProtocolError(f"{name}: expected the ready line of a worker, got {said[:80]!r}: {exc}") from exc


def main(backends: tuple[str, ...]) -> int:
    """Run a worker until a coordinator stops it or its parent dies.

    Its settings are the first line of standard input; its arguments are for whoever reads a process list. The end of
    standard input means that the parent is gone, and ends the worker, unless it was started detached.
    """
    try:
        settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerSettings)
    except UNREADABLE as exc:
        sys.stderr.write(f"expected a worker's settings as JSON on the first line of standard input: {exc}\n")
        return 2
    if len(settings.token) < 16:
        sys.stderr.write(f"expected the run's token, at least 16 bytes, got {len(settings.token)}\n")
        return 2
    if settings.cores:
        os.sched_setaffinity(0, settings.cores)
    try:
        if settings.loads_torch:
            load_torch()
        worker = Worker(settings, backends)
    except (ParetoPipeError, RuntimeError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    if settings.forgotten_after_s is None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    else:
        arguments = (settings.forgotten_after_s,)
        threading.Thread(target=worker.end_when_forgotten, args=arguments, daemon=True).start()
    ready = Ready(settings.name, os.getpid(), name_of(worker.control), worker.data_port)
    sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
    sys.stdout.flush()
    status = 1
    try:
        worker.serve()
        status = FORGOTTEN if worker.forgotten else 0
    except Exception:  # noqa: BLE001 (it is told, and then the end: half a worker would only answer pings)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # an rpc group that lost a member can hang a normal exit


def _end_with_parent() -> None:
    while sys.stdin.buffer.readline():
        pass
    os._exit(0)
