"""The contract of a hop, which every backend keeps, and the in-process backend."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from pplib.errors import ProtocolError, TransportError
from pplib.runtime.connection import Deadline
from pplib.runtime.plan import TensorSpec

POLL_S = 0.2  # how often a blocked wait looks at its deadline and at the stop flag
EARLIER_S = 0.6  # that a receiver gives up before its trial does, so that the error told names the peer


class Earlier(Deadline):
    """EARLIER_S before another, half the time where that is shorter; it tells the other's length."""

    def __init__(self, other: Deadline) -> None:
        super().__init__(other.left_s - min(EARLIER_S, other.seconds / 2), other.what)
        self.seconds = other.seconds


class Arrival(NamedTuple):
    """A microbatch that came over a hop: its tensor, the monotonic ns at which it was complete in memory,
    and whether the trial ends with it.
    """

    tensor: torch.Tensor
    received_ns: int
    last: bool


class Sender(Protocol):
    """Towards the next stage."""

    def start(self, spec: TensorSpec, trial: int) -> None:
        """Every tensor of this trial will be as `spec` says."""

    def send(self, seq: int, tensor: torch.Tensor, last: bool, deadline: Deadline) -> None:
        """Hand `tensor` over; returns when its memory may be used again, not when it has arrived."""

    def flush(self, deadline: Deadline) -> None:
        """Return when nothing is pending any more; raise what went wrong on the way."""

    @property
    def payload_bytes(self) -> int:
        """What one microbatch puts on the wire, headers included."""


class Receiver(Protocol):
    """From the previous stage."""

    def start(self, spec: TensorSpec, trial: int) -> None:
        """Every tensor of this trial will be as `spec` says; anything else is refused."""

    def receive(self, seq: int, slot: torch.Tensor, deadline: Deadline) -> Arrival:
        """Wait for microbatch `seq`; its tensor is `slot`, filled, or memory of the backend's own."""


class Hops(Protocol):
    """A worker's place in the ring: stage i sends to stage i + 1, the last one sends results to stage 0."""

    @property
    def sender(self) -> Sender:
        """Towards the next stage."""

    @property
    def receiver(self) -> Receiver:
        """From the previous stage."""

    def abort(self) -> None:
        """Wake every blocked call with an error; the hops cannot be used again."""

    def close(self, graceful: bool) -> None:
        """Leave the ring; `graceful` when all others leave too."""


@dataclass(frozen=True)
class _Parcel:
    trial: int
    seq: int
    tensor: torch.Tensor
    last: bool
    received_ns: int


class Inbox:
    """Where a backend's own threads put what arrives; hands it out in sequence order.

    Args:
        peer: who sends.
        look: is called now and then while nothing comes; raises what makes it pointless to wait.
    """

    def __init__(self, peer: str, look: Callable[[], None] = lambda: None) -> None:
        self.peer, self._look = peer, look
        self.closed = threading.Event()
        self._arrived: queue.SimpleQueue[_Parcel] = queue.SimpleQueue()
        self._early: dict[int, _Parcel] = {}
        self._spec: TensorSpec | None = None
        self._trial = -1
        self._latest_ns = 0

    def put(self, trial: int, seq: int, tensor: torch.Tensor, last: bool) -> None:
        """Called on arrival; takes the time."""
        self._arrived.put(_Parcel(trial, seq, tensor, last, time.monotonic_ns()))

    def start(self, spec: TensorSpec, trial: int) -> None:
        """See Receiver."""
        self._spec, self._trial = spec, trial
        self._early.clear()

    def receive(self, seq: int, slot: torch.Tensor, deadline: Deadline) -> Arrival:
        """See Receiver; `slot` is not used."""
        patience = Earlier(deadline)
        while seq not in self._early:
            if self.closed.is_set():
                raise TransportError(f"{self.peer}: the hop was closed")
            try:
                parcel = self._arrived.get(timeout=min(POLL_S, patience.left_s + 1e-3))
            except queue.Empty:
                self._look()
                try:
                    patience.check()
                except TransportError as exc:
                    raise TransportError(f"{self.peer}: {exc}") from exc
                continue
            self._check(parcel, seq)
            self._early[parcel.seq] = parcel
        parcel = self._early.pop(seq)
        # One that overtook others cannot be taken up before them: it counts as received with the last of them.
        self._latest_ns = max(self._latest_ns, parcel.received_ns)
        return Arrival(parcel.tensor, self._latest_ns, parcel.last)

    def _check(self, parcel: _Parcel, seq: int) -> None:
        got, spec = parcel.tensor, self._spec
        expected = spec and (spec.shape, spec.torch_dtype)
        dense = spec is not None and got.is_contiguous(memory_format=spec.memory_format)
        fresh = parcel.seq >= seq and parcel.seq not in self._early
        if parcel.trial != self._trial or not fresh or (tuple(got.shape), got.dtype) != expected or not dense:
            raise ProtocolError(
                f"{self.peer}: sent microbatch {parcel.seq} of trial {parcel.trial} as {got.dtype} "
                f"{tuple(got.shape)}, expected microbatch {seq} of trial {self._trial} as {spec}: both workers "
                "need the same partition point"
            )


class InProcessSender:
    """Puts tensors straight into the next stage's inbox."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox, self._trial, self.payload_bytes = inbox, -1, 0

    def start(self, spec: TensorSpec, trial: int) -> None:
        """See Sender."""
        self._trial, self.payload_bytes = trial, spec.num_bytes

    def send(self, seq: int, tensor: torch.Tensor, last: bool, deadline: Deadline) -> None:
        """See Sender; a copy, since the sender will use its memory again."""
        if self._inbox.closed.is_set():
            raise TransportError(f"{self._inbox.peer}: the hop was closed")
        self._inbox.put(self._trial, seq, tensor.clone(), last)

    def flush(self, deadline: Deadline) -> None:
        """See Sender; nothing is ever pending."""


class InProcessHops:
    """One stage's hops between threads of one process."""

    def __init__(self, inbox: Inbox, onward: Inbox) -> None:
        self.receiver, self._onward = inbox, onward
        self.sender = InProcessSender(onward)

    def abort(self) -> None:
        """See Hops."""
        self.receiver.closed.set()
        self._onward.closed.set()

    def close(self, graceful: bool) -> None:
        """See Hops."""
        self.abort()


def in_process_ring(num_stages: int) -> list[InProcessHops]:
    """The hops of every stage of one pipeline inside this process."""
    inboxes = [Inbox(f"stage {(i - 1) % num_stages}") for i in range(num_stages)]
    return [InProcessHops(inboxes[i], inboxes[(i + 1) % num_stages]) for i in range(num_stages)]
