"""One sweep at a time in a folder of results: a lock that ends with the process that has it, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pplib.errors import OutputError
from pplib.records import not_written, remove_half_written

NAME = ".lock"
VARIABLE = "PARETOPIPE_SWEEP"  # of the environment: the pid of the command that this process belongs to


@contextlib.contextmanager
def sole_sweep(folders: Sequence[Path]) -> Iterator[None]:
    """Hold `folders` for this process, and for the kernels it starts, until the context ends.

    Reading results needs no lock.

    Raises:
        OutputError: another process has one of them, named by its pid; or a folder cannot be written.
    """
    own = str(os.getpid())
    with contextlib.ExitStack() as stack:
        for folder in folders:
            if (file := _take(folder)) is not None:
                stack.callback(os.close, file)  # and with it the lock
                remove_half_written(folder)
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = own
        try:
            yield
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before


def _take(folder: Path) -> int | None:
    """The open lock file; None where the command that started this process has the lock."""
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise not_written(path, exc) from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
    except BlockingIOError as exc:
        holder = os.pread(file, 32, 0).decode(errors="replace")
        os.close(file)
        if holder and holder == os.environ.get(VARIABLE):
            return None
        raise OutputError(
            f"{folder}: another sweep is running there, its pid is {holder or 'not known yet'}: wait until it has "
            "ended, end it, or choose another `name`"
        ) from exc
    except OSError as exc:
        os.close(file)
        raise not_written(path, exc) from exc
    return file
