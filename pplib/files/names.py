"""Names that become part of a path: one component, of characters that every file system and terminal takes."""

from __future__ import annotations

import os
import unicodedata

from pplib.errors import ConfigError

LONGEST_NAME = 255  # bytes of a file's name, everywhere
LONGEST_PATH = 4095
_NOT_IN_NAMES = '/\\:*?"<>|'  # separators, and what FAT and NTFS (a USB stick) do not take
_JOINERS = "\u200c\u200d"  # invisible, but scripts need them


def check_name(what: str, name: str) -> None:
    """Make sure that `name` can be a file's or folder's: letters of any script, digits, marks and spaces.

    Args:
        what: opens the error, such as `name`.
        name: to be checked.

    Raises:
        ConfigError: it is empty, `.` or `..`, hidden (a dot first), ends in a dot or a space, is too long, or
            has a character that separates paths, controls a terminal, or cannot be seen.

    >>> check_name("name", "Büro 2, 実験")
    >>> check_name("name", "..")
    Traceback (most recent call last):
    pplib.errors.ConfigError: name: expected a plain folder name, got '..'
    """
    bad = sorted({one for one in name if _is_unsafe(one)})
    if bad:
        raise ConfigError(
            f"{what}: expected a plain folder name, got {name[:80]!r}: {', '.join(map(repr, bad[:4]))} cannot be in one"
        )
    if not name or name != name.strip() or name.startswith(".") or name.endswith("."):
        raise ConfigError(f"{what}: expected a plain folder name, got {name[:80]!r}")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise ConfigError(
            f"{what}: expected a folder name of at most {LONGEST_NAME} bytes, got {len(os.fsencode(name))}: "
            f"{name[:40]!r}..."
        )


def check_path(what: str, path: str) -> None:
    """Make sure that a file system can be asked for `path`, whatever it is called.

    Raises:
        ConfigError: it, or a part of it, is longer than any path can be.
    """
    longest = max(len(os.fsencode(part)) for part in path.split("/"))
    if longest > LONGEST_NAME or len(os.fsencode(path)) > LONGEST_PATH:
        raise ConfigError(
            f"{what}: expected at most {LONGEST_PATH} bytes, and {LONGEST_NAME} between slashes, got "
            f"{len(os.fsencode(path))}, and {longest}: {path[:40]!r}..."
        )


def _is_unsafe(character: str) -> bool:
    if character in _NOT_IN_NAMES:
        return True
    kind = unicodedata.category(character)
    return (kind[0] == "C" and character not in _JOINERS) or kind in ("Zl", "Zp") or (kind == "Zs" and character != " ")
