"""Files of weights, one per content, kept by hash; what is in them is read elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from pplib.cache import weights_dir
from pplib.errors import WeightsError


@dataclass(frozen=True)
class WeightsFile:
    """A model's tensors on disk. `sha256` is the hash of the file's content, and its name."""

    path: Path
    sha256: str
    num_bytes: int


def find_weights(sha256: str, cache_dir: Path | None = None) -> WeightsFile:
    """The weights with this hash in this device's cache.

    Raises:
        WeightsError: not there; says where it looked.
    """
    path = weights_dir(cache_dir) / f"{sha256}.safetensors"
    try:
        return WeightsFile(path, sha256, path.stat().st_size)
    except OSError as exc:
        raise WeightsError(
            f"weights {sha256[:12]}: not on this device: looked for {path}; send them to it, or set PARETOPIPE_CACHE "
            "to the folder that holds them"
        ) from exc


def verified_weights(sha256: str, cache_dir: Path | None = None) -> WeightsFile:
    """The weights with this hash in this device's cache, whose content has that hash.

    Raises:
        WeightsError: as `find_weights` and `verify_weights`.
    """
    file = find_weights(sha256, cache_dir)
    verify_weights(file)
    return file


_verified: set[tuple[str, str, int, int]] = set()


def verify_weights(file: WeightsFile) -> None:
    """Make sure that a file's content has the hash it is known by; an unchanged file is read once per process.

    Raises:
        WeightsError: missing, or the content has another hash; then the file is removed.
    """
    try:
        status = file.path.stat()
        key = (str(file.path), file.sha256, status.st_size, status.st_mtime_ns)
        if key in _verified:
            return
        found = digest_of(file.path)
    except OSError as exc:
        raise WeightsError(f"{file.path}: cannot be read: {exc}") from exc
    if found != file.sha256:
        with contextlib.suppress(OSError):  # what cannot be removed is replaced
            file.path.unlink()
        raise WeightsError(
            f"{file.path}: the content has the hash {found[:12]}, expected {file.sha256[:12]}: the file was damaged, "
            "and is removed: start again, and it is made anew"
        )
    _verified.add(key)


def is_intact(file: WeightsFile) -> bool:
    """Whether a file is there with the content it is known by; a damaged one is removed."""
    try:
        verify_weights(file)
    except WeightsError:
        return False
    return True


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
