"""Look after running workers: one that died, or does not answer, is started again at the same place."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

from pplib import limits
from pplib.devices import Device
from pplib.errors import DeadlineError, ParetoPipeError, ProtocolError, TransportError
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Connection, Deadline, endpoint_of
from pplib.pipeline.wire.frames import receive_message, send_message
from pplib.pipeline.wire.handshake import WATCH, Claim, reach
from pplib.pipeline.worker.command_line import Ready
from pplib.testbed.workers.local import write_ending

MAX_STARTS = 20


class SupervisedWorker(Protocol):
    """A worker that can be started again; `control` is a path that stays the same."""

    device: Device
    control: str
    log: Path

    def start(self, timeout_s: float) -> Ready:
        """Start it, and wait until it listens."""

    def kill(self, silent: bool) -> None:
        """End it, if it still runs, and note in its log how it ended: one that is not `silent` is ending by itself."""

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
        self._thread.join(self._ready_timeout_s + limits.SILENT_S)
        self._worker.stop()

    def _run(self) -> None:
        for _ in range(MAX_STARTS):
            silent = self._watch()
            if self._closing.is_set():
                return
            self._worker.kill(silent)
            while not self._closing.is_set():
                try:
                    self._worker.start(self._ready_timeout_s)
                    break
                except ParetoPipeError as exc:  # a device that is booting, say: for whoever reads the log
                    write_ending(self._worker.log, f"it cannot be started again: {exc}")
                    self._closing.wait(limits.RESTART_RETRY_S)
        write_ending(self._worker.log, f"it was started {MAX_STARTS} times, and is left alone now")

    def _watch(self) -> bool:
        """Return when the worker is lost, or when nobody needs it any more: whether it did not answer in time."""
        connection: Connection | None = None
        name = self._worker.device.name
        try:
            claim = Claim(WATCH, "supervisor", name)
            connection = reach(endpoint_of(self._worker.control), name, limits.SILENT_S, self._token, claim)
            while not self._closing.wait(limits.PING_S):
                deadline = Deadline(limits.SILENT_S, "ping")
                send_message(connection, m.encode(m.Ping()), deadline)
                if not isinstance(m.decode_reply(receive_message(connection, deadline, 1024)), m.Pong):
                    raise ProtocolError(f"{name}: no answer to a ping")
        except (DeadlineError, ProtocolError):
            return True  # it is there, and no good
        except TransportError:
            return False
        finally:
            if connection is not None:
                connection.close()
        return False
