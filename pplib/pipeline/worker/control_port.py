"""A worker's control port: which of those that know the token are served, and how many may wait."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable

from pplib import limits
from pplib.errors import TransportError
from pplib.pipeline.process.threads import end_unless
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Connection, Deadline, Endpoint, listen
from pplib.pipeline.wire.frames import receive_message, send_message
from pplib.pipeline.wire.handshake import CONTROL, WATCH, admit
from pplib.pipeline.wire.unauthenticated import Strangers
from pplib.pipeline.worker.watched import be_watched

MOST_WAITING = 8  # coordinators that wait for the session, or are being told that it is taken
MOST_WATCHERS = 8
REFUSAL_BYTES = 65536


class ControlPort:
    """Admits coordinators, one at a time, and watchers, next to them.

    Args:
        serve: one coordinator's whole session; the next one is admitted after `end_session`.
        heard: called whenever a watcher says a word.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        token: bytes,
        serve: Callable[[Connection], None],
        heard: Callable[[], None],
    ) -> None:
        self._name, self._token, self._serve, self._heard = name, token, serve, heard
        self._socket = listen(endpoint, f"{name}: control port")
        self._strangers = Strangers()
        self._session = threading.Lock()
        self._over = threading.Event()  # of the present session; a new one for each
        self._waiting = threading.Semaphore(MOST_WAITING)
        self._watchers: deque[Connection] = deque()
        self._watchers_lock = threading.Lock()
        self._closing = threading.Event()

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        bound = self._socket.getsockname()
        return bound if isinstance(bound, str) else (bound[0], bound[1])

    def start(self) -> None:
        """Admit from now on."""
        arguments = (self._socket, self._closing, self._converse, "coordinator")
        threading.Thread(target=self._strangers.accept_from, args=arguments, name="control", daemon=True).start()

    def end_session(self) -> None:
        """Let the next coordinator in."""
        self._over.set()
        self._session.release()

    def close(self) -> None:
        """Stop listening."""
        self._closing.set()
        self._over.set()
        self._socket.close()

    def _converse(self, sock: socket.socket, peer: str, known: Callable[[], None]) -> None:
        connection = Connection(sock, peer)
        with contextlib.closing(connection):
            try:
                purpose = admit(connection, self._token, (CONTROL, WATCH), self._name).purpose
            except TransportError:
                return  # a stranger learns nothing
            if purpose == WATCH:
                known()
                self._be_watched(connection)
            elif not self._waiting.acquire(blocking=False):
                _refuse(connection)  # in its place among the strangers, which are counted too
            elif self._next_in_line(connection, known):
                self._over = over = threading.Event()
                self._serve(connection)
                if not self._closing.is_set():  # else nobody is there to end the session, nor to be let in
                    end_unless(over, limits.LEAVE_SESSION_S, "leaving a coordinator that is gone")

    def _next_in_line(self, connection: Connection, known: Callable[[], None]) -> bool:
        """Wait for the session; whether it is this coordinator's."""
        try:
            known()
            mine = self._session.acquire(timeout=limits.SESSION_WAIT_S)
            if not mine:
                _refuse(connection)
            return mine
        finally:
            self._waiting.release()

    def _be_watched(self, connection: Connection) -> None:
        with self._watchers_lock:
            self._watchers.append(connection)
            if len(self._watchers) > MOST_WATCHERS:
                self._watchers.popleft().close()  # a watcher that comes back is never kept out by those it left
        try:
            be_watched(connection, self._heard)
        finally:
            with self._watchers_lock, contextlib.suppress(ValueError):  # one that had to make room is not there
                self._watchers.remove(connection)


def _refuse(connection: Connection) -> None:
    answer = m.Failed(kind=m.BUSY, message="another coordinator is using this worker")
    with contextlib.suppress(TransportError):
        # Closing with its request unread would make the kernel throw the answer away.
        receive_message(connection, Deadline(limits.REFUSAL_S, "first request"), REFUSAL_BYTES)
        send_message(connection, m.encode(answer), Deadline(limits.REFUSAL_S, "refusal"))
