"""Where the members of an rpc group find each other: torch's store, within reach of as few as can be.

By itself torch listens on all interfaces of the first member, for as long as its process lives, and believes
whoever writes there where a member is to be reached. Here the store is a file where all members are on one
machine, else a socket on one address, which is closed as soon as all have met.
"""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Iterator
from typing import Any

from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import register_rendezvous_handler

from pplib.pipeline.wire.connection import endpoint_of, listen

SCHEME = "paretopipe"
_stores: dict[str, Store] = {}  # those that `init_rpc` has not fetched yet, by the name of their ring


class Meeting:
    """The first member's socket: it listens from here on until `close`.

    Members leave through the store that they met in: whoever has this keeps it until all have.
    """

    def __init__(self, host: str, port: int) -> None:
        sock = listen((host, port), "meeting point of the rpc group")
        self.host: str = sock.getsockname()[0]
        self.port: int = sock.getsockname()[1]
        self._descriptor = sock.detach()
        self._store: Store | None = None

    def store(self, count: int, limit: datetime.timedelta) -> Store:
        """The store that `count` members meet in, on this socket."""
        self._store = TCPStore(
            self.host, self.port, count, is_master=True, timeout=limit, master_listen_fd=self._descriptor
        )
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


def init_method(run: str, place: str, count: int, limit_s: float, own: Meeting | None) -> str:
    """What `rpc.init_rpc` is told, so that it finds the store at `place`.

    Args:
        run: names the ring.
        place: a file, or the address of the first member's `Meeting`.
        count: members.
        limit_s: for each wait.
        own: the meeting point, on the first member, where it is no file.

    Raises:
        RuntimeError: the members did not come in time, or the meeting point cannot be reached.
    """
    limit, endpoint = datetime.timedelta(seconds=limit_s), endpoint_of(place)
    if own is not None:
        _stores[run] = own.store(count, limit)
    elif isinstance(endpoint, str):
        _stores[run] = FileStore(endpoint, count)
    else:
        _stores[run] = TCPStore(*endpoint, count, is_master=False, timeout=limit)
    return f"{SCHEME}://{run}"


def _hand_over(url: str, **_: Any) -> Iterator[tuple[Store, int, int]]:
    """What torch asks for a store; it keeps this iterator, which therefore keeps no store."""
    run, _mark, query = url.removeprefix(f"{SCHEME}://").partition("?")
    said = dict(part.split("=") for part in query.split("&"))
    yield _stores.pop(run.rstrip("/")), int(said["rank"]), int(said["world_size"])


register_rendezvous_handler(SCHEME, _hand_over)  # type: ignore[no-untyped-call]
