"""Who may talk to a worker: both sides prove that they know the run's token, and their version.

Server and client exchange random nonces and HMAC-SHA256 proofs over them; the token never travels.
All messages have a fixed length, so a stranger can make a worker allocate a few hundred bytes at most.
"""

from __future__ import annotations

import hmac
import os
import struct

from pplib import __version__
from pplib.errors import HandshakeError
from pplib.runtime.connection import Connection, Deadline

PROTOCOL = 1
TIMEOUT_S = 5.0
_GREETING = struct.Struct("<4sH32s8s16s")  # magic, protocol, nonce, purpose, package version
_MAGIC = b"PPHS"
CONTROL, DATA, WATCH = b"control", b"data", b"watch"

_ANSWERED_AS = {CONTROL: (CONTROL,), WATCH: (CONTROL,), DATA: (DATA,)}


def _greeting(purpose: bytes, version: str) -> bytes:
    return _GREETING.pack(_MAGIC, PROTOCOL, os.urandom(32), purpose, version.encode()[:16])


def _proof(token: bytes, role: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.digest(token, role + first + second, "sha256")


def _read_greeting(connection: Connection, purposes: tuple[bytes, ...], version: str, deadline: Deadline) -> bytes:
    data = connection.receive(_GREETING.size, deadline)
    magic, protocol, _, said, theirs = _GREETING.unpack(data)
    if magic != _MAGIC:
        raise HandshakeError(f"{connection.peer}: does not speak this protocol: is it a ParetoPipe worker?")
    their_version = theirs.rstrip(b"\0").decode("ascii", "replace")
    if protocol != PROTOCOL or their_version != version:
        raise HandshakeError(
            f"{connection.peer}: runs ParetoPipe {their_version!r} (protocol {protocol}), expected {version!r} "
            f"(protocol {PROTOCOL}): install the same version on both and restart the worker"
        )
    if said.rstrip(b"\0") not in purposes:
        raise HandshakeError(f"{connection.peer}: expected the {purposes[0].decode()} port, reached another")
    return data


def greet(connection: Connection, token: bytes, purpose: bytes, version: str = __version__) -> None:
    """The client's side.

    Raises:
        HandshakeError: the peer has another version or token.
    """
    deadline = Deadline(TIMEOUT_S, "handshake")
    theirs = _read_greeting(connection, _ANSWERED_AS[purpose], version, deadline)
    ours = _greeting(purpose, version)
    connection.send([ours, _proof(token, b"client", theirs, ours)], deadline)
    answer = connection.receive(32, deadline)
    if not hmac.compare_digest(answer, _proof(token, b"server", theirs, ours)):
        raise HandshakeError(f"{connection.peer}: could not prove the run's token: it belongs to another run")


def admit(connection: Connection, token: bytes, purposes: tuple[bytes, ...], version: str = __version__) -> bytes:
    """The server's side: nothing is answered to a peer that does not know the token.

    Args:
        purposes: what a peer may come for; the first names the port.

    Returns:
        What it came for.

    Raises:
        HandshakeError: the peer has another version or token.
    """
    deadline = Deadline(TIMEOUT_S, "handshake")
    ours = _greeting(purposes[0], version)
    connection.send([ours], deadline)
    theirs = _read_greeting(connection, purposes, version, deadline)
    proof = connection.receive(32, deadline)
    if not hmac.compare_digest(proof, _proof(token, b"client", ours, theirs)):
        raise HandshakeError(f"{connection.peer}: could not prove the run's token")
    connection.send([_proof(token, b"server", ours, theirs)], deadline)
    purpose: bytes = _GREETING.unpack(theirs)[3].rstrip(b"\0")
    return purpose
