"""Weights on their way to a device: once per content, over the control connection, and resumable."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
from pathlib import Path
from typing import IO

from pplib import limits
from pplib.cache import cache_dir, make_room, put, use, weights_dir, writing
from pplib.errors import ConfigError, WeightsError
from pplib.model.weights.stored import verified_weights
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Connection, Deadline
from pplib.pipeline.wire.slow_peers import fill_steadily

BLOCK_BYTES = 1 << 20


def held_bytes(sha256: str, num_bytes: int) -> int:
    """How much of these weights is on this device: all of it, or what an earlier transfer left.

    A whole file is read and checked, unless this process did that already, and is kept for as long as the
    process lives; a damaged one is removed, and counts as nothing. So does what another worker of this device
    is receiving now: it may never be whole.
    """
    try:
        file = verified_weights(sha256)
        use(file.path)
        return file.num_bytes
    except (WeightsError, OSError):
        part = _part(sha256)
    try:
        with part.open("rb") as beginning:
            fcntl.flock(beginning, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(part)  # it is needed: others make room first
            size = part.stat().st_size
            return size if size < num_bytes else 0  # all of it would have its place already
    except OSError:  # there is none, or it is another's
        return 0


def receive_weights(connection: Connection, request: m.PutWeights) -> m.Reply:
    """Receive what is missing of a weights file, check the whole, and keep it; the answer to the sender.

    Nothing is left unread, whatever fails, so that the connection stays in step. Several workers of one
    device may receive the same at the same time: one into the file that a later transfer goes on with,
    the others each into one of its own.
    """
    deadline = Deadline(limits.WEIGHTS_S, "weights")
    try:
        with writing(cache_dir(), request.count):
            reply = _receive_claimed(connection, request, deadline)
            if isinstance(reply, m.Done):
                use(_place(request.sha256))
            return reply
    except (OSError, ConfigError) as exc:
        return _refused(connection, request, request.count, exc, deadline)


def _receive_claimed(connection: Connection, request: m.PutWeights, deadline: Deadline) -> m.Reply:
    part, lock = _claim(request)
    try:
        return _receive(connection, request, part, deadline)
    finally:
        if lock is not None:
            lock.close()
        else:
            with contextlib.suppress(OSError):
                part.unlink()


def _claim(request: m.PutWeights) -> tuple[Path, IO[bytes] | None]:
    """The file to receive into, and the lock that makes it ours; without one it is for this transfer only."""
    part = _part(request.sha256)
    own = part.with_name(f".{request.sha256}.{os.getpid()}-{threading.get_ident()}.part")
    # Where nothing can be written, receiving tells it.
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        part.parent.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(part.open("ab"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if part.stat().st_ino == os.fstat(lock.fileno()).st_ino:  # else it was made whole just now
            stack.pop_all()
            return part, lock
    with contextlib.suppress(OSError), part.open("rb") as beginning, own.open("wb") as file:
        while (left := request.offset - file.tell()) and (block := beginning.read(min(BLOCK_BYTES, left))):
            file.write(block)
    return own, None


def _receive(connection: Connection, request: m.PutWeights, part: Path, deadline: Deadline) -> m.Reply:
    left = request.count
    buffer = memoryview(bytearray(min(BLOCK_BYTES, left)))
    try:
        if part.is_file() and part.stat().st_size != request.offset:
            os.truncate(part, 0)
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            if file.tell() != request.offset:
                raise OSError("the beginning, sent before, is gone")
            free = shutil.disk_usage(part.parent).free
            if left > free:
                free += make_room(cache_dir(), left, left - free)
            if left > free:
                raise OSError(f"No space left on device: {free} bytes are free, {left} are to come")
            while left:
                fill_steadily(connection, block := buffer[: min(len(buffer), left)], deadline)
                left -= len(block)
                file.write(block)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != request.sha256:
            part.unlink()
            raise OSError(f"they arrived with the hash {found[:12]}")
        put(part, _place(request.sha256))
    except OSError as exc:
        if "No space left" in str(exc):
            with contextlib.suppress(OSError):
                part.unlink()
        return _refused(connection, request, left, exc, deadline)
    return m.Done(value=request.count)


def _refused(
    connection: Connection, request: m.PutWeights, left: int, exc: OSError | ConfigError, deadline: Deadline
) -> m.Reply:
    """Read what is to come all the same, and say what is wrong."""
    buffer = memoryview(bytearray(min(BLOCK_BYTES, left)))
    while left:
        fill_steadily(connection, block := buffer[: min(len(buffer), left)], deadline)
        left -= len(block)
    return m.Failed(
        kind="WeightsError",
        message=f"weights {request.sha256[:12]}: cannot be kept in {weights_dir()}: {exc}: make room, or set "
        "PARETOPIPE_CACHE to another folder on this device",
    )


def _place(sha256: str) -> Path:
    return weights_dir() / f"{sha256}.safetensors"


def _part(sha256: str) -> Path:
    return weights_dir() / f".{sha256}.part"
