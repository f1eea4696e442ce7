"""Connections whose peers have proved nothing yet: how many at once, so that a crowd of them costs nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from pplib.runtime.threads import Companion

MOST = 32
PATIENCE_S = 1.0  # for the thread of one that was shut to end
ACCEPT_RETRY_S = 0.1

Converse = Callable[[socket.socket, str, Callable[[], None]], None]


class Strangers:
    """Gives each new connection a thread, `most` at once; for one more, the oldest that has proved nothing is shut.

    A peer that knows the token is through after one round trip; the oldest is one that is slow or silent.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._inside: dict[socket.socket, None] = {}  # oldest first
        self._changed = threading.Condition()

    def accept_from(self, server: socket.socket, closing: threading.Event, converse: Converse, who: str) -> None:
        """Admit whoever connects to `server`, as `who` at its address, until `closing` is set and it is closed."""
        while not closing.is_set():
            try:
                sock, address = server.accept()
            except OSError:  # closed; or a peer that has gone already, or no file descriptor left for now
                closing.wait(ACCEPT_RETRY_S)
                continue
            self.admit(sock, converse, f"{who} at {address[0]}" if address else who)

    def admit(self, sock: socket.socket, converse: Converse, peer: str) -> None:
        """Run `converse(sock, peer, known)` in a thread; it calls `known` when the peer has proved itself."""
        with self._changed:
            if len(self._inside) >= self._most:
                with contextlib.suppress(OSError):  # it has just left by itself
                    next(iter(self._inside)).shutdown(socket.SHUT_RDWR)
            if not self._changed.wait_for(lambda: len(self._inside) < self._most, PATIENCE_S):
                with contextlib.suppress(OSError):
                    sock.close()
                return
            self._inside[sock] = None

        def known() -> None:
            with self._changed:
                if sock in self._inside:
                    del self._inside[sock]
                    self._changed.notify_all()

        def run() -> None:
            try:
                converse(sock, peer, known)
            finally:
                known()

        try:
            Companion(run, peer).start()
        except MemoryError:  # its thread may yet come up, and then finds the connection closed
            known()
            with contextlib.suppress(OSError):
                sock.close()
