"""A session: the workers of one device file and the link between them, up for as long as it lasts.

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
from pplib.links import UNSHAPED, LinkProfile
from pplib.records import write_atomic
from pplib.runtime.client import WorkerClient
from pplib.runtime.connection import endpoint_of
from pplib.runtime.coordinator import Coordinator
from pplib.testbed.local import local_workers, log_tail
from pplib.testbed.namespaces import Namespaces, namespaces

VARIABLE = "PARETOPIPE_SESSION"


class Address(msgspec.Struct, frozen=True):
    """Where one worker is."""

    name: str
    control: str
    log: str


class SessionFile(msgspec.Struct, frozen=True):
    """What a process needs to use the workers of its parent, and how the link is shaped now."""

    testbed: str
    token: str
    backends: list[str]
    workers: list[Address]
    engine: str
    link: LinkProfile


class Session:
    """Workers that are up. `engine` is what shapes the link between them: none, tc or userspace."""

    def __init__(self, told: SessionFile, path: Path, net: Namespaces | None, inherited: bool) -> None:
        self.told, self._path, self._net, self._inherited = told, path, net, inherited

    @property
    def engine(self) -> str:
        """What shapes the link: "none", "tc" or "userspace"."""
        return self.told.engine

    def set_link(self, profile: LinkProfile) -> None:
        """Have every hop be as `profile` says, from now on.

        Raises:
            ConfigError: the engine cannot; or the session belongs to another process, which shapes
                its link otherwise.
        """
        if profile == self.told.link:
            return
        if self._inherited:
            raise ConfigError(
                f"{VARIABLE}={self._path}: the link of that session is {self.told.link.name}, expected {profile.name}: "
                "unset the variable to start workers of your own"
            )
        if self._net is not None:
            self._net.set_profile(profile)
        elif profile.shaped:
            raise ConfigError(f"link {profile.name}: the workers of this session are on plain localhost")
        self.told = msgspec.structs.replace(self.told, link=profile)
        write_atomic(self._path, msgspec.json.encode(self.told), mode=0o600)


def _digest(testbed: Testbed) -> str:
    return hashlib.sha256(msgspec.json.encode(testbed)).hexdigest()


@contextlib.contextmanager
def workers_up(testbed: Testbed, backends: Sequence[str], shaped: bool = False) -> Iterator[Session]:
    """Have the workers of `testbed` running: those of the surrounding session, or new ones.

    Args:
        testbed: one worker per device.
        backends: what they must offer.
        shaped: whether the link between them is to be shaped; each device then has a network of its own.

    Raises:
        WorkerError: a worker did not start.
        ConfigError: the surrounding session is of another device file or lacks a backend; or this
            machine cannot emulate links.
    """
    inherited = os.environ.get(VARIABLE)
    if inherited:
        yield Session(_inherit(Path(inherited), testbed, backends), Path(inherited), None, True)
        return
    token = secrets.token_bytes(32)
    with contextlib.ExitStack() as stack:
        net = None
        if shaped:
            net = stack.enter_context(namespaces(len(testbed.devices), engine=testbed.link_engine))
        started = stack.enter_context(local_workers(testbed, token, backends, net))
        told = SessionFile(
            testbed=_digest(testbed),
            token=token.hex(),
            backends=list(backends),
            workers=[Address(ready.name, ready.control, str(worker.log)) for worker, ready in started],
            engine=net.engine if net else "none",
            link=UNSHAPED,
        )
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="paretopipe-session-"))  # mode 0700
        path = Path(folder) / "session.json"
        write_atomic(path, msgspec.json.encode(told), mode=0o600)
        os.environ[VARIABLE] = str(path)
        stack.callback(os.environ.pop, VARIABLE, None)
        yield Session(told, path, net, False)


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
def open_pipeline(
    testbed: Testbed, num_stages: int, backends: Sequence[str], link: LinkProfile = UNSHAPED
) -> Iterator[tuple[Coordinator, Session]]:
    """The coordinator of a pipeline over the first `num_stages` devices, and the session it belongs to.

    Raises:
        ConfigError: fewer devices than stages, or a link that cannot be had here.
        WorkerError: a worker did not start or cannot be reached.
    """
    environment = load_environment()
    count = len(testbed.first(num_stages))
    with workers_up(testbed, backends, link.shaped) as session, contextlib.ExitStack() as stack:
        session.set_link(link)
        clients = []
        for address in session.told.workers[:count]:
            client = WorkerClient(
                address.name,
                endpoint_of(address.control),
                bytes.fromhex(session.told.token),
                autopsy=lambda log=address.log: log_tail(Path(log)),  # type: ignore[misc]
            )
            stack.callback(client.close)
            clients.append(client)
        # An address of this machine means nothing inside an emulated network.
        master = environment.master_addr if session.engine == "none" else None
        with Coordinator(clients, (master, environment.master_port)) as coordinator:
            yield coordinator, session
