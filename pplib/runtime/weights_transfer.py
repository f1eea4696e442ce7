"""Weights on their way to a device: once per content, over the control connection, and resumable."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path

from pplib.errors import WeightsError, WorkerError
from pplib.model.weights import WeightsFile, default_cache_dir, find_weights
from pplib.runtime import messages as m
from pplib.runtime.client import WEIGHTS_S, WorkerClient
from pplib.runtime.connection import Connection, Deadline
from pplib.runtime.pace import fill_steadily

BLOCK_BYTES = 1 << 20


def send_weights(worker: WorkerClient, file: WeightsFile) -> int:
    """Have a device hold these weights; how many bytes were sent, 0 where it has them.

    Raises:
        WorkerError: the device cannot keep them, or they did not arrive as they were sent.
    """
    there = worker.request(m.HaveWeights(sha256=file.sha256), 60)
    if not isinstance(there, m.Done):
        raise WorkerError(f"{worker.name}: answered {type(there).__name__} to a question about its weights")
    if there.value >= file.num_bytes:
        return 0
    return worker.put_weights(file, there.value)


def held_bytes(sha256: str) -> int:
    """How much of these weights is on this device: all of it, or what an earlier transfer left."""
    try:
        return find_weights(sha256).num_bytes
    except WeightsError:
        part = _part(sha256)
        return part.stat().st_size if part.is_file() else 0


def receive_weights(connection: Connection, request: m.PutWeights) -> m.Reply:
    """Receive what is missing of a weights file, check the whole, and keep it; the answer to the sender.

    Nothing is left unread, whatever fails, so that the connection stays in step.
    """
    deadline = Deadline(WEIGHTS_S, "weights")
    part = _part(request.sha256)
    left = request.count
    buffer = memoryview(bytearray(min(BLOCK_BYTES, left)))
    try:
        if part.is_file() and part.stat().st_size != request.offset:
            part.unlink()
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            if file.tell() != request.offset:
                raise OSError("the beginning, sent before, is gone")
            if left > (free := shutil.disk_usage(part.parent).free):
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
        part.replace(part.with_name(f"{request.sha256}.safetensors"))
    except OSError as exc:
        while left:
            fill_steadily(connection, block := buffer[: min(len(buffer), left)], deadline)
            left -= len(block)
        if "No space left" in str(exc):
            with contextlib.suppress(OSError):
                part.unlink()
        return m.Failed(
            kind="WeightsError",
            message=f"weights {request.sha256[:12]}: cannot be kept in {part.parent}: {exc}: make room, or set "
            "PARETOPIPE_CACHE to another folder on this device",
        )
    return m.Done(value=request.count)


def _part(sha256: str) -> Path:
    return default_cache_dir() / "weights" / f".{sha256}.part"
