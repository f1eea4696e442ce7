"""A Unix socket here that leads to a port on a device, through SSH: nothing of it is open on the network."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pplib.errors import TransportError

PIECE_BYTES = 1 << 16


class Bridge:
    """Listens at `path`; each connection goes on through a channel of its own that `open_channel` opens.

    Args:
        path: of the Unix socket, in a folder that only this user may enter.
        open_channel: connects to the device's port; raises TransportError.
        before_close: called when the device's end is gone, before ours is closed: what it leaves (a
            log, say) can be there when the error is seen.
    """

    def __init__(self, path: Path, open_channel: Callable[[], Any], before_close: Callable[[], None]) -> None:
        self._open_channel, self._before_close = open_channel, before_close
        path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(8)
        threading.Thread(target=self._accept, name=f"bridge {path.name}", daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that are open end with their ends."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with contextlib.closing(near):
            try:
                far = self._open_channel()
            except TransportError:
                return  # who connected sees it closed, as with a port that nobody listens on
            ours_ended = threading.Event()
            with contextlib.closing(far):
                back = threading.Thread(target=self._carry_back, args=(far, near, ours_ended), daemon=True)
                back.start()
                with contextlib.suppress(OSError, EOFError):
                    while piece := near.recv(PIECE_BYTES):
                        far.sendall(piece)
                ours_ended.set()
            back.join(5)

    def _carry_back(self, far: Any, near: socket.socket, ours_ended: threading.Event) -> None:
        with contextlib.suppress(OSError, EOFError):
            while piece := far.recv(PIECE_BYTES):
                near.sendall(piece)
        if not ours_ended.is_set():  # the device's end went first
            self._before_close()
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)
