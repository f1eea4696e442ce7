"""Text for others: paths of this machine as they mean something elsewhere, `~/x` or relative to the checkout."""

from __future__ import annotations

import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pplib import ROOT

# What a path begins after, also an escape in JSON or a colour, but not inside a picture's base64; and where it ends.
_BEFORE, _AFTER = re.compile(r"(^|[^\w+/.~$-]|\\[nrt]|\[[0-9;]*m)\Z"), r"(?![\w-]|\.\w)"


def without_own_paths(text: str, output_dir: str | Path = "") -> str:
    """Replace the checkout's folder and the present one by nothing, the user's home by `~`, that of temporary files
    by `$TMPDIR`, and of `output_dir`, if it is somewhere else, keep the name alone.

    >>> without_own_paths(f"{Path.home()}/best.pth: no such file")
    '~/best.pth: no such file'
    """
    for place, instead in _places(Path(output_dir)):
        if place in text:
            found = re.escape(place)
            ends = f"{found}{_AFTER}" if instead else rf"{found}/(?=[\w.~$-])|{found}{_AFTER}"
            text = re.sub(ends, partial(_instead, new=instead), text)
    return text


def _instead(path: re.Match[str], new: str) -> str:
    if not _BEFORE.search(path.string[max(path.start() - 16, 0) : path.start()]):
        return path[0]  # the end of another word
    return new or ("" if path[0].endswith("/") else ".")


def shown_values(values: Any) -> Any:
    """Plain values with the paths in their text replaced."""
    return msgspec.json.decode(without_own_paths(msgspec.json.encode(values).decode()))


def _places(output_dir: Path) -> list[tuple[str, str]]:
    """Folders of this machine and what stands for them, inner ones first."""
    root, home, here = ROOT, Path.home(), Path.cwd()
    places = [(root, ""), (home, "~"), (Path(tempfile.gettempdir()), "$TMPDIR")]
    places += [] if here.is_relative_to(root) or here == home else [(here, "")]
    if output_dir.is_absolute() and not any(output_dir.is_relative_to(place) for place, _ in places):
        places.append((output_dir, output_dir.name))
    known: dict[str, str] = {}
    for place, instead in places:
        for one in (place, place.resolve()):
            if one != Path(one.anchor):
                known.setdefault(str(one), instead)
    return sorted(known.items(), key=lambda one: -len(one[0]))
