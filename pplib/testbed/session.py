"""A session: the workers of one device file and the link between them, up for as long as it lasts.

The first process that opens a session starts the workers. It names a session file, readable by its
user only, in the environment; whatever is run inside it, also in processes below it (the kernel of an
executed notebook), finds the file and uses the same workers instead of starting its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from pplib import limits
from pplib.config import PASSWORDLESS
from pplib.devices import Testbed, assign_cores
from pplib.environment import load_environment
from pplib.errors import ConfigError, HandshakeError, ParetoPipeError, TransportError, WorkerError
from pplib.files.own_folder import own_folder
from pplib.links import UNSHAPED, LinkProfile
from pplib.pipeline.coordinator.client import WorkerClient, WorkerFailed
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.wire.connection import endpoint_of
from pplib.pipeline.wire.messages import Stop
from pplib.testbed.emulation.namespaces import Namespaces, namespaces, no_private_network, private_network
from pplib.testbed.session_file import VARIABLE, Address, SessionFile, digest, read_session
from pplib.testbed.shaping.link import RemoteLink
from pplib.testbed.ssh.machine import machine_of
from pplib.testbed.ssh.parallel import all_or_error, for_each
from pplib.testbed.workers.local import LocalWorker, last_words, script_of
from pplib.testbed.workers.remote import RemoteWorker
from pplib.testbed.workers.supervisor import Supervisor
from pplib.testbed.workers.tunnel import tunnels

_OWN: dict[str, Session] = {}  # those that this process has opened, by the path of their file
MOST_ATTEMPTS = 3


class Session:
    """Workers that are up; `path` is the session file. `shaper` shapes the link, None where it is not ours to shape."""

    def __init__(self, told: SessionFile, path: Path, shaper: Namespaces | RemoteLink | None, inherited: bool) -> None:
        self.told, self.path, self._shaper, self._inherited = told, path, shaper, inherited

    @property
    def engine(self) -> str:
        """What shapes the link: "none", "tc" or "userspace"."""
        return self.told.engine

    @property
    def tunnel(self) -> str:
        """What the data plane goes through: "none" or "ssh"."""
        return self.told.tunnel

    def set_link(self, profile: LinkProfile) -> None:
        """Have every hop be as `profile` says, from now on.

        Raises:
            ConfigError: the engine cannot; or the session belongs to another process, which shapes
                its link otherwise.
            TransportError: a device cannot be reached.
        """
        if profile == self.told.link:
            return
        if self._inherited:
            raise ConfigError(
                f"{VARIABLE}={self.path}: the link of that session is {self.told.link.name}, expected {profile.name}: "
                "unset the variable to start workers of your own"
            )
        if self._shaper is not None:
            self._shaper.set_profile(profile)
        elif profile.shaped:
            raise ConfigError(f"link {profile.name}: the workers of this session are on plain localhost")
        self.told = msgspec.structs.replace(self.told, link=profile)
        self.told.write(self.path)

    @contextlib.contextmanager
    def pipeline(self, num_stages: int) -> Iterator[Coordinator]:
        """The coordinator of a pipeline over the first `num_stages` workers.

        A worker that is being started again is waited for.

        Raises:
            WorkerError: a worker cannot be reached.
        """
        environment = load_environment()
        meeting = self.path.parent if self.told.one_machine else (environment.master_addr, environment.master_port)
        with contextlib.ExitStack() as stack:
            clients = self._reach_all(self.told.workers[:num_stages], stack)
            tunnelled = self.tunnel == "ssh"
            with Coordinator(clients, meeting, tunnelled) as coordinator:
                yield coordinator

    def _reach_all(self, addresses: Sequence[Address], stack: contextlib.ExitStack) -> list[WorkerClient]:
        """Connect to workers that can form an rpc group; `stack` closes the connections.

        With one that was started since, the members of an earlier group can form none: they are ended, and
        that before the missing one is up, so that all are started at the same time.

        Raises:
            WorkerError: one cannot be reached, or they come and go.
        """
        for _ in range(MOST_ATTEMPTS):
            there = [self._reach_now(address, stack) for address in addresses]
            if not _alike(there):
                _end_members(there)
                there = [None] * len(addresses)
            pairs = zip(there, addresses, strict=True)
            clients = [client or self._reach(address, stack) for client, address in pairs]
            if _alike(clients):
                return clients
            _end_members(clients)  # one that seemed to be gone was busy: it had not been started again
        raise WorkerError(f"{', '.join(one.name for one in addresses)}: started again and again: see their logs")

    def _reach_now(self, address: Address, stack: contextlib.ExitStack) -> WorkerClient | None:
        try:
            return self._reach(address, stack, patience_s=0.0)
        except WorkerError:
            return None

    def _reach(self, address: Address, stack: contextlib.ExitStack, patience_s: float | None = None) -> WorkerClient:
        patience_s = self.told.ready_timeout_s + limits.SILENT_S if patience_s is None else patience_s
        end = time.monotonic() + patience_s
        # A worker that cannot leave the session before ends by itself.
        left = time.monotonic() + min(patience_s, limits.LEAVE_SESSION_S + limits.SESSION_WAIT_S)
        log = Path(address.log)
        while True:
            since = log.stat().st_size if log.exists() else 0
            try:
                client = WorkerClient(
                    address.name,
                    endpoint_of(address.control),
                    bytes.fromhex(self.told.token),
                    autopsy=functools.partial(last_words, log, since),
                )
                stack.callback(client.close)
                return client
            except (TransportError, WorkerError) as exc:
                leaving = isinstance(exc, WorkerFailed) and exc.busy and time.monotonic() < left
                if isinstance(exc, HandshakeError) or (isinstance(exc, WorkerFailed) and exc.lasting and not leaving):
                    raise
                if time.monotonic() > end:
                    raise WorkerError(f"{exc}: {last_words(log, 0, 0.0)}") from exc
                time.sleep(limits.REACH_RETRY_S)


def _alike(clients: Sequence[WorkerClient | None]) -> bool:
    """Whether they can form an rpc group: PyTorch counts those that a process has joined; one to come has joined 0."""
    return len({client.description.rpc_groups if client else 0 for client in clients}) <= 1


def _end_members(clients: Sequence[WorkerClient | None]) -> None:
    """End the processes that have joined a group, and let go of all."""
    for client in filter(None, clients):
        if client.description.rpc_groups:
            with contextlib.suppress(WorkerError):  # it has ended already
                client.request(Stop(), 10)
        client.close()


def check_private(testbed: Testbed, backend: str, shaped: bool) -> None:
    """Make sure that no other account of this machine reaches ports without passwords, or that this is wanted.

    Raises:
        ConfigError: they would be open to all.
    """
    if backend not in PASSWORDLESS or shaped or not testbed.local or testbed.rpc_network == "host":
        return
    if reason := no_private_network():
        raise ConfigError(
            f"backend: {backend} has no passwords, and on this machine's loopback every account could "
            f"{'run code as you' if backend == 'rpc' else 'take the place of a device'}; a network of its own cannot "
            f"be had here: {reason}. Use `backend: socket`, or, where you trust every account of this machine, write "
            "`rpc_network: host` into the device file"
        )


@contextlib.contextmanager
def workers_up(
    testbed: Testbed, backends: Sequence[str], shaped: bool = False, with_torch: Collection[str] | None = None
) -> Iterator[Session]:
    """Have the workers of `testbed` running: those of the surrounding session, or new ones.

    Args:
        testbed: one worker per device.
        backends: what they must offer.
        shaped: whether the link between them is to be shaped; devices on this machine then have a
            network of their own each.
        with_torch: the devices whose workers load PyTorch before they are ready; None: all. Others load it where a
            stage or a backend needs it.

    Devices of this machine that speak rpc or gloo share a network of their own where nothing else is asked for.

    Raises:
        WorkerError: a worker did not start.
        TransportError: a device cannot be reached.
        ConfigError: the surrounding session is of another device file, or lacks a backend; or this machine
            cannot emulate links.
    """
    inherited = os.environ.get(VARIABLE)
    remote = any(device.remote for device in testbed.devices)
    if inherited:
        told = read_session(Path(inherited), testbed, backends)
        yield _OWN.get(inherited) or Session(told, Path(inherited), None, True)
        return
    for backend in backends:
        testbed.check_backend(backend)
        check_private(testbed, backend, shaped)
    token, devices = secrets.token_bytes(32), testbed.devices
    with contextlib.ExitStack() as stack:
        shaper: Namespaces | RemoteLink | None = None
        if shaped and remote:
            machines = [machine_of(device) for device in devices]
            for machine in machines:
                stack.callback(machine.close)
            shaper = RemoteLink(machines, tunnelled=testbed.tunnel == "ssh")
            stack.callback(shaper.close)
        elif shaped:
            shaper = stack.enter_context(namespaces(len(devices), engine=testbed.link_engine))
        net = shaper if isinstance(shaper, Namespaces) else None
        if net is None and set(PASSWORDLESS) & set(backends) and testbed.local and testbed.rpc_network == "private":
            net = stack.enter_context(private_network(len(devices)))
        folder = stack.enter_context(own_folder())
        loads = testbed.names if with_torch is None else with_torch
        workers = _start(testbed, token, backends, loads, folder, net, stack)
        told = SessionFile(
            testbed=digest(testbed),
            token=token.hex(),
            backends=list(backends),
            workers=[Address(worker.device.name, worker.control, str(worker.log)) for worker in workers],
            ready_timeout_s=testbed.ready_timeout_s,
            engine="none" if shaper is None else "tc" if isinstance(shaper, RemoteLink) else shaper.engine,
            tunnel=testbed.tunnel,
            link=UNSHAPED,
            one_machine=not remote,
        )
        if testbed.tunnel == "ssh":
            stack.enter_context(tunnels([worker for worker in workers if isinstance(worker, RemoteWorker)]))
        path = folder / "session.json"
        told.write(path)
        os.environ[VARIABLE] = str(path)
        stack.callback(os.environ.pop, VARIABLE, None)
        _OWN[str(path)] = session = Session(told, path, shaper, False)
        stack.callback(_OWN.pop, str(path))
        yield session


def _start(
    testbed: Testbed,
    token: bytes,
    backends: Sequence[str],
    with_torch: Collection[str],
    folder: Path,
    net: Namespaces | None,
    stack: contextlib.ExitStack,
) -> list[LocalWorker | RemoteWorker]:
    """Start all workers at once, and have them looked after until `stack` unwinds: then they end, all at once."""
    script, limit_s = script_of(backends), testbed.ready_timeout_s
    workers: list[LocalWorker | RemoteWorker] = [
        RemoteWorker(device, cores, token, script, folder, testbed.tunnel == "ssh", device.name in with_torch)
        if device.remote
        else LocalWorker(device, cores, token, script, folder, net.place(i) if net else None, device.name in with_torch)
        for i, (device, cores) in enumerate(zip(testbed.devices, assign_cores(testbed.devices), strict=True))
    ]
    try:
        all_or_error(for_each(workers, lambda worker: worker.start(limit_s), limit_s + 60))
    except (ParetoPipeError, KeyboardInterrupt):
        for_each(workers, lambda worker: worker.stop(), 30)
        raise
    supervisors = [Supervisor(worker, token, limit_s) for worker in workers]
    stack.callback(for_each, supervisors, lambda one: one.close(), limit_s + 60)
    return workers


@contextlib.contextmanager
def open_pipeline(
    testbed: Testbed,
    num_stages: int,
    backends: Sequence[str],
    link: LinkProfile = UNSHAPED,
) -> Iterator[tuple[Coordinator, Session]]:
    """The coordinator of a pipeline over the first `num_stages` devices, and the session it belongs to.

    Raises:
        ConfigError: fewer devices than stages, or a link that cannot be had here.
        WorkerError: a worker did not start or cannot be reached.
    """
    testbed.first(num_stages)
    with workers_up(testbed, backends, link.shaped) as session:
        session.set_link(link)
        with session.pipeline(num_stages) as coordinator:
            yield coordinator, session
