"""Lack of memory, in whatever words it is reported, as one error that says where and what to do."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

import psutil

from pplib.errors import NoRoomError, WeightsError

# PyTorch, oneDNN, the kernel and the C++ library each have words of their own.
NONE_LEFT = 71  # the exit status of a worker that has no memory left to go on with
_ENOUGH_BYTES = 16 << 20  # for messages and the stacks of threads, without which a worker is none
_SIGNS = (
    *("allocate memory", "out of memory", "bad_alloc", "could not create a memory", "memoryerror"),
    "failed to map segment",  # a library that is loaded only now
)


@contextlib.contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Make lack of memory inside the block a `NoRoomError` about `what`; other errors pass as they are.

    >>> with memory_for("stage 1"):  # doctest: +ELLIPSIS
    ...     raise MemoryError
    Traceback (most recent call last):
    pplib.errors.NoRoomError: stage 1: out of memory (MemoryError): choose another cut, ...
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, ImportError, WeightsError) as exc:
        said = str(exc).strip().partition("\n")[0] or type(exc).__name__
        if not isinstance(exc, MemoryError) and not any(sign in str(exc).lower() for sign in _SIGNS):
            raise
        raise NoRoomError(
            f"{what}: out of memory ({said}): choose another cut, lower batch_size or in_flight, or end other "
            "programs on this device"
        ) from exc


def check_room(num_bytes: int, what: str) -> None:
    """Make sure that this machine has memory for so many bytes, before the kernel ends who takes more.

    Args:
        num_bytes: of weights.
        what: holds them.

    Raises:
        NoRoomError: it has not, swap included.
    """
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    if num_bytes > free:
        raise NoRoomError(
            f"{what}: its weights take {num_bytes / 1e6:.0f} MB, and {free / 1e6:.0f} MB of memory are free: choose "
            "another cut or a smaller `precision`, or end other programs on this device"
        )


def memory_left() -> bool:
    """Whether this process gets enough memory to go on: a limit on all of it may have been reached for good."""
    try:
        mmap.mmap(-1, _ENOUGH_BYTES).close()  # new memory, as the stack of a thread is, not some that was freed
    except (MemoryError, OSError):
        return False
    return True


def end_without_memory(what: str) -> None:
    """End this process if it has no memory left.

    Args:
        what: could not be done, for the log.
    """
    if not memory_left():
        end(what)


def end(what: str) -> NoReturn:
    """End this process, which had no memory left: whoever looks after this worker starts a new one."""
    sys.stderr.write(f"{what}: out of memory, and none is left: this worker ends\n")
    sys.stderr.flush()
    os._exit(NONE_LEFT)
