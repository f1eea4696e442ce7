"""A session: the workers of one device file, up for as long as it lasts.

The first process that opens a session starts the workers. It names a session file, readable by its
user only, in the environment; processes below it (the kernel of an executed notebook) find the file
and use the same workers instead of starting their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from pplib.devices import Testbed
from pplib.environment import load_environment
from pplib.errors import ConfigError
from pplib.runtime.client import WorkerClient
from pplib.runtime.coordinator import Coordinator
from pplib.testbed.local import local_workers, log_tail

VARIABLE = "PARETOPIPE_SESSION"


class Address(msgspec.Struct, frozen=True):
    """Where one worker is."""

    name: str
    host: str
    control_port: int
    log: str


class SessionFile(msgspec.Struct, frozen=True):
    """What a process needs to use the workers of its parent."""

    testbed: str
    token: str
    backends: list[str]
    workers: list[Address]


def _digest(testbed: Testbed) -> str:
    return hashlib.sha256(msgspec.json.encode(testbed)).hexdigest()


@contextlib.contextmanager
def workers_up(testbed: Testbed, backends: Sequence[str]) -> Iterator[SessionFile]:
    """Have the workers of `testbed` running: those of the surrounding session, or new ones.

    Raises:
        WorkerError: a worker did not start.
        ConfigError: the surrounding session is of another device file or lacks a backend.
    """
    inherited = os.environ.get(VARIABLE)
    if inherited:
        yield _inherit(Path(inherited), testbed, backends)
        return
    token = secrets.token_bytes(32)
    with local_workers(testbed, token, backends) as started:
        session = SessionFile(
            testbed=_digest(testbed),
            token=token.hex(),
            backends=list(backends),
            workers=[
                Address(ready.name, worker.device.host, ready.control_port, str(worker.log))
                for worker, ready in started
            ],
        )
        handle, name = tempfile.mkstemp(prefix="paretopipe-session-")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(session))
            os.environ[VARIABLE] = name
            yield session
        finally:
            os.environ.pop(VARIABLE, None)
            Path(name).unlink(missing_ok=True)


def _inherit(path: Path, testbed: Testbed, backends: Sequence[str]) -> SessionFile:
    try:
        session = msgspec.json.decode(path.read_bytes(), type=SessionFile)
    except (OSError, msgspec.DecodeError) as exc:
        raise ConfigError(f"{VARIABLE}={path}: no session there ({exc}): unset the variable") from exc
    if session.testbed != _digest(testbed) or not set(backends) <= set(session.backends):
        raise ConfigError(
            f"{VARIABLE}={path}: that session has other devices, or lacks one of {', '.join(backends)}: "
            "unset the variable to start workers of your own"
        )
    return session


@contextlib.contextmanager
def open_pipeline(testbed: Testbed, num_stages: int, backends: Sequence[str]) -> Iterator[Coordinator]:
    """The coordinator of a pipeline over the first `num_stages` devices.

    Raises:
        ConfigError: fewer devices than stages.
        WorkerError: a worker did not start or cannot be reached.
    """
    environment = load_environment()
    with workers_up(testbed, backends) as session, contextlib.ExitStack() as stack:
        clients = []
        for address in session.workers[: len(testbed.first(num_stages))]:
            client = WorkerClient(
                address.name,
                address.host,
                address.control_port,
                bytes.fromhex(session.token),
                autopsy=lambda log=address.log: log_tail(Path(log)),  # type: ignore[misc]
            )
            stack.callback(client.close)
            clients.append(client)
        with Coordinator(clients, (environment.master_addr, environment.master_port)) as coordinator:
            yield coordinator
