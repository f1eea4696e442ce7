"""The weights that are kept on a device: one file per content, a limit for all together, nothing half written stays."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pplib import limits
from pplib.errors import ConfigError

MOST_BYTES = 10_000_000_000
SHARE = 5  # and never more than a fifth of the disk: of a small card too
_RESUMABLE = re.compile(r"\.[0-9a-f]{64}\.part")
_used: dict[Path, int] = {}  # descriptors that hold a lock, open until this process ends
_used_lock = threading.Lock()


@dataclass(frozen=True)
class Entry:
    """One file of the cache; `used_s` is when it was used last, in seconds since the epoch."""

    path: Path
    num_bytes: int
    used_s: float


def cache_dir() -> Path:
    """`$PARETOPIPE_CACHE`, or `~/.cache/paretopipe`."""
    return Path(os.environ.get("PARETOPIPE_CACHE") or "~/.cache/paretopipe").expanduser()


def weights_dir(cache: Path | None = None) -> Path:
    """Where the files of weights are, `<sha256>.safetensors` each."""
    return (cache or cache_dir()) / "weights"


def limit_bytes(cache: Path) -> int:
    """How much is kept: `$PARETOPIPE_CACHE_GB`, or `MOST_BYTES`, but no more than a part of the disk.

    Raises:
        ConfigError: the variable holds no number of at least 0.
    """
    said = os.environ.get("PARETOPIPE_CACHE_GB")
    if not said:
        place = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
        return min(MOST_BYTES, shutil.disk_usage(place).total // SHARE)
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", said):
        raise ConfigError(f"PARETOPIPE_CACHE_GB: expected a number of GB, such as 2.5, got {said[:40]!r}")
    return int(float(said) * 1e9)


def entries(cache: Path) -> list[Entry]:
    """What is kept, whole files and the beginnings of transfers that can go on, the least recently used first."""
    found = []
    for path in _files(cache):
        if path.suffix == ".safetensors" or _RESUMABLE.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # another process took it
                status = path.stat()
                found.append(Entry(path, status.st_size, status.st_atime))
    return sorted(found, key=lambda entry: entry.used_s)


@contextlib.contextmanager
def writing(cache: Path, num_bytes: int) -> Iterator[None]:
    """While a file is written into the cache: first, what killed writers left is removed, and room is made.

    Raises:
        OSError: the cache cannot be written, or somebody has locked it for too long.
    """
    weights_dir(cache).mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("ab") as lock:
        with contextlib.suppress(BlockingIOError):  # others write; what they write is not left behind
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in leftovers(cache):
                path.unlink(missing_ok=True)
        _take(lock, fcntl.LOCK_SH)
        make_room(cache, num_bytes)
        yield


def leftovers(cache: Path) -> list[Path]:
    """Files that are no entries: written half by a process that was killed, if none is writing now."""
    return [path for path in _files(cache) if path.name.startswith(".") and not _RESUMABLE.fullmatch(path.name)]


def scripts(cache: Path) -> list[Path]:
    """What draws the charts of reports, one per version; made again when it is missing."""
    return sorted(cache.glob("vega-*.js"))


def make_room(cache: Path, num_bytes: int, free_bytes: int = 0) -> int:
    """Remove the least recently used files until `num_bytes` more are within the limit.

    Args:
        cache: its folder.
        num_bytes: what is to come.
        free_bytes: as much is to be removed at least.

    Returns:
        How many bytes were removed; fewer where the rest is in use.
    """
    kept = entries(cache)
    excess = max(sum(entry.num_bytes for entry in kept) + num_bytes - limit_bytes(cache), free_bytes)
    freed = 0
    for entry in kept:
        if freed < excess and remove_unused(entry.path):
            freed += entry.num_bytes
    return freed


def remove_unused(path: Path) -> bool:
    """Remove a file, unless a running process uses it; whether it is gone."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except OSError:  # in use, or not ours to remove
        return False
    return True


def is_used(path: Path) -> bool:
    """Whether a running process uses a file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def use(path: Path) -> None:
    """Keep a file from being removed for as long as this process lives, and note that it was used now.

    Raises:
        OSError: it is not there (any more), or somebody has locked it for too long.
    """
    with path.open("rb") as file:
        _take(file, fcntl.LOCK_SH)
        held, there = os.fstat(file.fileno()), path.stat()
        if held.st_ino != there.st_ino:  # it was replaced just now
            raise FileNotFoundError(f"{path}: was replaced")
        with contextlib.suppress(PermissionError):  # another user's
            os.utime(path, ns=(time.time_ns(), there.st_mtime_ns))  # the content is as it was
        held_open = os.dup(file.fileno())  # has the lock, too
    with _used_lock:
        before = _used.get(path)
        _used[path] = held_open
    if before is not None:
        os.close(before)


def sync(path: Path) -> None:
    """Return when the disk has the content of a file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put(temporary: Path, path: Path) -> None:
    """Give a written file its place, so that after a crash the whole of it is there, or nothing."""
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def empty(cache: Path) -> tuple[int, list[Entry]]:
    """Remove what no running process uses.

    Returns:
        How many bytes were removed, and what is in use.

    Raises:
        OSError: it cannot be removed, or somebody is writing for too long.
    """
    freed = 0
    for script in scripts(cache):
        freed += script.stat().st_size
        script.unlink()
    if not weights_dir(cache).is_dir():
        return freed, []
    with (cache / ".lock").open("ab") as lock:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in leftovers(cache):
                freed += path.stat().st_size
                path.unlink()
        kept = []
        for entry in entries(cache):
            if remove_unused(entry.path):
                freed += entry.num_bytes
            else:
                kept.append(entry)
        return freed, kept


def _files(cache: Path) -> list[Path]:
    folder = weights_dir(cache)
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _take(file: IO[bytes], kind: int) -> None:
    end = time.monotonic() + limits.CACHE_LOCK_S
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise OSError(f"{file.name}: another process has locked it for {limits.CACHE_LOCK_S:.0f} s") from None
            time.sleep(limits.CACHE_POLL_S)
