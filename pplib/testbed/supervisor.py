"""Look after running workers: one that died, or does not answer, is started again at the same place."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

import msgspec

from pplib.devices import Device
from pplib.errors import ParetoPipeError, ProtocolError, TransportError
from pplib.runtime import messages as m
from pplib.runtime.connection import Connection, Deadline, connect, endpoint_of
from pplib.runtime.handshake import WATCH, greet
from pplib.runtime.serve import Ready
from pplib.runtime.wire import receive_message, send_message
from pplib.testbed.local import write_ending

PING_S = 1.0
SILENT_S = 15.0  # a worker answers at once, whatever it does; one that does not is stopped, or its device is
RETRY_S = 3.0
MAX_STARTS = 20


class SupervisedWorker(Protocol):
    """A worker that can be started again; `control` is a path that stays the same."""

    device: Device
    control: str
    log: Path

    def start(self, timeout_s: float) -> Ready:
        """Start it, and wait until it listens."""

    def kill(self) -> None:
        """End it at once, if it still runs, and note in its log how it ended."""

    def stop(self) -> None:
        """End it for good."""


class Supervisor:
    """Watches one worker, which is up, in a thread of its own until `close`."""

    def __init__(self, worker: SupervisedWorker, token: bytes, ready_timeout_s: float) -> None:
        self._worker, self._token, self._ready_timeout_s = worker, token, ready_timeout_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {worker.device.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching, then stop the worker."""
        self._closing.set()
        self._thread.join(self._ready_timeout_s + SILENT_S)
        self._worker.stop()

    def _run(self) -> None:
        for _ in range(MAX_STARTS):
            self._watch()
            if self._closing.is_set():
                return
            self._worker.kill()
            while not self._closing.is_set():
                try:
                    self._worker.start(self._ready_timeout_s)
                    break
                except ParetoPipeError as exc:  # a device that is booting, say: for whoever reads the log
                    write_ending(self._worker.log, f"it cannot be started again: {exc}")
                    self._closing.wait(RETRY_S)
        write_ending(self._worker.log, f"it was started {MAX_STARTS} times, and is left alone now")

    def _watch(self) -> None:
        """Return when the worker is lost, or when nobody needs it any more."""
        connection: Connection | None = None
        try:
            connection = connect(endpoint_of(self._worker.control), self._worker.device.name, SILENT_S)
            greet(connection, self._token, WATCH)
            while not self._closing.wait(PING_S):
                deadline = Deadline(SILENT_S, "ping")
                send_message(connection, m.encode(m.Ping()), deadline)
                if not isinstance(m.decode_reply(receive_message(connection, deadline, 1024)), m.Pong):
                    raise ProtocolError(f"{self._worker.device.name}: no answer to a ping")
        except (TransportError, msgspec.DecodeError):
            return  # lost, whatever the reason
        finally:
            if connection is not None:
                connection.close()
