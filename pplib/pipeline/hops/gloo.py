"""The gloo backend: point-to-point messages of `torch.distributed`, as torch's own pipelining sends them.

A message leaves when the one it is for has asked for it; there is one connection, by TCP, to each other member. One
that is longer than what was asked for would end the process that receives it: so contents of unlike size have
unlike tags, and never meet.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import re
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import distributed

from pplib import limits
from pplib.errors import DeadlineError, ProtocolError, TransportError
from pplib.pipeline.hops.contract import Arrival, Earlier, Started
from pplib.pipeline.hops.meeting import Meeting, store_at
from pplib.pipeline.process.memory import memory_for
from pplib.pipeline.wire.addresses import address_of, check_listening, listening, notice_dead_links
from pplib.pipeline.wire.connection import Deadline
from pplib.pipeline.wire.frames import TENSOR_HEADER_BYTES, check_tensor_header, tensor_header
from pplib.pipeline.wire.plan import TensorSpec
from pplib.runtimes import Array

_HEADER, _ROOM, _NOTHING, _CONTENT = range(4)  # tags; that of a content is this or more, by its size
_TAGS = 1 << 30
_TRIAL = struct.Struct("<Q")
_Gloo: Any = distributed.ProcessGroupGloo  # torch says little of its types


class _Member(NamedTuple):
    """Another worker of the ring."""

    rank: int
    name: str


class _Group:
    """The process group of a ring, with the library's own errors. Any thread may use it at any time.

    Gloo lets no wait be given up by itself: one that ends before what it waits for ends all others of its group.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self._closed = threading.Event()

    def send(self, content: bytearray | memoryview, to: _Member, tag: int) -> Any:
        """Begin to send what must not be changed until it is done."""
        with self._told(to):
            return self._open().send([_octets(content)], to.rank, tag)

    def receive(self, into: bytearray | memoryview, by: _Member, tag: int) -> Any:
        """Ask for as many bytes as `into` has, or fewer."""
        with self._told(by):
            return self._open().recv([_octets(into)], by.rank, tag)

    def finish(self, work: Any, peer: _Member, deadline: Deadline) -> None:
        """Return when it is done."""
        with self._told(peer, deadline):
            work.wait(datetime.timedelta(milliseconds=1 + deadline.left_s * 1e3))

    def _open(self) -> Any:
        group = self._group
        if group is None:
            raise RuntimeError("it was left")
        return group

    @contextlib.contextmanager
    def _told(self, peer: _Member, deadline: Deadline | None = None) -> Iterator[None]:
        try:
            with memory_for(f"{peer.name}: while a tensor crossed"):
                yield
        except RuntimeError as exc:
            if "Application timeout" in str(exc):  # of another thread, which tells what that was, and closes the hop
                self._closed.wait(limits.HOP_POLL_S)
            if self._closed.is_set():
                raise TransportError(f"{peer.name}: the hop was closed") from exc
            try:
                if deadline is not None:
                    deadline.check()
            except DeadlineError as late:
                raise DeadlineError(f"{peer.name}: {late}") from exc
            raise TransportError(f"{peer.name}: gloo failed: {_reason(exc)}") from exc

    def abort(self) -> None:
        """End all waits, also those of the other members, and all connections: by a wait that ends too early."""
        group = self._group
        if self._closed.is_set() or group is None:
            return
        self._closed.set()
        for rank in range(group.size()):
            if rank != group.rank():
                with contextlib.suppress(RuntimeError):  # that one is lost: its waits have ended, others' may not
                    never = group.recv([torch.empty(1, dtype=torch.uint8)], rank, _NOTHING)
                    never.wait(datetime.timedelta(milliseconds=1))

    def leave(self) -> None:
        """Abort, and listen no more."""
        self.abort()
        self._group = None


