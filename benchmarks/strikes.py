"""What real hardware does in the middle of a sweep: each fault is done to a real device, and mended."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

LIMIT_S = 60.0
VICTIM = 1  # its last stage computes least: what it does next is always to wait for a tensor
OFF_S = 6.0
PAUSE_S = 5.0  # longer than a trial bears, shorter than a worker may be silent
SLOW = "2mbit"  # one activation of the sweep, 0.8 MB, then takes three seconds
ROOT = os.geteuid() == 0


class Fault(NamedTuple):
    """One row of the table.

    `strike` does it, and returns what mends it, which is called once a trial has failed; `cause` is what the
    error of each failed trial must say.
    """

    name: str
    strike: Callable[[Any], Callable[[], object]]
    cause: str


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition, with a limit."""
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, what
        select.select([], [], [], 0.02)


def worker_of(device: Any) -> psutil.Process:
    """The process of a device's worker, not the shells around it."""
    (pid,) = [pid for pid, words in device.processes() if re.match(r"\S*python\S* -m workers\.", words)]
    return psutil.Process(pid)


def nothing() -> None:
    """How a fault is mended that ends by itself."""


def killed(remote: Any) -> Callable[[], object]:
    """A worker is killed."""
    worker_of(remote.devices[VICTIM]).send_signal(signal.SIGKILL)
    return nothing


def stopped(remote: Any) -> Callable[[], object]:
    """A worker is stopped for good."""
    worker_of(remote.devices[VICTIM]).send_signal(signal.SIGSTOP)
    return nothing


def until_a_tensor_is_on_the_link(remote: Any) -> None:
    """Wait until a trial runs."""

    def sent() -> int:
        """Bytes that have left the first device."""
        words = [*remote.net.prefix(0), "cat", "/proc/net/dev"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout
        return int(re.findall(r"^ *data:(.*)", said, re.MULTILINE)[0].split()[8])

    before = sent()
    until(lambda: sent() > before + 100_000, "nothing crosses the link")


def suspended(remote: Any) -> Callable[[], object]:
    """A worker stands still in the middle of a trial, and goes on as if nothing had been."""
    worker = worker_of(remote.devices[VICTIM])
    until_a_tensor_is_on_the_link(remote)
    worker.send_signal(signal.SIGSTOP)
    on = threading.Timer(PAUSE_S, worker.send_signal, (signal.SIGCONT,))
    on.start()
    return lambda: on.join(LIMIT_S)


def rebooted(remote: Any) -> Callable[[], object]:
    """A device loses its power for a while."""
    device = remote.devices[VICTIM]
    device.switch("off")
    on = threading.Timer(OFF_S, device.switch, ("on",))
    on.start()
    return lambda: on.join(LIMIT_S)


def cut(remote: Any) -> Callable[[], object]:
    """Take the link away while a tensor is on it, and give it back when a trial has failed.

    TCP itself survives a shorter cut: the trial then only takes longer. The control connections stay, for
    they go beside the link.
    """

    def there(device: int, command: str) -> str:
        words = [*remote.net.prefix(device), *command.split()]
        return subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout

    there(0, f"tc qdisc add dev data root tbf rate {SLOW} burst 5kb limit 100kb")
    until_a_tensor_is_on_the_link(remote)
    there(VICTIM, "ip link set dev data down")

    def mend() -> None:
        there(VICTIM, "ip link set dev data up")
        there(0, "tc qdisc del dev data root")

    return mend


def short_of_memory(remote: Any) -> Callable[[], object]:
    """No more address space for a worker in the middle of a trial: whatever it allocates next fails."""
    worker = worker_of(remote.devices[VICTIM])
    until_a_tensor_is_on_the_link(remote)
    before = worker.rlimit(psutil.RLIMIT_AS)
    worker.rlimit(psutil.RLIMIT_AS, (1 << 20, before[1]))

    def mend() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may not have survived
            worker.rlimit(psutil.RLIMIT_AS, before)

    return mend


def run_files(device: Any) -> Path:
    """Where a device keeps what its running workers write."""
    return device.home / ".paretopipe" / "run"


def no_room_to_start(remote: Any) -> Callable[[], object]:
    """A worker dies, and its device's disk is full when it is to be started again."""
    full = fill(run_files(remote.devices[VICTIM]))
    killed(remote)
    log = Path(os.environ["PARETOPIPE_SESSION"]).parent / f"{remote.devices[VICTIM].name}.log"

    def mend() -> None:
        # That the worker cannot be started is to be said, and why; only then there is room again.
        until(lambda: "No space left" in log.read_text(), f"no word about the full disk: {log.read_text()[-2000:]}")
        full.unlink()

    return mend


FAULTS = [
    Fault("worker killed (kill -9)", killed, r"device-1: .*exit status 137.*memory"),
    Fault("worker stopped (SIGSTOP)", stopped, r"device-1: .*silent"),
    Fault("worker stands still for 5 s, then goes on", suspended, r"device-1: its worker stood still for [45]\.\d s"),
    Fault("link cut inside a tensor", cut, r"device-[01]: .*device-[01]"),
    Fault("device rebooted", rebooted, r"device-1: "),
    Fault("out of memory in a stage", short_of_memory, r"(?i)device-1\b.*memory"),
]
if ROOT:
    FAULTS.append(Fault("killed, and the device's disk full", no_room_to_start, r"device-1: .*exit status 137"))


@contextlib.contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[None]:
    """Have a folder on a disk of its own, where that can be had: an ordinary user cannot mount."""
    folder.mkdir(parents=True, exist_ok=True)
    if not ROOT:
        yield
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes},mode=755", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, timeout=LIMIT_S)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=LIMIT_S)


def fill(folder: Path) -> Path:
    """Leave no room on the small disk of a folder; the file to remove to have it back."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


@contextlib.contextmanager
def full_disk(folder: Path, pid: int) -> Iterator[None]:
    """No room in a folder, on a small disk; for an ordinary user, process `pid` can write no file beyond a byte."""
    if ROOT:
        filler = fill(folder)
        try:
            yield
        finally:
            filler.unlink()
        return
    process = psutil.Process(pid)
    before = process.rlimit(resource.RLIMIT_FSIZE)
    process.rlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_FSIZE, before)
