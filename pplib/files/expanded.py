"""Paths as people write them: `~`, `~user`, `$HOME`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pplib.errors import ConfigError


def expanded(path: str | Path) -> Path:
    """A path with `~` and `$NAME` in it, as a shell reads it.

    Raises:
        ConfigError: there is no such user, or the variable is not set.
    """
    text = os.path.expandvars(path)
    if unset := re.search(r"\$(\w+|\{[^}]*\})", text):
        raise ConfigError(f"expected a path, got {str(path)!r}: the variable {unset[0]} is not set")
    try:
        return Path(text).expanduser()
    except RuntimeError as exc:
        raise ConfigError(f"expected a path, got {str(path)!r}: {exc}") from exc
