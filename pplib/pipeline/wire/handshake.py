"""Who may talk to a worker: both sides prove that they know the run's token, their version, and what they talk about.

Server and client exchange random nonces; the client says who it is, for whom it takes the server, and what
for; both prove, by HMAC-SHA256 over all of that, that they know the token, which never travels. So no proof is
good for another device, stage, ring, port, direction or connection, and each connection has keys of its own.
All messages have a fixed length: a stranger can make a worker allocate a few hundred bytes at most.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import NamedTuple

from pplib import __version__, limits
from pplib.errors import DeadlineError, HandshakeError, TransportError
from pplib.pipeline.wire.connection import Connection, Deadline, Endpoint, connect
from pplib.pipeline.wire.seal import Seal, Seals

PROTOCOL = 2
NO_STAGE = 0xFFFF
ATTEMPTS = 5
_GREETING = struct.Struct("<4sH32s8s16s")  # magic, protocol, nonce, purpose, package version
_CLAIM = struct.Struct("<32s64sH64sHB")  # run, from: name, stage; to: name, stage; sealed
_MAGIC = b"PPHS"
_PROOF_BYTES = 32
CONTROL, DATA, WATCH = b"control", b"data", b"watch"

_ANSWERED_AS = {CONTROL: (CONTROL,), WATCH: (CONTROL,), DATA: (DATA,)}


class Claim(NamedTuple):
    """What a client says of a connection, and proves: who connects to whom, what for, and for which ring.

    `sealed`: whether what is said afterwards is proved, too, frame by frame.
    """

    purpose: bytes
    sender: str
    receiver: str
    run: str = ""
    sender_stage: int = NO_STAGE
    receiver_stage: int = NO_STAGE
    sealed: bool = False

    def packed(self) -> bytes:
        """As it goes over the wire; the purpose is in the greeting.

        Raises:
            HandshakeError: a name is too long.
        """
        run, sender, receiver = self.run.encode(), self.sender.encode(), self.receiver.encode()
        if len(run) > 32 or max(len(sender), len(receiver)) > 64:
            raise HandshakeError(f"expected a ring of 32 and names of 64 bytes at most, got {self}")
        return _CLAIM.pack(run, sender, self.sender_stage, receiver, self.receiver_stage, self.sealed)


def _claim_of(purpose: bytes, data: bytes) -> Claim:
    run, sender, sender_stage, receiver, receiver_stage, sealed = _CLAIM.unpack(data)
    names = [field.rstrip(b"\0").decode(errors="replace") for field in (sender, receiver, run)]
    return Claim(purpose, names[0], names[1], names[2], sender_stage, receiver_stage, bool(sealed))


def _greeting(purpose: bytes, version: str) -> bytes:
    return _GREETING.pack(_MAGIC, PROTOCOL, os.urandom(32), purpose, version.encode()[:16])


def _proof(token: bytes, label: bytes, said: bytes) -> bytes:
    return hmac.digest(token, label.ljust(16, b"\0") + said, "sha256")


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


def _seals(token: bytes, said: bytes, client: bool) -> Seals:
    to_server, to_client = (Seal(_proof(token, label, said)) for label in (b"frames to server", b"frames to client"))
    return Seals(to_server, to_client) if client else Seals(to_client, to_server)


def greet(connection: Connection, token: bytes, claim: Claim, version: str = __version__) -> None:
    """The client's side; a connection that is claimed to be sealed has its `seals` from here on.

    Raises:
        HandshakeError: the peer has another version or token.
    """
    deadline = Deadline(limits.HANDSHAKE_S, "handshake")
    theirs = _read_greeting(connection, _ANSWERED_AS[claim.purpose], version, deadline)
    ours = _greeting(claim.purpose, version) + claim.packed()
    said = theirs + ours
    connection.send([ours, _proof(token, b"client", said)], deadline)
    answer = connection.receive(_PROOF_BYTES, deadline)
    if not hmac.compare_digest(answer, _proof(token, b"server", said)):
        raise HandshakeError(f"{connection.peer}: could not prove the run's token: it belongs to another run")
    connection.seals = _seals(token, said, client=True) if claim.sealed else None


def reach(endpoint: Endpoint, peer: str, timeout_s: float, token: bytes, claim: Claim) -> Connection:
    """Connect to a worker and greet it, some times where it closes at once: a crowd of strangers may be there.

    Raises:
        TransportError: it cannot be reached, or was silent.
        HandshakeError: it has another version or token.
    """
    for attempts_left in reversed(range(ATTEMPTS)):
        connection = connect(endpoint, peer, timeout_s)
        try:
            greet(connection, token, claim)
            return connection
        except TransportError as exc:
            connection.close()
            if isinstance(exc, HandshakeError | DeadlineError) or not attempts_left:
                raise
    raise AssertionError("unreachable")


def admit(
    connection: Connection, token: bytes, purposes: tuple[bytes, ...], name: str, version: str = __version__
) -> Claim:
    """The server's side: nothing is answered to a peer that does not know the token, or takes us for another.

    Args:
        purposes: what a peer may come for; the first names the port.
        name: ours.

    Returns:
        What it has proved.

    Raises:
        HandshakeError: the peer has another version or token, or is somebody else's.
    """
    deadline = Deadline(limits.HANDSHAKE_S, "handshake")
    ours = _greeting(purposes[0], version)
    connection.send([ours], deadline)
    theirs = _read_greeting(connection, purposes, version, deadline)
    claimed = connection.receive(_CLAIM.size, deadline)
    proof, said = connection.receive(_PROOF_BYTES, deadline), ours + theirs + claimed
    if not hmac.compare_digest(proof, _proof(token, b"client", said)):
        raise HandshakeError(f"{connection.peer}: could not prove the run's token")
    claim = _claim_of(_GREETING.unpack(theirs)[3].rstrip(b"\0"), claimed)
    if claim.receiver != name:
        raise HandshakeError(f"{connection.peer}: looked for {claim.receiver!r}, reached {name!r}")
    connection.send([_proof(token, b"server", said)], deadline)
    connection.seals = _seals(token, said, client=False) if claim.sealed else None
    return claim
