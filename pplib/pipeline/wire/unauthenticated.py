"""Connections whose peers have proved nothing yet: how many at once, so that a crowd of them costs nothing."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable

from pplib import limits
from pplib.pipeline.process.memory import end_without_memory
from pplib.pipeline.process.threads import Companion

MOST = 32

Converse = Callable[[socket.socket, str, Callable[[], None]], None]


class Strangers:
    """Gives each new connection a thread, `most` at once; for one more, one of those that have proved nothing is shut.

    It is one of the source that has most of them, and drawn by lot: a crowd crowds out itself, and a peer that is
    far away, and shares its source with a crowd, gets through after a few attempts, however fast the crowd comes.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._inside: dict[socket.socket, str] = {}  # and where it comes from
        self._changed = threading.Condition()

    def accept_from(self, server: socket.socket, closing: threading.Event, converse: Converse, who: str) -> None:
        """Admit whoever connects to `server`, as `who` at its address, until `closing` is set and it is closed."""
        while not closing.is_set():
            try:
                sock, address = server.accept()
            except OSError:  # closed; or a peer that has gone already, or no file descriptor left for now
                closing.wait(limits.ACCEPT_RETRY_S)
                continue
            self.admit(sock, converse, f"{who} at {address[0]}" if address else who)

    def admit(self, sock: socket.socket, converse: Converse, peer: str) -> None:
        """Run `converse(sock, peer, known)` in a thread; it calls `known` when `peer`, named by its address, has
        proved itself.
        """
        with self._changed:
            if len(self._inside) >= self._most:
                with contextlib.suppress(OSError):  # it has just left by itself
                    self._one_of_the_crowd().shutdown(socket.SHUT_RDWR)
            if not self._changed.wait_for(lambda: len(self._inside) < self._most, limits.EVICTED_S):
                with contextlib.suppress(OSError):
                    sock.close()
                return
            self._inside[sock] = peer

        def known() -> None:
            with self._changed:
                if sock in self._inside:
                    del self._inside[sock]
                    self._changed.notify_all()

        def run() -> None:
            try:
                converse(sock, peer, known)
            except MemoryError:
                end_without_memory(peer)
                raise
            finally:
                known()

        try:
            Companion(run, peer).start()
        except MemoryError:  # its thread may yet come up, and then finds the connection closed
            known()
            with contextlib.suppress(OSError):
                sock.close()
            end_without_memory(peer)

    def _one_of_the_crowd(self) -> socket.socket:
        (source, _), *_ = Counter(self._inside.values()).most_common(1)
        return random.choice([sock for sock, peer in self._inside.items() if peer == source])
