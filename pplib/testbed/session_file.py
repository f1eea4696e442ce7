"""The file that tells the processes below a session where its workers are; readable by its user only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pplib.devices import Testbed
from pplib.errors import ConfigError
from pplib.links import LinkProfile
from pplib.records import write_atomic

VARIABLE = "PARETOPIPE_SESSION"  # of the environment: the path of the file


class Address(msgspec.Struct, frozen=True):
    """Where one worker is."""

    name: str
    control: str
    log: str


class SessionFile(msgspec.Struct, frozen=True):
    """What a process needs to use the workers of its parent, and how the link is shaped now.

    `one_machine`: all devices are on this one, and see the session's folder.
    """

    testbed: str
    token: str
    backends: list[str]
    workers: list[Address]
    ready_timeout_s: float
    engine: str
    tunnel: str
    link: LinkProfile
    one_machine: bool

    def write(self, path: Path) -> None:
        """Put it where the processes below this one find it.

        Raises:
            OutputError: it cannot be written.
        """
        write_atomic(path, msgspec.json.encode(self), mode=0o600)


def digest(testbed: Testbed) -> str:
    """What tells one device file from another."""
    return hashlib.sha256(msgspec.json.encode(testbed)).hexdigest()


def read_session(path: Path, testbed: Testbed, backends: Sequence[str]) -> SessionFile:
    """The surrounding session, if it has these devices and these backends.

    Raises:
        ConfigError: it has not, or there is none.
    """
    own = "unset the variable to start workers of your own"
    try:
        session = msgspec.json.decode(path.read_bytes(), type=SessionFile)
    except (OSError, msgspec.DecodeError) as exc:
        raise ConfigError(f"{VARIABLE}={path}: no session there ({exc}): {own}") from exc
    if session.testbed != digest(testbed) or not set(backends) <= set(session.backends):
        raise ConfigError(
            f"{VARIABLE}={path}: that session has other devices, or lacks one of {', '.join(backends)}: {own}"
        )
    return session
