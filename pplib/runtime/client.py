"""The coordinator's end of one control connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec
import torch

from pplib.errors import HandshakeError, ProtocolError, TransportError, WorkerError
from pplib.model.weights import WeightsFile
from pplib.runtime import messages as m
from pplib.runtime.connection import Connection, Deadline, Endpoint, connect, name_of
from pplib.runtime.handshake import CONTROL, greet
from pplib.runtime.plan import TensorSpec
from pplib.runtime.wire import receive_message, send_message

WEIGHTS_S = 3600.0


class WorkerLost(WorkerError):
    """The control connection broke: the worker died or the network to it did."""


class WorkerClient:
    """Asks one worker, one request at a time.

    Args:
        name: the device's name, for errors.
        control: where it listens for coordinators.
        token: the run's secret.
        autopsy: called when the worker is lost; what it returns is added to the error (its log, say).
    """

    def __init__(self, name: str, control: Endpoint, token: bytes, autopsy: Callable[[], str] = lambda: "") -> None:
        self.name, self._autopsy = name, autopsy
        self._connection: Connection = connect(control, name, 10)
        self._sending = threading.Lock()
        try:
            greet(self._connection, token, CONTROL)
            described = self.request(m.Describe(), 60)
        except TransportError as exc:
            self._connection.close()
            if isinstance(exc, HandshakeError):
                raise
            raise WorkerError(
                f"{name}: the worker at {name_of(control)} ended the handshake ({exc}): it belongs to another run, "
                "or was started with another token"
            ) from exc
        except WorkerError:
            self._connection.close()
            raise
        if not isinstance(described, m.Description):
            raise ProtocolError(f"{name}: answered {type(described).__name__} to a question about itself")
        self.description = described

    def request(self, message: m.Request, timeout_s: float) -> m.Reply:
        """Ask, and wait for the answer.

        Raises:
            WorkerLost: the worker is gone, or silent for `timeout_s`.
            WorkerError: it reports a failure; the message starts with the device's name.
        """
        try:
            self._send(message)
            content = receive_message(self._connection, Deadline(timeout_s, type(message).__name__))
        except ProtocolError:
            raise
        except TransportError as exc:
            raise self._lost(exc) from exc
        try:
            reply: m.Reply = m.decode_reply(content)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ProtocolError(f"{self.name}: sent an answer that cannot be read: {exc}") from exc
        if isinstance(reply, m.Failed):
            kind = "" if reply.kind.endswith("Error") and "Runtime" not in reply.kind else f"{reply.kind}: "
            error = WorkerError(f"{self.name}: {kind}{reply.message or reply.kind}")
            error.add_note(reply.kind)
            raise error
        return reply

    def _send(self, message: m.Request) -> None:
        with self._sending:
            send_message(self._connection, m.encode(message), Deadline(30, "request"))

    def ping(self) -> int:
        """The worker's monotonic clock, in ns."""
        reply = self.request(m.Ping(), 10)
        if not isinstance(reply, m.Pong):
            raise ProtocolError(f"{self.name}: answered {type(reply).__name__} to a ping")
        return reply.monotonic_ns

    def put_inputs(self, inputs: Sequence[torch.Tensor], spec: TensorSpec) -> None:
        """Give the worker the images of the first stage, once for all partition points."""
        deadline = Deadline(600, "inputs")
        try:
            with self._sending:
                message = m.encode(m.PutInputs(spec=spec, count=len(inputs)))
                send_message(self._connection, message, deadline)
                for tensor in inputs:
                    dense = tensor.contiguous(memory_format=spec.memory_format)
                    self._connection.send([spec.bytes_of(dense)], deadline)
            reply = m.decode_reply(receive_message(self._connection, deadline))
        except TransportError as exc:
            raise self._lost(exc) from exc
        if not isinstance(reply, m.Done):
            raise WorkerError(f"{self.name}: did not take the inputs: {reply}")

    def put_weights(self, file: WeightsFile, offset: int) -> int:
        """Send a weights file from `offset` on; how many bytes that was.

        Raises:
            WorkerLost: the connection broke; what arrived is kept for the next attempt.
            WorkerError: the device cannot keep them.
        """
        deadline = Deadline(WEIGHTS_S, "weights")
        count = file.num_bytes - offset
        try:
            with self._sending, file.path.open("rb") as content:
                content.seek(offset)
                message = m.encode(m.PutWeights(sha256=file.sha256, offset=offset, count=count))
                send_message(self._connection, message, deadline)
                while block := content.read(1 << 20):
                    self._connection.send([block], deadline)
            reply = m.decode_reply(receive_message(self._connection, deadline))
        except TransportError as exc:
            raise self._lost(exc) from exc
        if isinstance(reply, m.Failed):
            raise WorkerError(f"{self.name}: {reply.message}")
        return count

    def _lost(self, exc: TransportError) -> WorkerLost:
        found = self._autopsy()
        return WorkerLost(f"{exc}: the worker died or its network did{found and ': ' + found}")

    def abort(self) -> None:
        """Make the running request fail now. Safe from another thread; never waits for an answer."""
        self._send(m.Abort())

    def close(self) -> None:
        """End the session; the worker forgets its stage and waits for the next coordinator."""
        self._connection.close()
