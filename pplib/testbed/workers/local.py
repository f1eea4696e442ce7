"""Workers on this machine: one process per device, each on cores of its own, none left behind."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pplib import ROOT, limits
from pplib.config import make_importable
from pplib.devices import Device
from pplib.environment import INTERFACE_VARIABLES, load_environment
from pplib.errors import WorkerError
from pplib.pipeline.worker.command_line import Ready, read_ready
from pplib.pipeline.worker.settings import WorkerSettings
from pplib.testbed.emulation.namespaces import Place
from pplib.testbed.ssh.endings import told
from pplib.testbed.workers.fork_server import WORKER_SERVERS, Order
from pplib.testbed.workers.forked import Forked

WORKERS = ROOT / "workers"


class LocalWorker:
    """One worker process. It ends when this process ends, however that happens: it reads from our pipe.

    Its control connection is a Unix socket in `folder`, so that it can be reached in whatever network
    its data plane is: that of this machine, or the one of `place` in an emulated network.
    """

    def __init__(
        self,
        device: Device,
        cores: Sequence[int],
        token: bytes,
        script: str,
        folder: Path,
        place: Place | None,
        loads_torch: bool = True,
    ) -> None:
        self.device, self.cores = device, tuple(cores)
        self.control, self.log = str(folder / f"{device.name}.control"), folder / f"{device.name}.log"
        self._token, self._script, self._place, self._loads_torch = token, script, place, loads_torch
        self._process: Forked | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self, timeout_s: float) -> Ready:
        """Start it, again if it was started before, and wait for its ready line.

        Raises:
            WorkerError: it ended, or was silent for too long; the message ends with its log.
        """
        place = self._place
        address = place.address if place else self.device.data_address
        settings = settings_of(
            self.device,
            self.cores,
            self._token,
            control=self.control,
            loads_torch=self._loads_torch,
            data_host="127.0.0.1" if address == "localhost" else address,
            interface=place.interface if place and place.alone else self.device.interface,
        )
        threads = str(self.device.threads)
        interfaces = load_environment().interface_variables
        if place:
            interfaces = dict.fromkeys(INTERFACE_VARIABLES, place.interface)
        order = Order(
            name=self.device.name,
            script=str(WORKERS / f"{self._script}.py"),
            arguments=(self.device.name,),
            folder=str(Path.cwd()),
            environment={
                **os.environ,
                "OMP_NUM_THREADS": threads,
                "MKL_NUM_THREADS": threads,
                "PYTHONPATH": _import_path(),
                **interfaces,
            },
            networks=place.networks if place else (),
        )
        Path(self.control).unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = WORKER_SERVERS[self._loads_torch].fork(order, log.fileno(), timeout_s)
        if place:
            place.watch(self._process)
        with contextlib.suppress(BrokenPipeError):  # it died at once; the wait tells why
            self._process.stdin.write(settings.line)
        return self._wait_ready(self._process, timeout_s)

    def _wait_ready(self, process: Forked, timeout_s: float) -> Ready:
        out = process.stdout
        end, line = time.monotonic() + timeout_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise WorkerError(
                        f"{self.device.name}: the worker was not ready within {timeout_s:.0f} s (ready_timeout_s): "
                        f"{self.autopsy()}"
                    )
                if not (got := os.read(out.fileno(), 4096)):
                    process.wait(5)
                    raise WorkerError(f"{self.device.name}: the worker did not start: {self.autopsy()}")
                line += got
        return read_ready(line, self.device.name)

    def autopsy(self) -> str:
        """How it ended, if it did, and the last lines of its log."""
        return self._ending(limits.ENDING_S) + log_tail(self.log)

    def _ending(self, patience_s: float) -> str:
        if self._process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        code = self._process.poll()
        return "" if code is None else f"signal {-code}; " if code < 0 else f"exit code {code}; "

    def kill(self, silent: bool) -> None:
        """End it, if it still runs; how it ended is written in its log."""
        if self._process is None:
            return
        said = self._ending(0 if silent else limits.ENDING_S)  # its sockets close before it is gone
        if not said:
            self._process.kill()
            said = f"{SILENT}{self._ending(5)}"
        self._close_pipes()
        write_ending(self.log, said)

    def stop(self) -> None:
        """End it, politely for two seconds."""
        if self._process is None:
            return
        self._close_pipes()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def _close_pipes(self) -> None:
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


ENDED = "the worker ended: "
NOISE = re.compile(  # what PyTorch and Python say beside the cause
    r"^Killed$|hostname of the client socket cannot be retrieved|tensorpipe_agent\.cpp.*: (pipe closed|EOF)"
    r"|^Exception ignored in thread started by|^MemoryError:$"
)


SILENT = "it was silent and was killed: "


def write_ending(log: Path, said: str, before: str = "") -> None:
    """Note at the end of a worker's log how it ended, after what `before` tells of it."""
    said = told(said.rstrip("; "))
    # No room for the log of a worker is no reason not to look after it.
    with contextlib.suppress(OSError), log.open("a") as file:
        file.write(f"{before}{ENDED}{said}\n")


def last_words(log: Path, since: int, patience_s: float = 3.0) -> str:
    """What a worker's log has from byte `since` on, once it tells how the worker ended, or patience is at its end."""
    end = time.monotonic() + patience_s
    while True:
        try:
            text = log.read_bytes()[since:].decode(errors="replace")
        except OSError:
            return "its log is gone"
        before, ended, after = text.partition(ENDED)
        if ended or time.monotonic() > end:
            return _tail(before + ended + after.partition("\n")[0], 5)
        time.sleep(0.05)


def log_tail(log: Path, lines: int = 5) -> str:
    """The last lines of a worker's log, for an error message."""
    try:
        return _tail(log.read_text(errors="replace"), lines)
    except OSError:
        return "its log is gone"


def _tail(text: str, lines: int) -> str:
    said = [line.strip() for line in text.splitlines() if line.strip(" ^~") and not NOISE.search(line)]
    return " | ".join(said[-lines:]) or "its log is empty"


def settings_of(device: Device, cores: Sequence[int], token: bytes, **more: Any) -> WorkerSettings:
    """What the worker of a device is told: what the device file says of it, and `more`."""
    said = {name: getattr(device, name) for name in WorkerSettings.__struct_fields__ if hasattr(device, name)}
    return WorkerSettings(**{**said, "cores": tuple(cores), "token": token, **more})


def _import_path() -> str:
    """Where this process finds modules: a user's own model must be found by its workers too."""
    make_importable()
    return os.pathsep.join(dict.fromkeys([str(Path.cwd()), *(path for path in sys.path if path)]))


def script_of(backends: Sequence[str]) -> str:
    """The entry script of workers that offer these backends: a socket worker opens no port without a password."""
    return "rpc_worker" if set(backends) - {"socket"} else "socket_worker"  # it refuses what it does not offer
