"""What a peer has begun to send must go on coming: limits that one byte now and then does not extend."""

from __future__ import annotations

from pplib.errors import TransportError
from pplib.runtime.connection import Connection, Deadline

BLOCK_BYTES = 1 << 18
BLOCK_S = 60.0  # for a block: slower than 35 kbit/s is given up


def fill(connection: Connection, view: memoryview, deadline: Deadline) -> None:
    """Fill `view` completely before the deadline, however small the pieces it comes in.

    Raises:
        TransportError: it came too slowly, or the peer went away; the message says how much had come.
    """
    filled = 0
    while filled < len(view):
        try:
            filled += connection.receive_some(view[filled:], deadline)
        except TransportError as exc:
            raise TransportError(f"{exc} after {filled} of {len(view)} bytes") from exc
        if filled < len(view) and deadline.left_s <= 0:
            raise TransportError(
                f"{connection.peer}: {deadline.what}: {filled} of {len(view)} bytes in {deadline.seconds:.0f} s"
            )


def fill_steadily(connection: Connection, view: memoryview, deadline: Deadline) -> None:
    """Fill `view` before the deadline, each block of it in BLOCK_S.

    Raises:
        TransportError: see `fill`.
    """
    for start in range(0, len(view), BLOCK_BYTES):
        limit = Deadline(min(BLOCK_S, deadline.left_s), deadline.what)
        fill(connection, view[start : start + BLOCK_BYTES], limit)
