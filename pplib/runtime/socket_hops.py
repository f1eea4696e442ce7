"""The socket backend: our own framing over TCP, received into memory allocated once."""

from __future__ import annotations

import time

import torch

from pplib.errors import ProtocolError, TransportError
from pplib.runtime.connection import Connection, Deadline
from pplib.runtime.hops import Arrival, Earlier
from pplib.runtime.plan import TensorSpec
from pplib.runtime.wire import TENSOR_HEADER_BYTES, check_tensor_header, tensor_header


class _End:
    """One end of a connection: knows what every tensor of the running trial looks like."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._started: tuple[TensorSpec, int] | None = None

    def start(self, spec: TensorSpec, trial: int) -> None:
        """See Sender and Receiver."""
        self._started = spec, trial

    def _expected(self) -> tuple[TensorSpec, int]:
        if self._started is None:
            raise RuntimeError("start() tells a hop what to expect before the first tensor")
        return self._started


class SocketSender(_End):
    """Sends tensors to the next stage: header and the tensor's own memory, gathered by the kernel."""

    def send(self, seq: int, tensor: torch.Tensor, last: bool, deadline: Deadline) -> None:
        """See Sender; returns when the kernel has all of it."""
        spec, trial = self._expected()
        self._connection.send([tensor_header(spec, trial, seq, last), spec.bytes_of(tensor)], deadline)

    def flush(self, deadline: Deadline) -> None:
        """See Sender; the kernel delivers what it has taken."""

    @property
    def payload_bytes(self) -> int:
        """See Sender."""
        spec, _ = self._expected()
        return TENSOR_HEADER_BYTES + spec.num_bytes


class SocketReceiver(_End):
    """Receives tensors from the previous stage straight into the slot it is given."""

    def receive(self, seq: int, slot: torch.Tensor, deadline: Deadline) -> Arrival:
        """See Receiver."""
        spec, trial = self._expected()
        patience = Earlier(deadline)
        try:
            header = self._connection.receive(TENSOR_HEADER_BYTES, patience)
            last = check_tensor_header(header, spec, trial, seq, self._connection.peer)
            self._connection.receive_into(spec.bytes_of(slot), patience)
        except ProtocolError:
            raise
        except TransportError as exc:
            raise TransportError(
                f"{exc}; expected microbatch {seq} of trial {trial} as {spec} in {spec.num_bytes} bytes"
            ) from exc
        return Arrival(slot, time.monotonic_ns(), last)


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
