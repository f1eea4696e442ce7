"""The rpc backend: `torch.distributed.rpc`, stage to stage. It pickles: for trusted networks only.

TensorPipe would take shared memory between workers of one host and so bypass the network, emulated
or not; it is held to TCP (`_transports`, `_channels`).
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.distributed import Store, rpc  # type: ignore[attr-defined]
from torch.distributed.rendezvous import register_rendezvous_handler

from pplib import limits
from pplib.errors import TransportError
from pplib.pipeline.hops.contract import Inbox, Room
from pplib.pipeline.hops.meeting import Meeting, store_at
from pplib.pipeline.process.memory import end, memory_for
from pplib.pipeline.process.threads import Companion, end_unless
from pplib.pipeline.wire.addresses import address_of, check_listening, interface_of, listening, notice_dead_links
from pplib.pipeline.wire.connection import Deadline
from pplib.pipeline.wire.plan import TensorSpec
from pplib.runtimes import Array

_TOOK = "took a tensor"
_SCHEME = "paretopipe"

_stores: dict[str, Store] = {}  # those that `init_rpc` has not fetched yet, by the name of their ring
_inboxes: dict[str, Inbox] = {}
_rooms: dict[str, Room] = {}


def _deliver(run: str, trial: int, seq: int, tensor: torch.Tensor, last: bool) -> None:
    """Runs on the receiving worker, in one of its rpc threads."""
    _inboxes[run].put(trial, seq, tensor.numpy(), last)


def _grant(run: str, trial: int) -> None:
    """Runs on the worker that sends, in one of its rpc threads."""
    _rooms[run].grant(trial)


class RpcSender:
    """Calls `_deliver` on the next stage; a failed call surfaces at the next send or flush.

    Args:
        run: names the ring.
        to: the next stage, as rpc knows it; `peer`, as the user does.
        hosts: the addresses of all stages.
        closed: is set when the hop was closed; nothing waits then.
    """

    def __init__(self, run: str, to: str, peer: str, hosts: Iterable[str], closed: threading.Event) -> None:
        self._run, self._to, self._peer, self._hosts, self._closed = run, to, peer, frozenset(hosts), closed
        self._pending: list[torch.futures.Future[None]] = []
        self.room = Room()
        self._trial, self.payload_bytes, self._watched = -1, 0, False

    def start(self, spec: TensorSpec, trial: int) -> None:
        """See Sender."""
        self._trial, self._pending, self._watched = trial, [], False
        self.payload_bytes = _pickled_bytes(self._run, trial) + spec.num_bytes
        self.room.start(trial)

    def wait_for_room(self, deadline: Deadline) -> None:
        """See Sender."""
        self.room.wait(self.look, deadline)

    def send(self, seq: int, array: Array, last: bool, deadline: Deadline) -> None:
        """See Sender; TensorPipe keeps the memory alive until it is sent, and stages make new ones."""
        while self._pending and self._pending[0].done():
            self._settle(deadline)
        arguments = (self._run, self._trial, seq, torch.from_numpy(array), last)
        timeout = max(0.1, deadline.left_s)
        try:
            self._pending.append(rpc.rpc_async(self._to, _deliver, args=arguments, timeout=timeout))
        except RuntimeError as exc:
            raise TransportError(f"{self._peer}: rpc failed: {_first_line(exc)}") from exc

    def flush(self, deadline: Deadline) -> None:
        """See Sender."""
        while self._pending:
            self._settle(deadline)

    def _settle(self, deadline: Deadline) -> None:
        call = self._pending[0]
        if not call.done():
            ended = threading.Event()
            call.add_done_callback(lambda _: ended.set())
            while not ended.wait(min(limits.HOP_POLL_S, deadline.left_s + 1e-3)):
                self._check_open()
                deadline.check()
        _outcome(self._pending.pop(0), self._peer, _TOOK)
        if not self._watched:  # the first tensor of a trial, long before any is measured, opens what was not open
            self._watched = True
            notice_dead_links(self._hosts)

    def look(self) -> None:
        """Raise what a call has failed with, while nobody settles: the next tensor may wait for the lost one."""
        self._check_open()
        for call in tuple(self._pending):
            if call.done():
                _outcome(call, self._peer, _TOOK)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise TransportError(f"{self._peer}: the hop was closed")


def _outcome(call: torch.futures.Future[None], peer: str, what: str) -> None:
    """Raise what a call to `peer` that is done has failed with."""
    try:
        with memory_for(f"{peer}: while it {what}"):
            call.wait()
    except RuntimeError as exc:
        raise TransportError(f"{peer}: rpc failed: {_first_line(exc)}") from exc


class RpcHops:
    """Membership in one rpc group, kept for all partition points of a configuration.

    `meeting` is where the members meet, `own` the first member's socket there; it is closed once they have met.
    """

    def __init__(
        self,
        run: str,
        stage_index: int,
        peers: Sequence[tuple[str, str]],
        meeting: str,
        threads: int,
        timeout_s: float,
        own: Meeting | None = None,
    ) -> None:
        count = len(peers)
        self._run = run
        onward = (stage_index + 1) % count
        hosts = [address_of(endpoint.rpartition(":")[0]) for _, endpoint in peers]
        previous = (stage_index - 1) % count
        self._closed = threading.Event()
        self.sender = RpcSender(run, f"stage{onward}", peers[onward][0], hosts, self._closed)
        self._previous, self._grants, self._timeout_s = previous, list[torch.futures.Future[None]](), timeout_s
        self.receiver = Inbox(peers[previous][0], self._look, self._grant)
        _inboxes[run], _rooms[run] = self.receiver, self.sender.room
        for variable in ("TP_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):  # both agents would rather guess by the host's name
            os.environ.setdefault(variable, interface_of(hosts[stage_index]))
        before = listening()

        def join() -> None:
            _stores[run] = store_at(meeting, count, timeout_s, own)
            options = rpc.TensorPipeRpcBackendOptions(
                num_worker_threads=threads,
                rpc_timeout=timeout_s,
                init_method=f"{_SCHEME}://{run}",
                _transports=["uv"],
                _channels=["basic"],
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch announces deprecations of its own internals
                rpc.init_rpc(  # type: ignore[no-untyped-call]
                    f"stage{stage_index}", rank=stage_index, world_size=count, rpc_backend_options=options
                )

        try:
            with memory_for(f"stage {stage_index} while it joined its neighbours"):
                _or_end(join, timeout_s, "joining an rpc group")
        except (RuntimeError, ValueError) as exc:
            self._forget()
            raise TransportError(f"rpc group at {meeting}: {_first_line(exc)}") from exc
        finally:
            if own is not None:
                own.close()
        try:
            check_listening(before, hosts[stage_index])
        except TransportError:
            self.close(graceful=False)
            raise

    def abort(self) -> None:
        """See Hops."""
        self.receiver.closed.set()
        self._closed.set()

    def _grant(self, trial: int) -> None:
        arguments = (self._run, trial)
        try:
            call = rpc.rpc_async(f"stage{self._previous}", _grant, args=arguments, timeout=self._timeout_s)
        except RuntimeError as exc:
            raise TransportError(f"{self.receiver.peer}: rpc failed: {_first_line(exc)}") from exc
        self._look()
        self._grants = [*(one for one in self._grants if not one.done()), call]

    def _look(self) -> None:
        self.sender.look()
        for call in self._grants:
            if call.done():
                _outcome(call, self.receiver.peer, "was told that there is room")

    def _forget(self) -> None:
        _inboxes.pop(self._run, None)
        _rooms.pop(self._run, None)

    def close(self, graceful: bool) -> None:
        """See Hops; without grace the group is left at once, whatever the others do."""
        self.abort()
        self._forget()
        try:
            _or_end(
                lambda: rpc.shutdown(graceful=graceful, timeout=limits.LEAVE_RPC_S),
                2 * limits.LEAVE_RPC_S,
                "leaving an rpc group",
            )
        except RuntimeError as exc:
            raise TransportError(f"rpc group: shutdown failed: {_first_line(exc)}") from exc


def _or_end(job: Callable[[], None], limit_s: float, what: str) -> None:
    """Run `job`, or end this process: PyTorch can wait for a member that is gone for ever, and does not let go.

    Where there is no memory to run it, the process ends, too: with half a membership it can have no other.
    """
    failed: list[Exception] = []

    def run() -> None:
        try:
            job()
        except Exception as exc:  # noqa: BLE001 (raised again below, in the thread that asked)
            failed.append(exc)

    companion = Companion(run, what)
    try:
        companion.start()
        end_unless(companion.ended, limit_s, what)
        if failed:
            raise failed[0]
    except MemoryError:
        end(what)


def _pickled_bytes(run: str, trial: int) -> int:
    """What rpc writes beside the tensor's own bytes: the pickled call. TensorPipe's framing is not counted."""
    from torch.distributed.rpc.internal import PythonUDF, serialize

    payload, _ = serialize(PythonUDF(_deliver, (run, trial, 0, torch.empty(1), False), {}))  # type: ignore[no-untyped-call]
    return len(payload)


def _hand_over(url: str, **_: Any) -> Iterator[tuple[Store, int, int]]:
    """What torch asks for a store; it keeps this iterator, which therefore keeps no store."""
    run, _mark, query = url.removeprefix(f"{_SCHEME}://").partition("?")
    said = dict(part.split("=") for part in query.split("&"))
    yield _stores.pop(run.rstrip("/")), int(said["rank"]), int(said["world_size"])


register_rendezvous_handler(_SCHEME, _hand_over)  # type: ignore[no-untyped-call]


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0]
