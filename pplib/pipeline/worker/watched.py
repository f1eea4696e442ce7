"""A worker's answers to whoever asks whether it lives, given at once, whatever else it does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from pplib import limits
from pplib.errors import TransportError
from pplib.pipeline.wire.connection import Connection, Deadline
from pplib.pipeline.wire.frames import receive_message, send_message
from pplib.pipeline.wire.messages import Ping, Pong, decode_request, encode

PING_BYTES = 1024


def be_watched(connection: Connection, heard: Callable[[], None]) -> None:
    """Answer pings until the watcher goes away, or says anything else; `heard` is called for each."""
    with contextlib.suppress(TransportError):  # it went away, or spoke nonsense
        while True:
            request = decode_request(receive_message(connection, Deadline(limits.FOREVER_S, "next ping"), PING_BYTES))
            heard()
            if not isinstance(request, Ping):
                return
            send_pong(connection)


def send_pong(connection: Connection) -> None:
    """Tell our monotonic clock."""
    send_message(connection, encode(Pong(monotonic_ns=time.monotonic_ns())), Deadline(5, "pong"))
