"""Profiles on disk, by what determines them: used again where that is the same, and refused where a device changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pplib.errors import OutputError
from pplib.records import write_atomic

SCHEMA_VERSION = 1


class Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every profile has.

    Attributes:
        name: of the device, or of both ends of a hop.
        asked: what was to be measured, as the user's files say it: another one is another profile.
        found: what it was measured on, as the devices told: where that differs, a device is no longer what it was.
        began: wall clock, ISO 8601.
        took_s: how long measuring took.
        notes: what disturbed it.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    asked: dict[str, Any]
    found: dict[str, Any]
    began: str
    took_s: float
    notes: list[str] = []


P = TypeVar("P", bound=Kept)


def profile_path(folder: Path, name: str, asked: dict[str, Any], found: dict[str, Any]) -> Path:
    """Where a profile is: its name, and the hash of what determines it."""
    return folder / f"{_stem(name, asked)}-{_hash(found)}.json"


def find_profile(folder: Path, kind: type[P], name: str, asked: dict[str, Any], found: dict[str, Any]) -> P | None:
    """The profile that fits; None where there is none of this yet.

    Args:
        folder: of profiles; need not exist.
        kind: of profile.
        name, asked, found: see `Kept`.

    Raises:
        OutputError: there is only one of the same devices as they were before, the difference is named; or a file
            that cannot be read, which is left alone.
    """
    path = profile_path(folder, name, asked, found)
    if path.exists():
        return read_profile(path, kind)
    for other in sorted(folder.glob(f"{_stem(name, asked)}-*.json")):
        before = read_profile(other, kind).found
        keys = [key for key in {**before, **found} if before.get(key) != found.get(key)]
        changes = "; ".join(f"{key}: {before.get(key)!r} there, {found.get(key)!r} now" for key in keys)
        raise OutputError(
            f"{other}: a profile of {name} as it is no longer: {changes}: `--fresh` measures again, and keeps this one"
        )
    return None


def read_profile(path: Path, kind: type[P]) -> P:
    """Read one profile.

    Raises:
        OutputError: unreadable, damaged, or of another schema version; the file is left alone.
    """
    try:
        profile = msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise OutputError(f"{path}: not a profile: {exc}: move it away, and it is measured again") from exc
    if profile.schema_version != SCHEMA_VERSION:
        raise OutputError(
            f"{path}: schema version {profile.schema_version}, expected {SCHEMA_VERSION}: read it with the version "
            "that wrote it, or move it away"
        )
    return profile


def keep_profile(folder: Path, profile: Kept) -> Path:
    """Write a profile, whole or not at all, in place of an older one of the same; where it is.

    Raises:
        OutputError: it cannot be written; or what is there is no profile, and may be worth something.
    """
    path = profile_path(folder, profile.name, profile.asked, profile.found)
    if path.exists():
        read_profile(path, type(profile))
    write_atomic(path, msgspec.json.format(msgspec.json.encode(profile), indent=1))
    return path


def _stem(name: str, asked: dict[str, Any]) -> str:
    return f"{name}-{_hash(asked)}"


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:12]
