"""What a peer has begun to send must go on coming: limits that one byte now and then does not extend."""

from __future__ import annotations

from pplib import limits
from pplib.errors import ProtocolError
from pplib.pipeline.wire.connection import Connection, Deadline

BLOCK_BYTES = 1 << 18


def check_wait(timeout_s: float) -> None:
    """Refuse to wait for longer than limits.NEIGHBOUR_S.

    Raises:
        ProtocolError: what was asked.
    """
    if not 0 <= timeout_s <= limits.NEIGHBOUR_S:
        raise ProtocolError(f"asked to wait for {timeout_s} s, expected at most {limits.NEIGHBOUR_S:.0f} s")


def fill_steadily(connection: Connection, view: memoryview, deadline: Deadline) -> None:
    """Fill `view` before the deadline, each block of it in limits.BLOCK_S.

    Raises:
        TransportError: it came too slowly, or the peer went away.
    """
    for start in range(0, len(view), BLOCK_BYTES):
        limit = Deadline(min(limits.BLOCK_S, deadline.left_s), deadline.what)
        connection.receive_into(view[start : start + BLOCK_BYTES], limit)
