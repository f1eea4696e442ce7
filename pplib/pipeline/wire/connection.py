"""A TCP connection with a limit on every wait, and the library's own errors."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence

from pplib import limits
from pplib.errors import DeadlineError, ProtocolError, TransportError
from pplib.pipeline.wire.seal import Seals

Endpoint = tuple[str, int] | str  # host and port, or the path of a Unix socket

_PIECE_BYTES = 1 << 24  # received at once, before the deadline is looked at again


class Deadline:
    """A moment on this process's monotonic clock after which waiting is an error."""

    def __init__(self, seconds: float, what: str) -> None:
        self.seconds, self.what = seconds, what
        self._end = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raise DeadlineError when the deadline has passed."""
        if self.left_s <= 0:
            raise DeadlineError(f"{self.what}: not done within {self.seconds:.0f} s")


class Connection:
    """A connected stream socket. After any error the only safe thing is to close it.

    The kernel's own receive and send timeouts are used instead of Python's, so that one system call
    moves a whole activation without taking the interpreter lock in between.

    Attributes:
        seals: what proves frames, where the handshake agreed on it; for those who send and receive frames.
    """

    seals: Seals | None

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self.peer, self.seals = peer, None
        self._sock = sock
        sock.settimeout(None)
        timeval = struct.pack("ll", int(limits.CONNECTION_POLL_S), int(limits.CONNECTION_POLL_S % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            notice_a_dead_link(sock)

    def send(self, parts: Sequence[bytes | memoryview], deadline: Deadline) -> None:
        """Send all `parts` back to back, gathered by the kernel, without joining them first."""
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        self._check(deadline)
        while views:
            try:
                sent = self._sock.sendmsg(views)
            except BlockingIOError:
                self._check(deadline)
                continue
            except OSError as exc:
                raise TransportError(f"{self.peer}: connection lost while sending: {exc}") from exc
            while views and sent >= len(views[0]):
                sent -= len(views[0])
                del views[0]
            if views and sent:
                views[0] = views[0][sent:]
            if views:  # a peer that takes a byte now and then holds nobody up for longer
                self._check(deadline)

    def receive_into(self, view: memoryview, deadline: Deadline) -> None:
        """Fill `view` completely before the deadline, however small the pieces it comes in."""
        filled = 0
        while filled < len(view):
            where = f" after {filled} of {len(view)} bytes" if filled else ""
            try:
                got = self._receive_once(view[filled : filled + _PIECE_BYTES], socket.MSG_WAITALL, deadline)
                filled += got
            except TransportError as exc:
                raise type(exc)(f"{exc}{where}") from exc
            if got == 0:
                raise TransportError(f"{self.peer}: closed the connection{where}")

    def receive(self, count: int, deadline: Deadline) -> bytes:
        """Receive exactly `count` bytes; the caller has bounded `count`."""
        buffer = bytearray(count)
        self.receive_into(memoryview(buffer), deadline)
        return bytes(buffer)

    def receive_some(self, view: memoryview, deadline: Deadline) -> int:
        """Receive what is there, at least a byte; how many."""
        got = self._receive_once(view, 0, deadline)
        if got == 0:
            raise TransportError(f"{self.peer}: closed the connection")
        return got

    def _receive_once(self, view: memoryview, flags: int, deadline: Deadline) -> int:
        """One system call's worth, waited for until the deadline; 0 when the peer has closed.

        A deadline that is over is one also where there is always something to receive.
        """
        while True:
            try:
                self._check(deadline)
                return self._sock.recv_into(view, 0, flags)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise TransportError(f"{self.peer}: connection lost while receiving: {exc}") from exc

    def tcp_info(self) -> bytes:
        """The kernel's `struct tcp_info` of this connection; empty where there is none."""
        option = getattr(socket, "TCP_INFO", None)
        if option is None or self._sock.family == socket.AF_UNIX:
            return b""
        return self._sock.getsockopt(socket.IPPROTO_TCP, option, 256)

    def _check(self, deadline: Deadline) -> None:
        try:
            deadline.check()
        except DeadlineError as exc:
            raise DeadlineError(f"{self.peer}: {exc}") from exc

    def close(self) -> None:
        """Close at once; a thread blocked in this connection wakes up with an error."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def notice_a_dead_link(sock: socket.socket) -> None:
    """Have the kernel ask the peer's when nothing has come for a while, and give up where no answer comes.

    Whoever waits for a tensor then learns in about `limits.DEAD_LINK_S` that the link is gone, and not at the
    deadline of the trial. A peer that computes for long, or that is stopped, still answers: its kernel does.
    (TCP_USER_TIMEOUT would end a healthy connection whose peer takes nothing for as long.)
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", limits.KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", limits.KEEPALIVE_PROBE_S),
        ("TCP_KEEPCNT", limits.KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def connect(endpoint: Endpoint, peer: str, timeout_s: float) -> Connection:
    """Connect to a worker.

    Raises:
        TransportError: refused, unreachable, or no answer in time.
    """
    where = name_of(endpoint)
    try:
        if isinstance(endpoint, tuple):
            return Connection(socket.create_connection(endpoint, timeout=timeout_s), peer)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(endpoint)
        except OSError:
            sock.close()
            raise
        return Connection(sock, peer)
    except (ConnectionRefusedError, FileNotFoundError) as exc:
        raise TransportError(
            f"{peer}: {where} refused the connection: no worker listens there; was it started, "
            "and is the port the one it printed?"
        ) from exc
    except OSError as exc:
        raise TransportError(f"{peer}: cannot reach {where}: {exc}") from exc


def listen(endpoint: Endpoint, what: str) -> socket.socket:
    """Listen on one named address, never on all of them, or on a Unix socket, which its folder protects.

    Raises:
        TransportError: the port is in use, the address is not this machine's, or the path cannot be made.
    """
    if isinstance(endpoint, str):
        family = socket.AF_UNIX
    elif endpoint[0] in ("", "0.0.0.0", "::", "*"):
        raise ProtocolError(f"{what}: refusing to listen on all interfaces ({endpoint[0]!r}): name one address")
    else:
        family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(endpoint)
        sock.listen(128)
    except OSError as exc:
        sock.close()
        raise TransportError(
            f"{what}: cannot listen on {name_of(endpoint)}: {exc.strerror or exc}: stop the program that uses the "
            "port, or set another one in the device file (0 takes any free one)"
        ) from exc
    return sock


def name_of(endpoint: Endpoint) -> str:
    """An endpoint as people write it.

    >>> name_of(("10.0.0.1", 5000))
    '10.0.0.1:5000'
    """
    return endpoint if isinstance(endpoint, str) else f"{endpoint[0]}:{endpoint[1]}"


def endpoint_of(name: str) -> Endpoint:
    """The endpoint that `name_of` wrote: whatever has a slash in it is a path.

    Raises:
        ValueError: no port where one is needed.

    >>> endpoint_of("10.0.0.1:5000"), endpoint_of("/run/worker")
    (('10.0.0.1', 5000), '/run/worker')
    """
    if "/" in name:
        return name
    host, _, port = name.rpartition(":")
    return host, int(port)


def tunnel_end(stage_index: int) -> str:
    """The endpoint, on every other device, of the tunnel to a stage's data port: a path in its worker's own folder.

    >>> tunnel_end(1)
    './to-1'
    """
    return f"./to-{stage_index}"
