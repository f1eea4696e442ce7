"""Where the members of an rpc or gloo group find each other: torch's store, within reach of as few as can be.

By itself torch listens on all interfaces of the first member, for as long as its process lives, and believes
whoever writes there where a member is to be reached. Here the store is a file where all members are on one
machine, else a socket on one address, which is closed as soon as all have met.
"""

from __future__ import annotations

import datetime
import os
import socket

from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]

from pplib.pipeline.wire.connection import endpoint_of, listen


class Meeting:
    """The first member's socket: it listens from here on until `close`.

    Members leave through the store that they met in: whoever has this keeps it until all have.
    """

    def __init__(self, host: str, port: int) -> None:
        sock = listen((host, port), "meeting point of the group")
        self.host: str = sock.getsockname()[0]
        self.port: int = sock.getsockname()[1]
        self._descriptor = sock.detach()
        self._store: Store | None = None

    def store(self, count: int, limit: datetime.timedelta) -> Store:
        """The store that `count` members meet in, on this socket."""
        descriptor, self._descriptor = self._descriptor, -1  # where the store fails, it has closed that
        self._store = TCPStore(self.host, self.port, count, is_master=True, timeout=limit, master_listen_fd=descriptor)
        self._descriptor = descriptor
        return self._store

    def close(self) -> None:
        """Listen no more; who has come stays connected."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        if self._store is None:
            os.close(descriptor)
            return
        # The store keeps the descriptor, and closes it in the end; from now on it names a socket that nobody reaches.
        with socket.socket() as unbound:
            os.dup2(unbound.fileno(), descriptor, inheritable=False)


def store_at(place: str, count: int, limit_s: float, own: Meeting | None) -> Store:
    """The store at `place`.

    Args:
        place: a file, or the address of the first member's `Meeting`.
        count: members.
        limit_s: for each wait.
        own: the meeting point, on the first member, where it is no file.

    Raises:
        RuntimeError: the members did not come in time, or the meeting point cannot be reached.
    """
    limit, endpoint = datetime.timedelta(seconds=limit_s), endpoint_of(place)
    if own is not None:
        return own.store(count, limit)
    if isinstance(endpoint, str):
        return FileStore(endpoint, count)
    return TCPStore(*endpoint, count, is_master=False, timeout=limit)