class GlooSender(Started):
    """Sends tensors to the next stage: a header, and the tensor's own memory."""

    def __init__(self, group: _Group, onward: _Member) -> None:
        self._group, self._onward = group, onward

    def wait_for_room(self, deadline: Deadline) -> None:
        """See Sender; a grant is the number of the trial."""
        _, trial = self._expected()
        came = bytearray(_TRIAL.size)
        self._group.finish(self._group.receive(came, self._onward, _ROOM), self._onward, deadline)
        if came != _TRIAL.pack(trial):
            raise ProtocolError(
                f"{self._onward.name}: granted room for trial {_TRIAL.unpack(came)[0]}, expected trial {trial}"
            )

    def send(self, seq: int, array: Array, last: bool, deadline: Deadline) -> None:
        """See Sender; returns when the kernel has all of it, which the next stage must have asked for."""
        spec, trial = self._expected()
        there = spec.as_long_as(array)
        header = self._group.send(bytearray(tensor_header(there, trial, seq, last)), self._onward, _HEADER)
        content = self._group.send(there.bytes_of(array), self._onward, _tag_of(spec))
        self._group.finish(header, self._onward, deadline)
        self._group.finish(content, self._onward, deadline)

    def flush(self, deadline: Deadline) -> None:
        """See Sender; the kernel delivers what it has taken."""

    @property
    def payload_bytes(self) -> int:
        """See Sender."""
        spec, _ = self._expected()
        return TENSOR_HEADER_BYTES + spec.num_bytes


class GlooReceiver(Started):
    """Receives tensors from the previous stage straight into the slot it is given."""

    def __init__(self, group: _Group, previous: _Member) -> None:
        self._group, self._previous = group, previous
        self._granted: collections.deque[Any] = collections.deque()

    @property
    def peer(self) -> str:
        """See Receiver."""
        return self._previous.name

    def grant(self, deadline: Deadline) -> None:
        """See Receiver; it is done when the previous stage asks for it, before it sends."""
        _, trial = self._expected()
        self._granted.append(self._group.send(bytearray(_TRIAL.pack(trial)), self._previous, _ROOM))

    def receive(self, seq: int, slot: Array, deadline: Deadline) -> Arrival:
        """See Receiver."""
        spec, trial = self._expected()
        group, patience = self._group, Earlier(deadline)
        header = bytearray(TENSOR_HEADER_BYTES)
        heads = group.receive(header, self._previous, _HEADER)
        content = group.receive(spec.bytes_of(slot), self._previous, _tag_of(spec))
        group.finish(heads, self._previous, patience)
        last, count = check_tensor_header(bytes(header), spec, trial, seq, self.peer)
        group.finish(content, self._previous, patience)
        received_ns = time.monotonic_ns()
        if self._granted:
            group.finish(self._granted.popleft(), self._previous, patience)
        return Arrival(slot if spec.exact else slot[:count], received_ns, last)


class GlooHops:
    """Membership in one process group, kept for all partition points of a configuration.

    `meeting` is where the members meet, `own` the first member's socket there; it is closed once they have met.
    """

    def __init__(
        self,
        stage_index: int,
        peers: Sequence[tuple[str, str]],
        meeting: str,
        timeout_s: float,
        own: Meeting | None = None,
    ) -> None:
        hosts = [address_of(endpoint.rpartition(":")[0]) for _, endpoint in peers]
        options = _Gloo._Options()
        options._timeout = datetime.timedelta(seconds=timeout_s)
        options._threads = 1  # for collectives, of which there are none
        before = listening()
        try:
            with memory_for(f"stage {stage_index} while it joined its neighbours"):
                options._devices = [_Gloo.create_device(hostname=hosts[stage_index], lazy_init=False)]
                store = store_at(meeting, len(peers), timeout_s, own)
                self._group = _Group(_Gloo(store, stage_index, len(peers), options))
        except (RuntimeError, ValueError) as exc:
            raise TransportError(f"gloo group at {meeting}: {_reason(exc)}") from exc
        finally:
            if own is not None:
                own.close()
        previous, onward = ((stage_index + step) % len(peers) for step in (-1, 1))
        self.sender = GlooSender(self._group, _Member(onward, peers[onward][0]))
        self.receiver = GlooReceiver(self._group, _Member(previous, peers[previous][0]))
        try:
            check_listening(before, hosts[stage_index])
        except TransportError:
            self._group.leave()
            raise
        notice_dead_links(hosts)

    def abort(self) -> None:
        """See Hops."""
        self._group.abort()

    def close(self, graceful: bool) -> None:
        """See Hops."""
        self._group.leave()


def _tag_of(spec: TensorSpec) -> int:
    """The tag of the contents of such tensors, which differs where their size does."""
    return _CONTENT + spec.num_bytes % _TAGS


def _octets(memory: bytearray | memoryview) -> torch.Tensor:
    return torch.frombuffer(memory, dtype=torch.uint8) if len(memory) else torch.empty(0, dtype=torch.uint8)


def _reason(exc: BaseException) -> str:
    """The first sentence of what gloo says, without its source file."""
    return re.sub(r"^\[\S+:\d+\] ", "", str(exc).strip().partition("\n")[0]).partition(". ")[0]
