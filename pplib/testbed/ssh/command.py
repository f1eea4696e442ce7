"""What is sent to a device: the shell text around a command, and the bytes of a file."""

from __future__ import annotations

import hashlib
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pplib.errors import TransportError

PIECE_BYTES = 1 << 18

# What a start-up file of the login shell says comes before the mark, on both streams. The shell that marks tells by
# its exit status that a signal ended the command; the server's own word for it does not reach us.
MARKED = 'printf %s "$1"; printf %s "$1" >&2; limit=$2; shift 2; timeout -k 2 "$limit" "$@"; exit $?'
HELD = 'printf %s "$1"; printf %s "$1" >&2; shift; exec "$@"'

# A login that is no login shell finds neither tc nor ip on Debian.
RUN = 'PATH="$PATH:/usr/sbin:/sbin"; export PATH; exec "$@"'
AS_ROOT = (
    'PATH="$PATH:/usr/sbin:/sbin"; export PATH; [ "$(id -u)" -eq 0 ] && exec "$@"; '
    'command -v sudo >/dev/null || { echo "neither root nor sudo" >&2; exit 126; }; exec sudo -n -- "$@"'
)
PUT = r"""set -e; umask 077
mkdir -p -- "$(dirname -- "$1")"
part=$1.part.$$
trap 'rm -f -- "$part"' EXIT
trap 'exit 1' HUP INT TERM
cat > "$part"
got=$(wc -c < "$part")
[ "$got" -eq "$2" ] || { echo "$got of $2 bytes arrived" >&2; exit 1; }
set -- "$1" "$2" "$3" "$4" $(sha256sum < "$part")
[ "$5" = "$3" ] || { echo "it arrived changed: SHA-256 $5, expected $3" >&2; exit 1; }
chmod "$4" "$part"
sync "$part"
mv -f -- "$part" "$1"
"""


def new_mark() -> str:
    """What no start-up file says."""
    return f"<paretopipe-{secrets.token_hex(8)}>"


def shell_path(path: str) -> str:
    """A path on a device as a word of its shell, where `~/` is the user's home.

    >>> shell_path("~/my code"), shell_path("/opt/venv")
    ('"$HOME"/\\'my code\\'', '/opt/venv')
    """
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def pieces(source: Path | bytes) -> Iterator[bytes]:
    """The content of a file, or bytes, piece by piece."""
    if isinstance(source, bytes):  # paramiko copies what is left of a piece after each packet: pieces stay small
        yield from (source[at : at + PIECE_BYTES] for at in range(0, len(source), PIECE_BYTES))
        return
    with source.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def size_and_digest(source: Path | bytes) -> tuple[int, str]:
    """Its size in bytes and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces(source):
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()


class Completed(msgspec.Struct, frozen=True):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class CommandError(TransportError):
    """A command ended badly, took too long, or said too much."""
