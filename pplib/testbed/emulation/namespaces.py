"""Emulated devices with addresses of their own: a chain of network namespaces joined by a link; or in one network.

The namespaces have no names and belong to one process, the keeper (`pplib.testbed.emulation.namespace_process`), which
ends when this process does: whatever becomes of this process, nothing is left behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from pplib import ROOT, limits
from pplib.errors import ConfigError, WorkerError
from pplib.links import UNSHAPED, LinkProfile
from pplib.testbed.emulation.chain import INTERFACE, MAX_DEVICES, address
from pplib.testbed.emulation.namespace_process import Offers, Reply, Request

Engine = Literal["auto", "tc", "userspace"]
Kind = Literal["tc", "userspace", "loopback"]
LOOPBACK = ("127.0.0.1", "lo")  # the address and the interface of every device in a network for all


def supported() -> str | None:
    """None if emulated links can be had here, else the reason in words."""
    offers = _offers()
    return None if not (offers.userspace and offers.tc) else offers.userspace


@functools.cache
def _offers() -> Offers:
    try:
        done = subprocess.run(
            [*_keeper(), "--probe"],
            env=_environment(),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=limits.NAMESPACES_PROBE_S,
            check=False,
        )
        return msgspec.json.decode(done.stdout, type=Offers)
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as exc:
        reason = f"the probe for network namespaces failed: {exc}"
        return Offers(reason, reason, reason, reason)


def no_private_network() -> str:
    """Why this machine cannot give local devices a network that others do not reach; empty where it can."""
    return _offers().loopback


def choose_engine(engine: Engine) -> Literal["tc", "userspace"]:
    """The engine to use: the one asked for if this machine has it; `auto` prefers tc with netem.

    Raises:
        ConfigError: this machine has not; the message says why and what to do.
    """
    offers = _offers()
    if engine == "auto":
        if not offers.tc and not offers.netem:
            return "tc"
        if not offers.userspace:
            return "userspace"
        raise ConfigError(
            f"a link profile needs network namespaces: {offers.userspace}; or run with `link: none` on plain localhost"
        )
    if engine not in ("tc", "userspace"):
        raise ConfigError(f"engine: expected auto, tc or userspace, got {engine!r}")
    reason = offers.tc if engine == "tc" else offers.userspace
    if reason:
        raise ConfigError(f"engine: {engine} cannot be had here: {reason}")
    return engine


class Process(Protocol):
    """One that runs there, however it was started."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def kill(self) -> None:
        """End it."""

    def wait(self, timeout: float, /) -> int:
        """Wait for its end."""


class Place(NamedTuple):
    """One device of a running chain: its address, its interface, and how a process gets there.

    `alone`: no other device has this interface, whose traffic is then the device's own. `networks`: the namespaces to
    enter, as files, in this order. `watch` is told of a process there, which sees its standard input end when this
    process does; two seconds later it is killed.
    """

    address: str
    interface: str
    alone: bool
    networks: tuple[str, ...]
    watch: Callable[[Process], None]


