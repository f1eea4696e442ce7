"""The rpc backend: `torch.distributed.rpc`, stage to stage. It pickles: for trusted networks only.

TensorPipe would take shared memory between workers of one host and so bypass the network, emulated
or not; it is held to TCP (`_transports`, `_channels`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Sequence

import psutil
import torch
from torch.distributed import rpc

from pplib.errors import TransportError
from pplib.runtime.connection import DEAD_LINK_S, Deadline, notice_a_dead_link
from pplib.runtime.hops import Inbox
from pplib.runtime.memory import memory_for
from pplib.runtime.plan import TensorSpec
from pplib.runtime.threads import Companion, end_unless

LEAVE_S = 10

_inboxes: dict[str, Inbox] = {}


def _deliver(run: str, trial: int, seq: int, tensor: torch.Tensor, last: bool) -> None:
    """Runs on the receiving worker, in one of its rpc threads."""
    _inboxes[run].put(trial, seq, tensor, last)


class RpcSender:
    """Calls `_deliver` on the next stage; a failed call surfaces at the next send or flush."""

    def __init__(self, run: str, to: str, peer: str, hosts: Iterable[str]) -> None:
        self._run, self._to, self._peer, self._hosts = run, to, peer, frozenset(hosts)
        self._pending: list[torch.futures.Future[None]] = []
        self._trial, self.payload_bytes, self._watched = -1, 0, False

    def start(self, spec: TensorSpec, trial: int) -> None:
        """See Sender."""
        self._trial, self._pending, self._watched = trial, [], False
        self.payload_bytes = _pickled_bytes(self._run, trial) + spec.num_bytes

    def send(self, seq: int, tensor: torch.Tensor, last: bool, deadline: Deadline) -> None:
        """See Sender; TensorPipe keeps the tensor alive until it is sent, and stages make new ones."""
        while self._pending and self._pending[0].done():
            self._settle(deadline)
        arguments = (self._run, self._trial, seq, tensor, last)
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
        self._outcome(self._pending.pop(0))
        if not self._watched:  # the first tensor of a trial, long before any is measured, opens what was not open
            self._watched = True
            _notice_dead_links(self._hosts)

    def look(self) -> None:
        """Raise what a call has failed with, while nobody settles: the next tensor may wait for the lost one."""
        for call in tuple(self._pending):
            if call.done():
                self._outcome(call)

    def _outcome(self, call: torch.futures.Future[None]) -> None:
        try:
            with memory_for(f"{self._peer}: while it took a tensor"):
                call.wait()
        except RuntimeError as exc:
            raise TransportError(f"{self._peer}: rpc failed: {_first_line(exc)}") from exc


class RpcHops:
    """Membership in one rpc group, kept for all partition points of a configuration."""

    def __init__(
        self,
        run: str,
        stage_index: int,
        peers: Sequence[tuple[str, str]],
        master: tuple[str, int],
        threads: int,
        timeout_s: float,
    ) -> None:
        count = len(peers)
        self._run = run
        onward = (stage_index + 1) % count
        hosts = [_address_of(endpoint.rpartition(":")[0]) for _, endpoint in peers]
        self.sender = RpcSender(run, f"stage{onward}", peers[onward][0], hosts)
        self.receiver = Inbox(peers[(stage_index - 1) % count][0], self.sender.look)
        _inboxes[run] = self.receiver
        for variable in ("TP_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):  # both agents would rather guess by the host's name
            os.environ.setdefault(variable, interface_of(peers[stage_index][1].rpartition(":")[0]))
        options = rpc.TensorPipeRpcBackendOptions(
            num_worker_threads=threads,
            rpc_timeout=timeout_s,
            init_method=f"tcp://{master[0]}:{master[1]}",
            _transports=["uv"],
            _channels=["basic"],
        )

        def join() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch announces deprecations of its own internals
                rpc.init_rpc(  # type: ignore[no-untyped-call]
                    f"stage{stage_index}", rank=stage_index, world_size=count, rpc_backend_options=options
                )

        try:
            with memory_for(f"stage {stage_index} while it joined its neighbours"):
                _or_end(join, timeout_s, "joining an rpc group")
        except (RuntimeError, ValueError) as exc:
            _inboxes.pop(run, None)
            raise TransportError(f"rpc group at {master[0]}:{master[1]}: {_first_line(exc)}") from exc

    def abort(self) -> None:
        """See Hops."""
        self.receiver.closed.set()

    def close(self, graceful: bool) -> None:
        """See Hops; without grace the group is left at once, whatever the others do."""
        self.abort()
        _inboxes.pop(self._run, None)
        try:
            _or_end(lambda: rpc.shutdown(graceful=graceful, timeout=LEAVE_S), 2 * LEAVE_S, "leaving an rpc group")
        except RuntimeError as exc:
            raise TransportError(f"rpc group: shutdown failed: {_first_line(exc)}") from exc


def _or_end(job: Callable[[], None], limit_s: float, what: str) -> None:
    """Run `job`, or end this process: PyTorch can wait for a member that is gone for ever, and does not let go."""
    failed: list[Exception] = []

    def run() -> None:
        try:
            job()
        except Exception as exc:  # noqa: BLE001 (raised again below, in the thread that asked)
            failed.append(exc)

    companion = Companion(run, what)
    companion.start()
    end_unless(companion.ended, limit_s, what)
    if failed:
        raise failed[0]


def _notice_dead_links(hosts: frozenset[str]) -> None:
    """Have connections to `hosts` end when the link is gone: TensorPipe has no option for that, its sockets do.

    They may have TCP_USER_TIMEOUT, too, which what is under way needs: TensorPipe always takes what comes.
    """
    for one in psutil.Process().net_connections("tcp"):
        if one.fd < 0 or not one.raddr or one.raddr.ip not in hosts:
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(one.fd)) as sock:  # it may have been closed
            notice_a_dead_link(sock)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_LINK_S * 1000)


def interface_of(address: str) -> str:
    """The network interface that holds `address`.

    Raises:
        TransportError: this machine has no such address.
    """
    wanted = _address_of(address)
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address == wanted for one in addresses):
            return name
    raise TransportError(f"no network interface of this machine has the address {address}")


def _address_of(host: str) -> str:
    try:
        return socket.gethostbyname(host)
    except OSError as exc:
        raise TransportError(f"no address is known for {host!r}: {exc}: name it in the device file") from exc


def _pickled_bytes(run: str, trial: int) -> int:
    """What rpc writes beside the tensor's own bytes: the pickled call. TensorPipe's framing is not counted."""
    from torch.distributed.rpc.internal import PythonUDF, serialize

    payload, _ = serialize(PythonUDF(_deliver, (run, trial, 0, torch.empty(1), False), {}))  # type: ignore[no-untyped-call]
    return len(payload)


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0]
