"""What ~/.ssh/config says of a device, `Include` followed, which paramiko passes over."""

from __future__ import annotations

import glob
import io
import re
import shlex
import socket
from pathlib import Path

import paramiko

from pplib.devices import Device
from pplib.errors import ConfigError, TransportError

MOST_DEEP = 16  # as ssh has it
_KEYWORD = re.compile(r"^\s*(\w+)(?:\s*=\s*|\s+)(.*?)\s*$")


def ssh_config(device: Device) -> paramiko.SSHConfig:
    """The user's and the system's file, after a paragraph with what the device file says: the first word counts.

    Raises:
        ConfigError: a file cannot be read, or not be understood.
    """
    ours = [("User", device.user), ("Port", device.ssh_port)]
    stanza = "\n".join([f"Host {device.host}", *(f"  {key} {value}" for key, value in ours if value is not None)])
    config = paramiko.SSHConfig()
    config.parse(io.StringIO(stanza + "\n"))
    for name in ("~/.ssh/config", "/etc/ssh/ssh_config"):
        path = Path(name).expanduser()
        if path.is_file():
            try:
                config.parse(io.StringIO(expanded(path, path.parent)))
            except (OSError, ValueError, paramiko.SSHException) as exc:
                raise ConfigError(f"{path}: cannot be read as a configuration of ssh: {exc}") from exc
    return config


def expanded(path: Path, folder: Path, block: str = "Host *", depth: int = 0) -> str:
    """The text of a configuration file with the files of its `Include` lines in their place.

    What an included file says before its own first `Host` belongs to the `block` of the line that includes
    it; its own `Host` paragraphs count by themselves, and the block goes on after it.

    Args:
        path: the file.
        folder: what names of files are relative to: ~/.ssh for the user's.
        block: the `Host` or `Match` line that is open where the file is included.
        depth: how many files include this one.

    Raises:
        ConfigError: files include each other without end.
    """
    if depth > MOST_DEEP:
        raise ConfigError(f"{path}: more than {MOST_DEEP} files include each other")
    lines: list[str] = []
    for line in path.read_text(errors="replace").splitlines():
        word, value = found.groups() if (found := _KEYWORD.match(line)) else ("", "")
        if word.lower() in ("host", "match"):
            block = line.strip()
        if word.lower() != "include":
            lines.append(line)
            continue
        for pattern in shlex.split(value, comments=True):
            for name in sorted(glob.glob(str(folder / Path(pattern).expanduser()))):  # noqa: PTH207 (absolute patterns)
                if Path(name).is_file():
                    lines += [expanded(Path(name), folder, block, depth + 1), block]
    return "\n".join(lines) + "\n"


def host_name(device: Device) -> str:
    """The name or address that SSH connects to: an alias is looked up.

    Raises:
        ConfigError: as for `ssh_config`.
    """
    return str(ssh_config(device).lookup(device.host)["hostname"])


def resolve(device: Device) -> str:
    """The IPv4 address that the other devices send to, as this machine finds it; an alias of ~/.ssh/config is followed.

    Raises:
        TransportError: the name has none.
        ConfigError: ~/.ssh/config cannot be read.
    """
    name = host_name(device) if device.remote and device.data_host is None else device.data_address
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError as exc:
        raise TransportError(
            f"{device.name}: no IPv4 address is known for {name!r} ({exc}): set `data_host` to the address by which "
            "the other devices reach it"
        ) from exc
