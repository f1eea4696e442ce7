"""A worker's answers to whoever asks whether it lives, given at once, whatever else it does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import msgspec

from pplib.errors import TransportError
from pplib.runtime.connection import Connection, Deadline
from pplib.runtime.messages import Ping, Pong, decode_request, encode
from pplib.runtime.wire import receive_message, send_message

FOREVER_S = 10.0 * 365 * 86400
PING_BYTES = 1024


def be_watched(connection: Connection, heard: Callable[[], None]) -> None:
    """Answer pings until the watcher goes away, or says anything else; `heard` is called for each."""
    with contextlib.suppress(TransportError, msgspec.DecodeError, ValueError):  # it went away, or spoke nonsense
        while True:
            request = decode_request(receive_message(connection, Deadline(FOREVER_S, "next ping"), PING_BYTES))
            heard()
            if not isinstance(request, Ping):
                return
            send_pong(connection)


def send_pong(connection: Connection) -> None:
    """Tell our monotonic clock."""
    send_message(connection, encode(Pong(monotonic_ns=time.monotonic_ns())), Deadline(5, "pong"))
