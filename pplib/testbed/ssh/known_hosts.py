"""The host keys that this user trusts, from known_hosts files; marked lines, which paramiko cannot read, among them."""

from __future__ import annotations

import binascii
import fnmatch
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey

MOST_BYTES = 10_000_000
AUTHORITY, REVOKED = "@cert-authority", "@revoked"


@dataclass(frozen=True)
class Marked:
    """A line that begins with `@cert-authority` or `@revoked`; `key` is the type and the key in base64."""

    marker: str
    names: str
    key: str
    where: str

    def is_for(self, host: str) -> bool:
        """Whether it speaks of a host, given as known_hosts has it: `name`, or `[name]:port`."""
        names = self.names.split(",")
        if any(_matches(name[1:], host) for name in names if name.startswith("!")):
            return False
        return any(_matches(name, host) for name in names if not name.startswith("!"))


def load_known_hosts(client: paramiko.SSHClient, paths: Iterable[Path]) -> list[Marked]:
    """Let `client` know the keys in some files, but those that one of them revokes; what is no key is passed over.

    Returns:
        The marked lines. A file that is not there has none.

    Raises:
        OSError: a file cannot be read, or is no file of keys.
    """
    plain, marked = list[str](), list[Marked]()
    for path in paths:
        if not path.is_file():
            continue
        if (size := path.stat().st_size) > MOST_BYTES:
            raise OSError(f"{path}: expected a file of host keys, at most {MOST_BYTES} bytes, got {size}")
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0].startswith("@"):
                if len(words) >= 4:
                    marked.append(Marked(words[0], words[1], f"{words[2]} {words[3]}", f"{path}, line {number}"))
            elif len(words) >= 3 and _is_key(" ".join(words[:3])):
                plain.append(" ".join(words[:3]))
    revoked = {one.key for one in marked if one.marker == REVOKED}
    with tempfile.NamedTemporaryFile("w", prefix="paretopipe-known-", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in plain if line.partition(" ")[2] not in revoked))
        file.flush()
        client.load_system_host_keys(file.name)
    return marked


def _is_key(line: str) -> bool:
    try:
        return HostKeyEntry.from_line(line) is not None
    except (paramiko.SSHException, InvalidHostKey, ValueError, IndexError, binascii.Error):
        return False


def _matches(pattern: str, host: str) -> bool:
    if pattern.startswith("|1|"):
        try:
            return bool(HostKeys.hash_host(host, pattern) == pattern)
        except (ValueError, IndexError, AssertionError, binascii.Error):
            return False
    # As ssh has it, of wildcards only * and ?; brackets stand around a name with a port.
    return fnmatch.fnmatchcase(host.lower(), pattern.lower().replace("[", "[[]"))
