"""`paretopipe cache` and `paretopipe clean`; the same as `python -m pplib.cache show` and `... empty`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pplib.cache import cache_dir, empty, entries, is_used, leftovers, limit_bytes, scripts
from pplib.errors import ParetoPipeError

_PROGS = {("paretopipe", "show"): "paretopipe cache", ("paretopipe", "empty"): "paretopipe clean"}


def main(arguments: Sequence[str] | None = None, prog: str = "python -m pplib.cache") -> int:
    """Show the cache, or empty it; the exit status is 1 where a device cannot be asked or nothing may be removed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "show")
    parser = argparse.ArgumentParser(prog=prog, description="The weights that are kept here, or on remote devices.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("show", "show what is kept"), ("empty", "say what would be freed, ask, and free it")):
        command = commands.add_parser(name, help=text, description=text, prog=_PROGS.get((prog, name)))
        command.add_argument("--yes", action="store_true", help="do not ask before removing")
        command.add_argument("--devices", type=Path, metavar="FILE", help="on the remote devices of this device file")
    options = parser.parse_args(words)
    try:
        if options.devices:
            from pplib.cache.devices import run_on_devices  # a device has not what reaches others

            return run_on_devices(options.devices, options.command == "empty", options.yes, _ask)
        _write(describe(cache_dir()))
        if options.command == "empty":
            return _empty(options.yes)
    except (ParetoPipeError, OSError) as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


def describe(cache: Path) -> str:
    """The cache in lines: each file with its size and its last use, and the sum against the limit."""
    kept, left = entries(cache), leftovers(cache)
    lines = [f"{cache / 'weights'}"]
    for entry in reversed(kept):
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used_s))
        name = entry.path.stem.strip(".")[:12] + ("" if entry.path.suffix == ".safetensors" else " (in part)")
        lines.append(f"  {name}  {_size(entry.num_bytes)}  used {day}{', now' if is_used(entry.path) else ''}")
    if left:
        lines.append(f"  half written: {len(left)} files, {_size(sum(path.stat().st_size for path in left))}")
    if drawing := scripts(cache):
        lines.append(f"  what draws charts, beside them: {_size(sum(path.stat().st_size for path in drawing))}")
    total = sum(entry.num_bytes for entry in kept)
    return "\n".join([*lines, f"  {len(kept)} files, {_size(total)} of at most {_size(limit_bytes(cache))}"])


def _empty(sure: bool) -> int:
    cache = cache_dir()
    free = [entry for entry in entries(cache) if not is_used(entry.path)]
    size = sum(entry.num_bytes for entry in free) + sum(
        path.stat().st_size for path in (*leftovers(cache), *scripts(cache))
    )
    _write(f"would free {_size(size)}: what is needed again is made or sent again")
    if not size:
        return 0
    if not (sure or _ask("free it?")):
        return 1
    freed, kept = empty(cache)
    _write(f"freed {_size(freed)}" + (f"; {len(kept)} files are in use" if kept else ""))
    return 0


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        _write("nothing is removed: add --yes")
        return False
    sys.stdout.write(f"{question} [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
