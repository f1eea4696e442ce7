"""A backend between threads of one process: what a stage loop is tried on."""

from __future__ import annotations

from pplib.errors import TransportError
from pplib.pipeline.hops.contract import Inbox, Room
from pplib.pipeline.stage.loop import StageLoop
from pplib.pipeline.wire.connection import Deadline
from pplib.pipeline.wire.plan import TensorSpec
from pplib.runtimes import Array


def one_of_two(runner, stage_index, spec, in_flight=1, inputs=()):
    """The loop of one of two stages, through which tensors of one kind go."""
    return StageLoop(
        runner,
        stage_index=stage_index,
        num_stages=2,
        tensor_in=spec,
        tensor_out=spec,
        result=spec,
        in_flight=in_flight,
        slots=(in_flight, in_flight),
        inputs=inputs,
    )


class InProcessSender:
    """Puts tensors straight into the next stage's inbox."""

    def __init__(self, inbox: Inbox, room: Room) -> None:
        self._inbox, self._room, self._trial, self.payload_bytes = inbox, room, -1, 0

    def start(self, spec: TensorSpec, trial: int) -> None:
        """See Sender."""
        self._trial, self.payload_bytes = trial, spec.num_bytes
        self._room.start(trial)

    def wait_for_room(self, deadline: Deadline) -> None:
        """See Sender."""
        self._room.wait(self._check, deadline)

    def _check(self) -> None:
        if self._inbox.closed.is_set():
            raise TransportError(f"{self._inbox.peer}: the hop was closed")

    def send(self, seq: int, array: Array, last: bool, deadline: Deadline) -> None:
        """See Sender; a copy, since the sender will use its memory again."""
        self._check()
        self._inbox.put(self._trial, seq, array.copy(order="K"), last)

    def flush(self, deadline: Deadline) -> None:
        """See Sender; nothing is ever pending."""


class InProcessHops:
    """One stage's hops between threads of one process."""

    def __init__(self, inbox: Inbox, onward: Inbox, room: Room) -> None:
        self.receiver, self._onward = inbox, onward
        self.sender = InProcessSender(onward, room)

    def abort(self) -> None:
        """See Hops."""
        self.receiver.closed.set()
        self._onward.closed.set()

    def close(self, graceful: bool) -> None:
        """See Hops."""
        self.abort()


def in_process_ring(num_stages: int) -> list[InProcessHops]:
    """The hops of every stage of one pipeline inside this process."""
    rooms = [Room() for _ in range(num_stages)]  # rooms[i]: what stage i may send
    inboxes = [Inbox(f"stage {(i - 1) % num_stages}", grant=rooms[i - 1].grant) for i in range(num_stages)]
    return [InProcessHops(inboxes[i], inboxes[(i + 1) % num_stages], rooms[i]) for i in range(num_stages)]
