"""A worker's data port: who connects to whom to close the ring of stages, and only with proof."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence

from pplib import limits
from pplib.errors import HandshakeError, ProtocolError, TransportError
from pplib.pipeline.hops.socket import SocketHops
from pplib.pipeline.wire.connection import Connection, endpoint_of, listen
from pplib.pipeline.wire.handshake import DATA, NO_STAGE, Claim, admit, reach
from pplib.pipeline.wire.unauthenticated import Strangers

MOST_WAITING = 64  # connections of known peers that no ring has asked for yet
SEALED = True  # `benchmarks/seal.py` measures what it costs


class DataPort:
    """Accepts connections from previous stages; each is kept until its ring is joined."""

    def __init__(self, name: str, host: str, port: int, token: bytes) -> None:
        self._name, self._token = name, token
        self._socket = listen((host, port), f"{name}: data port")
        self._arrivals: dict[Claim, Connection] = {}
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
        previous, onward = ((stage_index + step) % len(peers) for step in (-1, 1))
        outgoing = self.reach(peers[onward], run, stage_index, timeout_s, onward)
        try:
            incoming = self.expect(peers[previous][0], run, previous, timeout_s, stage_index)
        except TransportError:
            outgoing.close()
            raise
        return SocketHops(incoming, outgoing)

    def reach(
        self, peer: tuple[str, str], run: str, stage_index: int, timeout_s: float, to_stage: int = NO_STAGE
    ) -> Connection:
        """Connect to a peer's data port, and prove for which run, from which stage and to which.

        A tunnel (its endpoint is a path) that is just being opened is waited for; it proves what it carries itself.

        Raises:
            TransportError: it cannot be reached, or does not know the token.
        """
        end, tunnelled = time.monotonic() + timeout_s, "/" in peer[1]
        claim = Claim(DATA, self._name, peer[0], run, stage_index, to_stage, sealed=SEALED and not tunnelled)
        while True:
            try:
                return reach(endpoint_of(peer[1]), peer[0], timeout_s, self._token, claim)
            except HandshakeError:
                raise
            except TransportError:
                if not tunnelled or time.monotonic() > end:
                    raise
                time.sleep(limits.CONNECT_RETRY_S)

    def expect(self, name: str, run: str, stage_index: int, timeout_s: float, our_stage: int = NO_STAGE) -> Connection:
        """Wait until the peer of this name has connected for this run, from its stage to ours.

        Raises:
            TransportError: it did not come in time.
        """
        sealed = Claim(DATA, name, self._name, run, stage_index, our_stage, sealed=True)
        either = (sealed, sealed._replace(sealed=False))  # whether through a tunnel, the peer knows
        with self._changed:
            if not self._changed.wait_for(lambda: any(one in self._arrivals for one in either), timeout_s):
                raise TransportError(f"{name}: did not connect within {timeout_s:.0f} s")
            incoming = self._arrivals.pop(next(one for one in either if one in self._arrivals))
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
            claim = admit(connection, self._token, (DATA,), self._name)
            known()
        except (TransportError, ProtocolError):
            with contextlib.suppress(OSError):
                connection.close()
            return
        with self._changed:
            stale = self._arrivals.pop(claim, None)
            self._arrivals[claim] = connection
            if stale is None and len(self._arrivals) > MOST_WAITING:
                stale = self._arrivals.pop(next(iter(self._arrivals)))  # the oldest that nobody has asked for
            self._changed.notify_all()
        if stale is not None:
            stale.close()
