"""A worker's data port: who connects to whom to close the ring of stages, and only with proof."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence

from pplib.errors import HandshakeError, ProtocolError, TransportError
from pplib.runtime.connection import Connection, Deadline, connect, endpoint_of, listen
from pplib.runtime.handshake import DATA, TIMEOUT_S, admit, greet
from pplib.runtime.socket_hops import SocketHops
from pplib.runtime.strangers import Strangers

MOST_WAITING = 64  # connections of known peers that no ring has asked for yet
RETRY_S = 0.2
_INTRODUCTION = struct.Struct("<32sH")  # run, stage index of the sender


def _key(run: str) -> bytes:
    return run.encode()[:32].ljust(32, b"\0")


class DataPort:
    """Accepts connections from previous stages; each is kept until its ring is joined."""

    def __init__(self, name: str, host: str, port: int, token: bytes) -> None:
        self._name, self._token = name, token
        self._socket = listen((host, port), f"{name}: data port")
        self._arrivals: dict[tuple[bytes, int], Connection] = {}
        self._changed = threading.Condition()
        self._strangers = Strangers()
        self._closing = threading.Event()
        arguments = (self._socket, self._closing, self._admit, "peer")
        threading.Thread(target=self._strangers.accept_from, args=arguments, name="data", daemon=True).start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._socket.getsockname()[1]
        return port

    def join(self, stage_index: int, peers: Sequence[tuple[str, str]], run: str, timeout_s: float) -> SocketHops:
        """Connect to the next stage, and wait for the previous one to connect.

        Raises:
            TransportError: a neighbour cannot be reached, or did not come in time.
        """
        count, previous = len(peers), (stage_index - 1) % len(peers)
        outgoing = self.reach(peers[(stage_index + 1) % count], run, stage_index, timeout_s)
        try:
            incoming = self.expect(peers[previous][0], run, previous, timeout_s)
        except TransportError:
            outgoing.close()
            raise
        return SocketHops(incoming, outgoing)

    def reach(self, peer: tuple[str, str], run: str, stage_index: int, timeout_s: float) -> Connection:
        """Connect to a peer's data port, and say for which run and from which stage.

        A tunnel (its endpoint is a path) that is just being opened is waited for.

        Raises:
            TransportError: it cannot be reached, or does not know the token.
        """
        end = time.monotonic() + timeout_s
        while True:
            try:
                return self._introduced(peer, run, stage_index, timeout_s)
            except HandshakeError:
                raise
            except TransportError:
                if "/" not in peer[1] or time.monotonic() > end:
                    raise
                time.sleep(RETRY_S)

    def _introduced(self, peer: tuple[str, str], run: str, stage_index: int, timeout_s: float) -> Connection:
        outgoing = connect(endpoint_of(peer[1]), peer[0], timeout_s)
        try:
            greet(outgoing, self._token, DATA)
            outgoing.send([_INTRODUCTION.pack(_key(run), stage_index)], Deadline(TIMEOUT_S, "introduction"))
        except TransportError:
            outgoing.close()
            raise
        return outgoing

    def expect(self, name: str, run: str, stage_index: int, timeout_s: float) -> Connection:
        """Wait until a peer has connected for this run and from this stage.

        Raises:
            TransportError: it did not come in time.
        """
        key = (_key(run), stage_index)
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._arrivals, timeout_s):
                raise TransportError(f"{name}: did not connect within {timeout_s:.0f} s")
            incoming = self._arrivals.pop(key)
        incoming.peer = name
        return incoming

    def close(self) -> None:
        """Stop listening."""
        self._closing.set()
        self._socket.close()
        with self._changed:
            for connection in self._arrivals.values():
                connection.close()
            self._arrivals.clear()

    def _admit(self, sock: socket.socket, peer: str, known: Callable[[], None]) -> None:
        connection = Connection(sock, peer)
        try:
            admit(connection, self._token, (DATA,))
            run, sender = _INTRODUCTION.unpack(
                connection.receive(_INTRODUCTION.size, Deadline(TIMEOUT_S, "introduction"))
            )
            known()
        except (TransportError, ProtocolError):
            with contextlib.suppress(OSError):
                connection.close()
            return
        with self._changed:
            stale = self._arrivals.pop((run, sender), None)
            self._arrivals[run, sender] = connection
            if stale is None and len(self._arrivals) > MOST_WAITING:
                stale = self._arrivals.pop(next(iter(self._arrivals)))  # the oldest that nobody has asked for
            self._changed.notify_all()
        if stale is not None:
            stale.close()