class Namespaces:
    """A running chain. Use `namespaces(...)`, which ends it as well. Calls are safe from several threads."""

    def __init__(self, num_devices: int, engine: Kind, seed: int) -> None:
        self.engine = engine
        places = [LOOPBACK if engine == "loopback" else (address(i), INTERFACE) for i in range(num_devices)]
        self.addresses, self.interfaces = [place[0] for place in places], [place[1] for place in places]
        self.profile = UNSHAPED
        self._lock = threading.Lock()
        self._asked, self._unread = 0, b""
        self._keeper = subprocess.Popen(
            [*_keeper(), "--devices", str(num_devices), "--engine", engine, "--seed", str(seed)],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
        try:
            first = self._read(limits.NAMESPACES_START_S)
            if first.error:
                raise ConfigError(f"the emulated network could not be made: {first.error}")
        except BaseException:  # an interrupt too: nothing may be left
            self.close()
            raise
        self._namespaces, self._user = first.namespaces, first.user

    @property
    def pid(self) -> int:
        """The process id of the keeper."""
        return self._keeper.pid

    def place(self, device: int) -> Place:
        """What a program that is to run on a device needs to know."""
        alone = self.engine != "loopback"
        return Place(self.addresses[device], self.interfaces[device], alone, self._networks(device), self._watch)

    def prefix(self, device: int) -> list[str]:
        """The words to put before a command so that it runs in the network of a device.

        The command replaces them: its process id, signals and pipes are its own.
        """
        *user, network = self._networks(device)
        words = [f"--user={user[0]}", "--preserve-credentials"] if user else []
        return ["nsenter", *words, f"--net={network}", "--"]

    def _networks(self, device: int) -> tuple[str, ...]:
        user = [f"/proc/{self.pid}/ns/user"] if self._user else []
        return (*user, f"/proc/{self.pid}/fd/{self._namespaces[device]}")

    def _watch(self, process: Process) -> None:
        try:
            self._ask(Request(watch=process.pid))
        except BaseException:
            process.kill()
            process.wait(limits.NAMESPACES_REPLY_S)
            raise

    def popen(
        self, device: int, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a command in the network of a device, as `subprocess.Popen` does, with its options.

        A command that reads its standard input from a pipe sees it end when this process does, and
        should end too; two seconds later it is killed, as is any other command started here.
        """
        process = subprocess.Popen([*self.prefix(device), *argv], env=env, **options)
        self._watch(process)
        return process

    def set_profile(self, profile: LinkProfile) -> None:
        """Shape every hop by `profile`; connections stay open.

        Raises:
            ConfigError: the engine cannot, such as tc without netem; the link is then unshaped.
        """
        self.profile = UNSHAPED
        self._ask(Request(profile=profile), f"link {profile.name} (engine {self.engine})")
        self.profile = profile

    def counters(self, device: int) -> tuple[int, int]:
        """Bytes (received, sent) by a device on its interface since the start, IP and TCP headers included.

        Where the kernel hands over several segments at once, their common header counts once.
        """
        return self._ask(Request(counters=device)).counters

    def close(self) -> None:
        """End the keeper, and with it the namespaces and what still runs in them."""
        assert self._keeper.stdin is not None and self._keeper.stdout is not None
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        try:
            self._keeper.wait(limits.NAMESPACE_GRACE_S + limits.NAMESPACES_REPLY_S)
        finally:
            if self._keeper.poll() is None:
                self._keeper.kill()
                self._keeper.wait(limits.NAMESPACES_REPLY_S)
            self._keeper.stdout.close()

    def _ask(self, request: Request, what: str = "") -> Reply:
        assert self._keeper.stdin is not None
        with self._lock:
            self._asked += 1
            request.number = self._asked
            try:
                self._keeper.stdin.write(msgspec.json.encode(request) + b"\n")
                self._keeper.stdin.flush()
            except (OSError, ValueError) as exc:
                raise WorkerError("the emulated network has ended: start it again") from exc
            reply = self._read(limits.NAMESPACES_REPLY_S)
            while reply.number != self._asked:  # the answer to a question that was interrupted
                reply = self._read(limits.NAMESPACES_REPLY_S)
        if reply.error:
            raise ConfigError(f"{what}: {reply.error}" if what else reply.error)
        return reply

    def _read(self, timeout_s: float) -> Reply:
        out = self._keeper.stdout
        assert out is not None
        end = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise WorkerError(f"the emulated network did not answer within {timeout_s:.0f} s")
                if not (got := os.read(out.fileno(), 65_536)):
                    raise WorkerError("the emulated network has ended unexpectedly: start it again")
                self._unread += got
        line, _, self._unread = self._unread.partition(b"\n")
        return msgspec.json.decode(line, type=Reply)


@contextlib.contextmanager
def namespaces(
    num_devices: int, profile: LinkProfile = UNSHAPED, engine: Engine = "auto", seed: int = 0
) -> Iterator[Namespaces]:
    """A chain of emulated devices, each in a network of its own, every hop shaped by `profile`.

    The network ends with the context. `private_network` is the other kind.

    Args:
        num_devices: devices in a row; every one reaches every other, through all hops between them.
        profile: the link at every hop; forward is from device i to device i + 1.
        engine: tc, userspace, or auto for what this machine offers.
        seed: of loss and jitter; each hop and direction draws for itself.

    Raises:
        ConfigError: this machine cannot; the message says why and what to do.
    """
    if not 1 <= num_devices <= MAX_DEVICES:
        raise ConfigError(f"num_devices: expected 1 to {MAX_DEVICES}, got {num_devices}")
    with contextlib.closing(Namespaces(num_devices, choose_engine(engine), seed)) as net:
        net.set_profile(profile)
        yield net


@contextlib.contextmanager
def private_network(num_devices: int) -> Iterator[Namespaces]:
    """One network for all devices with nothing but loopback, which no other account of this machine reaches.

    Raises:
        ConfigError: this machine cannot; the message says why.
    """
    with contextlib.closing(Namespaces(num_devices, "loopback", 0)) as net:
        yield net


def _keeper() -> list[str]:
    return [sys.executable, "-m", "pplib.testbed.emulation.namespace_process"]


def _environment() -> dict[str, str]:
    # The keeper must find this package wherever the process was started.
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
