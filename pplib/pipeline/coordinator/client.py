"""The coordinator's end of one control connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from pplib import limits
from pplib.errors import HandshakeError, ProtocolError, TransportError, WorkerError
from pplib.model.weights.stored import WeightsFile
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Deadline, Endpoint, name_of
from pplib.pipeline.wire.frames import receive_message, send_message
from pplib.pipeline.wire.handshake import CONTROL, Claim, reach
from pplib.pipeline.wire.plan import TensorSpec
from pplib.runtimes import Array

R = TypeVar("R", bound=m.Reply)


class WorkerLost(WorkerError):
    """The control connection broke: the worker died or the network to it did."""


class WorkerFailed(WorkerError):
    """It answered that what was asked of it failed.

    Attributes:
        lasting: it would fail again; want of memory, or of descriptors, may pass.
        busy: another coordinator has it, or one that is gone had it, and it is still leaving that.
    """

    def __init__(self, text: str, lasting: bool = True, busy: bool = False) -> None:
        super().__init__(text)
        self.lasting, self.busy = lasting, busy


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
        self._sending = threading.Lock()
        try:
            self._connection = reach(control, name, 10, token, Claim(CONTROL, "coordinator", name))
        except HandshakeError:
            raise
        except TransportError as exc:
            raise WorkerError(
                f"{exc}: no handshake with the worker at {name_of(control)}: it has ended or has no memory left, or it "
                "belongs to another run and was started with another token"
            ) from exc
        try:
            self.description = self.expect(m.Describe(), m.Description, 60)
        except (TransportError, WorkerError):
            self._connection.close()
            raise

    def request(self, message: m.Request, timeout_s: float) -> m.Reply:
        """Ask, and wait for the answer.

        Raises:
            WorkerLost: the worker is gone, or silent for `timeout_s`.
            WorkerFailed: it reports a failure; the message starts with the device's name.
        """
        try:
            self._send(message)
            return self._reply(Deadline(timeout_s, type(message).__name__))
        except ProtocolError:
            raise
        except TransportError as exc:
            raise self._lost(exc) from exc

    def expect(self, message: m.Request, kind: type[R], timeout_s: float) -> R:
        """Ask for an answer of one kind.

        Raises:
            ProtocolError: another came; it is named.
        """
        return self._expected(self.request(message, timeout_s), kind, message)

    def _reply(self, deadline: Deadline) -> m.Reply:
        content = receive_message(self._connection, deadline)
        try:
            reply = m.decode_reply(content)
        except ProtocolError as exc:
            raise ProtocolError(f"{self.name}: sent {exc}") from exc
        if isinstance(reply, m.Failed):
            kind = "" if reply.kind.endswith("Error") and "Runtime" not in reply.kind else f"{reply.kind}: "
            text = f"{self.name}: {kind}{reply.message or reply.kind}"
            lasting = reply.kind not in {"MemoryError", "OSError"}
            error = WorkerLost(text) if reply.ends else WorkerFailed(text, lasting, reply.kind == m.BUSY)
            error.add_note(reply.kind)
            raise error
        return reply

    def _expected(self, reply: m.Reply, kind: type[R], message: m.Request) -> R:
        if not isinstance(reply, kind):
            raise ProtocolError(
                f"{self.name}: answered {type(reply).__name__} to {type(message).__name__}, expected {kind.__name__}: "
                "does the device run another version of our code?"
            )
        return reply

    def take_outputs(self, count: int, spec: TensorSpec, timeout_s: float) -> list[Array]:
        """The outputs of the last run, `count` arrays, in pieces that a message can hold."""
        outputs = [spec.allocate() for _ in range(count)]
        total, offset = count * spec.num_bytes, 0
        while offset < total:
            message = m.TakeOutputs(offset=offset, count=min(m.MAX_BLOCK_BYTES, total - offset))
            content = self.expect(message, m.Content, timeout_s).content
            if len(content) != message.count:
                raise ProtocolError(f"{self.name}: gave {len(content)} bytes of outputs, asked for {message.count}")
            while content:
                within = offset % spec.num_bytes
                room = spec.bytes_of(outputs[offset // spec.num_bytes])[within:]
                room[: len(content)] = content[: len(room)]
                offset, content = offset + len(content[: len(room)]), content[len(room) :]
        return outputs

    def _send(self, message: m.Request) -> None:
        with self._sending:
            send_message(self._connection, m.encode(message), Deadline(30, "request"))

    def ping(self) -> int:
        """The worker's monotonic clock, in ns."""
        return self.expect(m.Ping(), m.Pong, 10).monotonic_ns

    def put_inputs(self, inputs: Sequence[Array], spec: TensorSpec) -> None:
        """Give the worker the images of the first stage, once for all partition points."""

        blocks = (spec.bytes_of(spec.laid_out(one)) for one in inputs)
        self._put(m.PutInputs(spec=spec, count=len(inputs)), blocks, Deadline(limits.INPUTS_S, "inputs"))

    def put_weights(self, file: WeightsFile, offset: int) -> int:
        """Send a weights file from `offset` on; how many bytes that was.

        Raises:
            WorkerLost: the connection broke; what arrived is kept for the next attempt.
            WorkerError: the device cannot keep them.
        """
        count = file.num_bytes - offset
        message = m.PutWeights(sha256=file.sha256, offset=offset, count=count)
        with file.path.open("rb") as content:
            content.seek(offset)
            self._put(message, iter(lambda: content.read(1 << 20), b""), Deadline(limits.WEIGHTS_S, "weights"))
        return count

    def _put(self, message: m.Request, blocks: Iterable[bytes | memoryview], deadline: Deadline) -> None:
        """Send a message that is followed by raw bytes, and have it confirmed."""
        try:
            with self._sending:
                send_message(self._connection, m.encode(message), deadline)
                for block in blocks:
                    self._connection.send([block], deadline)
            self._expected(self._reply(deadline), m.Done, message)
        except ProtocolError:
            raise
        except TransportError as exc:
            raise self._lost(exc) from exc

    def _lost(self, exc: TransportError) -> WorkerLost:
        found = self._autopsy()
        return WorkerLost(f"{exc}: the worker died or its network did{found and ': ' + found}")

    def abort(self) -> None:
        """Make the running request fail now. Safe from another thread; never waits for an answer."""
        self._send(m.Abort())

    def close(self) -> None:
        """End the session; the worker forgets its stage and waits for the next coordinator."""
        self._connection.close()
