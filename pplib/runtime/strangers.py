"""Connections whose peers have proved nothing yet: how many at once, so that a crowd of them costs nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

MOST = 32


class Strangers:
    """Gives each new connection a thread; one more than `MOST` that have proved nothing is closed at once."""

    def __init__(self, most: int = MOST) -> None:
        self._places = threading.Semaphore(most)

    def admit(
        self, sock: socket.socket, converse: Callable[[socket.socket, str, Callable[[], None]], None], peer: str
    ) -> None:
        """Run `converse(sock, peer, known)` in a thread; it calls `known` when the peer has proved itself."""
        if not self._places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                sock.close()
            return
        left = threading.Event()

        def known() -> None:
            if not left.is_set():
                left.set()
                self._places.release()

        def run() -> None:
            try:
                converse(sock, peer, known)
            finally:
                known()

        threading.Thread(target=run, name=peer, daemon=True).start()
