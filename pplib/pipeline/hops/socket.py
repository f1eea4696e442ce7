"""The socket backend: our own framing over TCP, received into memory allocated once.

Where the connection is sealed each frame, and each grant, ends with its tag.
"""

from __future__ import annotations

import time

from pplib.errors import ProtocolError, TransportError
from pplib.pipeline.hops.contract import Arrival, Earlier, Started
from pplib.pipeline.wire.connection import Connection, Deadline
from pplib.pipeline.wire.frames import TENSOR_HEADER_BYTES, check_tensor_header, tensor_header
from pplib.pipeline.wire.seal import TAG_BYTES, check_tag
from pplib.runtimes import Array

PIECE_BYTES = 1 << 18  # is proved while it is still in the cache
_ROOM = b"\1"


class _End(Started):
    """One end of a connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection


class SocketSender(_End):
    """Sends tensors to the next stage: header and the tensor's own memory, gathered by the kernel."""

    def wait_for_room(self, deadline: Deadline) -> None:
        """See Sender; a grant is one byte on the way back of the connection."""
        connection = self._connection
        if (came := connection.receive(1, deadline)) != _ROOM:
            raise ProtocolError(f"{connection.peer}: sent {came!r} where only {_ROOM!r}, room for one more, is said")
        if connection.seals is not None:
            expected = connection.seals.receiving.of([_ROOM])
            check_tag(expected, connection.receive(TAG_BYTES, deadline), f"{connection.peer}: a grant")

    def send(self, seq: int, array: Array, last: bool, deadline: Deadline) -> None:
        """See Sender; returns when the kernel has all of it."""
        spec, trial = self._expected()
        spec = spec.as_long_as(array)
        header, content = tensor_header(spec, trial, seq, last), spec.bytes_of(array)
        if self._connection.seals is None:
            self._connection.send([header, content], deadline)
            return
        tag = self._connection.seals.sending.begin()
        if len(content) > PIECE_BYTES:  # on its way while it is proved
            self._connection.send([header, content], deadline)
            tag.update(header)
            tag.update(content)
            self._connection.send([tag.finalize()], deadline)
        else:
            tag.update(header)
            tag.update(content)
            self._connection.send([header, content, tag.finalize()], deadline)

    def flush(self, deadline: Deadline) -> None:
        """See Sender; the kernel delivers what it has taken."""

    @property
    def payload_bytes(self) -> int:
        """See Sender."""
        spec, _ = self._expected()
        return TENSOR_HEADER_BYTES + spec.num_bytes + (TAG_BYTES if self._connection.seals else 0)


class SocketReceiver(_End):
    """Receives tensors from the previous stage straight into the slot it is given."""

    @property
    def peer(self) -> str:
        """See Receiver."""
        return self._connection.peer

    def grant(self, deadline: Deadline) -> None:
        """See Receiver."""
        seals = self._connection.seals
        self._connection.send([_ROOM] if seals is None else [_ROOM, seals.sending.of([_ROOM])], deadline)

    def receive(self, seq: int, slot: Array, deadline: Deadline) -> Arrival:
        """See Receiver."""
        spec, trial = self._expected()
        connection, patience = self._connection, Earlier(deadline)
        try:
            header = connection.receive(TENSOR_HEADER_BYTES, patience)
            last, count = check_tensor_header(header, spec, trial, seq, connection.peer)
            content = spec.bytes_of(slot)[:count]
            self._receive_content(header, content, f"microbatch {seq} of trial {trial}", patience)
        except ProtocolError:
            raise
        except TransportError as exc:
            raise type(exc)(
                f"{exc}; expected microbatch {seq} of trial {trial} as {spec} in {spec.num_bytes} bytes"
            ) from exc
        return Arrival(slot if spec.exact else slot[:count], time.monotonic_ns(), last)

    def _receive_content(self, header: bytes, content: memoryview, what: str, deadline: Deadline) -> None:
        connection = self._connection
        if connection.seals is None:
            connection.receive_into(content, deadline)
            return
        tag = connection.seals.receiving.begin()
        tag.update(header)
        for start in range(0, len(content), PIECE_BYTES):
            piece = content[start : start + PIECE_BYTES]
            connection.receive_into(piece, deadline)
            tag.update(piece)
        check_tag(tag.finalize(), connection.receive(TAG_BYTES, deadline), f"{connection.peer}: {what}")


class SocketHops:
    """One connection from the previous stage and one to the next, kept for a whole sweep."""

    def __init__(self, incoming: Connection, outgoing: Connection) -> None:
        self._connections = (incoming, outgoing)
        self.receiver = SocketReceiver(incoming)
        self.sender = SocketSender(outgoing)

    def abort(self) -> None:
        """See Hops."""
        for connection in self._connections:
            connection.close()

    def close(self, graceful: bool) -> None:
        """See Hops."""
        self.abort()
