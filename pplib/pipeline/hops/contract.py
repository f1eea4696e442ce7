"""The contract of a hop, which every backend keeps, and the in-process backend."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pplib import limits
from pplib.errors import ProtocolError, TransportError
from pplib.pipeline.wire.connection import Deadline
from pplib.pipeline.wire.plan import TensorSpec
from pplib.runtimes import Array


class Earlier(Deadline):
    """EARLIER_S before another, half the time where that is shorter; it tells the other's length."""

    def __init__(self, other: Deadline) -> None:
        super().__init__(other.left_s - min(limits.RECEIVER_EARLIER_S, other.seconds / 2), other.what)
        self.seconds = other.seconds


class Arrival(NamedTuple):
    """A microbatch that came over a hop: its array, the monotonic ns at which it was complete in memory,
    and whether the trial ends with it.
    """

    array: Array
    received_ns: int
    last: bool


class Sender(Protocol):
    """Towards the next stage."""

    def start(self, spec: TensorSpec, trial: int) -> None:
        """Every tensor of this trial will be as `spec` says."""

    def wait_for_room(self, deadline: Deadline) -> None:
        """Return when the next stage has granted one more microbatch than were sent."""

    def send(self, seq: int, array: Array, last: bool, deadline: Deadline) -> None:
        """Hand `array` over; returns when its memory may be used again, not when it has arrived."""

    def flush(self, deadline: Deadline) -> None:
        """Return when nothing is pending any more; raise what went wrong on the way."""

    @property
    def payload_bytes(self) -> int:
        """What one microbatch puts on the wire, headers included."""


class Receiver(Protocol):
    """From the previous stage, which is called `peer`."""

    @property
    def peer(self) -> str:
        """Who sends."""

    def start(self, spec: TensorSpec, trial: int) -> None:
        """Every tensor of this trial will be as `spec` says; anything else is refused."""

    def grant(self, deadline: Deadline) -> None:
        """Tell the previous stage that there is room for one more microbatch."""

    def receive(self, seq: int, slot: Array, deadline: Deadline) -> Arrival:
        """Wait for microbatch `seq`; its array is `slot`, filled, or memory of the backend's own."""


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


class Started:
    """One end of a hop that knows what every tensor of the running trial looks like."""

    _started: tuple[TensorSpec, int] | None = None

    def start(self, spec: TensorSpec, trial: int) -> None:
        """See Sender and Receiver."""
        self._started = spec, trial

    def _expected(self) -> tuple[TensorSpec, int]:
        if self._started is None:
            raise RuntimeError("start() tells a hop what to expect before the first tensor")
        return self._started


@dataclass(frozen=True)
class _Parcel:
    trial: int
    seq: int
    array: Array
    last: bool
    received_ns: int


class Room:
    """What a next stage in reach of this process, or of its rpc threads, has granted."""

    def __init__(self) -> None:
        self._granted: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._trial = -1

    def start(self, trial: int) -> None:
        """Grants of other trials do not count."""
        self._trial = trial

    def grant(self, trial: int) -> None:
        """One more."""
        self._granted.put(trial)

    def wait(self, look: Callable[[], None], deadline: Deadline) -> None:
        """Take one; `look` is called now and then, and raises what makes it pointless to wait."""
        while True:
            try:
                trial = self._granted.get(timeout=min(limits.HOP_POLL_S, deadline.left_s + 1e-3))
            except queue.Empty:
                look()
                deadline.check()
                continue
            if trial == self._trial:
                return


class Inbox:
    """Where a backend's own threads put what arrives; hands it out in sequence order.

    Args:
        peer: who sends.
        look: is called now and then while nothing comes; raises what makes it pointless to wait.
        grant: tells the sender that there is room for one more microbatch of a trial.
    """

    def __init__(
        self, peer: str, look: Callable[[], None] = lambda: None, grant: Callable[[int], None] = lambda trial: None
    ) -> None:
        self.peer, self._look, self._grant = peer, look, grant
        self.closed = threading.Event()
        self._arrived: queue.SimpleQueue[_Parcel] = queue.SimpleQueue()
        self._early: dict[int, _Parcel] = {}
        self._spec: TensorSpec | None = None
        self._trial = -1
        self._latest_ns = 0

    def put(self, trial: int, seq: int, array: Array, last: bool) -> None:
        """Called on arrival; takes the time."""
        self._arrived.put(_Parcel(trial, seq, array, last, time.monotonic_ns()))

    def start(self, spec: TensorSpec, trial: int) -> None:
        """See Receiver."""
        self._spec, self._trial = spec, trial
        self._early.clear()

    def grant(self, deadline: Deadline) -> None:
        """See Receiver."""
        self._grant(self._trial)

    def receive(self, seq: int, slot: Array, deadline: Deadline) -> Arrival:
        """See Receiver; `slot` is not used."""
        patience = Earlier(deadline)
        while seq not in self._early:
            if self.closed.is_set():
                raise TransportError(f"{self.peer}: the hop was closed")
            try:
                parcel = self._arrived.get(timeout=min(limits.HOP_POLL_S, patience.left_s + 1e-3))
            except queue.Empty:
                self._look()
                try:
                    patience.check()
                except TransportError as exc:
                    raise type(exc)(f"{self.peer}: {exc}") from exc
                continue
            self._check(parcel, seq)
            self._early[parcel.seq] = parcel
        parcel = self._early.pop(seq)
        # One that overtook others cannot be taken up before them: it counts as received with the last of them.
        self._latest_ns = max(self._latest_ns, parcel.received_ns)
        return Arrival(parcel.array, self._latest_ns, parcel.last)

    def _check(self, parcel: _Parcel, seq: int) -> None:
        got, spec = parcel.array, self._spec
        shorter = spec is not None and not spec.exact and 0 < got.size <= spec.num_bytes and got.ndim == 1
        expected = spec and (got.shape if shorter else spec.shape, spec.array_dtype)
        dense = spec is not None and spec.is_laid_out(got)
        fresh = parcel.seq >= seq and parcel.seq not in self._early
        if parcel.trial != self._trial or not fresh or (got.shape, got.dtype) != expected or not dense:
            raise ProtocolError(
                f"{self.peer}: sent microbatch {parcel.seq} of trial {parcel.trial} as {got.dtype} "
                f"{got.shape}, expected microbatch {seq} of trial {self._trial} as {spec}: both workers "
                "need the same partition point"
            )
