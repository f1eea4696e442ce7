"""Every socket on which a process of a session listens, before, during and after trials on every backend.

    python -m benchmarks.listeners [local] [remote]

prints them: for devices of this machine, and for devices behind OpenSSH servers in networks of their own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from pplib.config import configuration
from pplib.devices import load_testbed
from pplib.sweep.experiment import prepare
from pplib.sweep.measuring.run import run_once
from pplib.testbed.provision.setup import set_up
from pplib.testbed.session import workers_up
from tests.helpers.remote_devices import running

ROOT = Path(__file__).resolve().parents[1]
TINY = {"model": "tests.helpers.models:tiny", "num_images": 8, "batch_size": 2, "in_flight": 2, "partition_points": [2]}
BACKENDS = ("socket", "rpc", "gloo")
POLL_S = 0.02
LISTEN = "0A"  # as /proc/net/tcp has it


class Listener(NamedTuple):
    """A process listens; `process` says what it is to us."""

    process: str
    address: str
    port: int


def role_of(process: psutil.Process) -> str:
    """What a process is, by its command line."""
    words = process.cmdline()
    for part in ("rpc_worker", "socket_worker", "namespace_process", "fork_server", "sshd"):
        if any(part in word for word in words):
            if part == "fork_server" and not process.name().startswith("python"):
                return f"worker {process.name()}"  # one that was forked
            return f"{part} {words[-1]}" if part.endswith("worker") else part
    return " ".join(words)[:40] or process.name()


def sockets_of(pid: int) -> Iterator[tuple[str, int]]:
    """Address and port of every socket of a process that anybody may talk to, in whatever network it is."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            inodes.add(str(link.readlink()))
    for kind, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6), ("udp", socket.AF_INET)):
        for line in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]:
            words = line.split()
            if f"socket:[{words[9]}]" not in inodes or (kind != "udp" and words[3] != LISTEN):
                continue
            address, port = words[1].split(":")
            octets = b"".join(int(address[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(address), 8))
            yield socket.inet_ntop(family, octets), int(port, 16)


def listeners() -> set[Listener]:
    """Those of this process and of everything below it."""
    found = set()
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error, OSError):  # it has ended
            role = "this process" if process.pid == os.getpid() else role_of(process)
            found |= {Listener(role, *one) for one in sockets_of(process.pid)}
    return found


@contextlib.contextmanager
def collecting(found: set[Listener]) -> Iterator[None]:
    """Add all that listen at any time while the context is open."""
    done = threading.Event()

    def collect() -> None:
        while not done.wait(POLL_S):
            found.update(listeners())

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Seen(NamedTuple):
    """What listened: before the first trial, during one of each backend, after them, and after the session."""

    before: set[Listener]
    during: dict[str, set[Listener]]
    after: set[Listener]
    ended: set[Listener]

    def table(self) -> str:
        """For people to read."""
        parts = {"before": self.before, **{f"during {backend}": found for backend, found in self.during.items()}}
        parts |= {"after the trials": self.after, "after the session": self.ended}
        lines = ["| when | process | address | port |", "| --- | --- | --- | --- |"]
        for when, found in parts.items():
            lines += [f"| {when} | {one.process} | {one.address} | {one.port} |" for one in sorted(found)]
            lines += [] if found else [f"| {when} | none | | |"]
        return "\n".join(lines)


def watch(devices: Path) -> Seen:
    """Open a session for every backend, run a trial on each, and close it."""
    during: dict[str, set[Listener]] = {}
    ours = listeners()
    with workers_up(load_testbed(devices), BACKENDS):
        before = listeners() - ours
        for backend in BACKENDS:
            experiment = prepare(configuration({**TINY, "devices": str(devices), "backend": backend}), progress=False)
            with collecting(during.setdefault(backend, set())):
                record = run_once(experiment)
            assert record.status == "ok", record.error
            during[backend] -= ours
        after = listeners() - ours
    return Seen(before, during, after, listeners() - ours)


def main(kinds: Sequence[str]) -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        os.environ["PARETOPIPE_CACHE"] = str(Path(name) / "cache")
        for kind in kinds:
            devices = ROOT / "params" / "devices" / "local.yaml"
            if kind == "remote":
                remote = stack.enter_context(running(Path(name)))
                devices = remote.write(Path(name) / "devices.yaml", python=sys.executable)
                set_up(load_testbed(devices))
            sys.stdout.write(f"{kind} devices\n{watch(devices).table()}\n\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["local", "remote"])
