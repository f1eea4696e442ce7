"""Proof that a frame is what its sender sent: one in the middle can read, drop or delay, but change nothing.

Each direction of a connection has a key of its own, from the handshake, and counts its frames. Each frame has a
one-time key, by keyed BLAKE2b from its number, and ends with a Poly1305 authenticator (RFC 8439, section 2.5) of
its header and content. Of what was measured (`benchmarks/seal_candidates.py`) that costs least.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import NamedTuple

from cryptography.hazmat.primitives.poly1305 import Poly1305

from pplib.errors import ProtocolError

TAG_BYTES = 16


class Seal:
    """One direction of one connection; both ends have the same, and use it once per frame, in order."""

    def __init__(self, key: bytes) -> None:
        self._key, self._count = key, 0

    def begin(self) -> Poly1305:
        """The authenticator of the next frame, to be given the frame's octets."""
        one_time = hashlib.blake2b(self._count.to_bytes(8, "little"), key=self._key, digest_size=32).digest()
        self._count += 1
        return Poly1305(one_time)

    def of(self, parts: Iterable[bytes | memoryview]) -> bytes:
        """The tag of a frame that is all there."""
        tag = self.begin()
        for part in parts:
            tag.update(part)
        return tag.finalize()


class Seals(NamedTuple):
    """Both directions of a connection, seen from one end."""

    sending: Seal
    receiving: Seal


def check_tag(expected: bytes, got: bytes, what: str) -> None:
    """Make sure that a frame is whole.

    Raises:
        ProtocolError: `what` is not as it was sent.
    """
    if not hmac.compare_digest(expected, got):
        raise ProtocolError(f"{what} is not what its sender sent: changed, repeated, left out or put in on its way")
