"""What a peer has begun to send must go on coming: limits that one byte now and then does not extend."""

from __future__ import annotations

from pplib.runtime.connection import Connection, Deadline

BLOCK_BYTES = 1 << 18
BLOCK_S = 60.0  # for a block: slower than 35 kbit/s is given up


def fill_steadily(connection: Connection, view: memoryview, deadline: Deadline) -> None:
    """Fill `view` before the deadline, each block of it in BLOCK_S.

    Raises:
        TransportError: it came too slowly, or the peer went away.
    """
    for start in range(0, len(view), BLOCK_BYTES):
        limit = Deadline(min(BLOCK_S, deadline.left_s), deadline.what)
        connection.receive_into(view[start : start + BLOCK_BYTES], limit)
