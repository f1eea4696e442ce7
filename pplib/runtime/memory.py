"""Lack of memory, in whatever words it is reported, as one error that says where and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pplib.errors import WeightsError, WorkerError

# PyTorch, oneDNN, the kernel and the C++ library each have words of their own.
_SIGNS = ("allocate memory", "out of memory", "bad_alloc", "could not create a memory", "memoryerror")


@contextlib.contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Make lack of memory inside the block a `WorkerError` about `what`; other errors pass as they are.

    >>> with memory_for("stage 1"):  # doctest: +ELLIPSIS
    ...     raise MemoryError
    Traceback (most recent call last):
    pplib.errors.WorkerError: stage 1: out of memory (MemoryError): choose another cut, ...
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError, WeightsError) as exc:
        said = str(exc).strip().partition("\n")[0] or type(exc).__name__
        if not isinstance(exc, MemoryError) and not any(sign in str(exc).lower() for sign in _SIGNS):
            raise
        raise WorkerError(
            f"{what}: out of memory ({said}): choose another cut, lower batch_size or in_flight, or end other "
            "programs on this device"
        ) from exc
