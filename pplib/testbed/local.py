"""Workers on this machine: one process per device, each on cores of its own, none left behind."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from pplib.devices import Device
from pplib.environment import INTERFACE_VARIABLES, load_environment
from pplib.errors import WorkerError
from pplib.runtime.serve import Ready
from pplib.testbed.namespaces import Place

WORKERS = Path(__file__).resolve().parents[2] / "workers"


class LocalWorker:
    """One worker process. It ends when this process ends, however that happens: it reads from our pipe.

    Its control connection is a Unix socket in `folder`, so that it can be reached in whatever network
    its data plane is: that of this machine, or the one of `place` in an emulated network.
    """

    def __init__(
        self, device: Device, cores: Sequence[int], token: bytes, script: str, folder: Path, place: Place | None
    ) -> None:
        self.device, self.cores = device, tuple(cores)
        self.control, self.log = str(folder / f"{device.name}.control"), folder / f"{device.name}.log"
        self._token, self._script, self._place = token, script, place
        self._process: subprocess.Popen[bytes] | None = None

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
        words: dict[str, object] = {
            "--control": self.control,
            "--host": "127.0.0.1" if address == "localhost" else address,
            "--interface": place.interface if place else self.device.interface,
        }
        threads = str(self.device.threads)
        interfaces = load_environment().interface_variables
        if place:
            interfaces = dict.fromkeys(INTERFACE_VARIABLES, place.interface)
        Path(self.control).unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = (place.popen if place else subprocess.Popen)(
                [
                    sys.executable,
                    str(WORKERS / f"{self._script}.py"),
                    *arguments_of(self.device, self.cores, words),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": threads,
                    "MKL_NUM_THREADS": threads,
                    "PYTHONPATH": _import_path(),
                    **interfaces,
                },
                start_new_session=True,  # Ctrl-C is the coordinator's to handle
            )
        with contextlib.suppress(BrokenPipeError):  # it died at once; the wait tells why
            assert self._process.stdin is not None
            self._process.stdin.write(self._token.hex().encode() + b"\n")
            self._process.stdin.flush()
        return self._wait_ready(self._process, timeout_s)

    def _wait_ready(self, process: subprocess.Popen[bytes], timeout_s: float) -> Ready:
        out = process.stdout
        assert out is not None
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
        return msgspec.json.decode(line, type=Ready)

    def autopsy(self) -> str:
        """How it ended, if it did, and the last lines of its log."""
        return self._ending(1) + log_tail(self.log)

    def _ending(self, patience_s: float) -> str:
        if self._process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)  # its sockets close a moment before it is gone
        code = self._process.poll()
        return "" if code is None else f"signal {-code}; " if code < 0 else f"exit code {code}; "

    def kill(self) -> None:
        """End it at once; how it ended is written in its log."""
        if self._process is None:
            return
        said = self._ending(0)
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
NOISE = re.compile(r"^Killed$|hostname of the client socket cannot be retrieved")


KILLED = re.compile(r"(signal 9|exit status 137)\b")
SILENT = "it was silent and was killed: "


def write_ending(log: Path, said: str, before: str = "") -> None:
    """Note at the end of a worker's log how it ended, after what `before` tells of it."""
    said = said.rstrip("; ")
    if KILLED.match(said):
        said += " (SIGKILL: most likely the kernel, because memory ran out; `dmesg` on the device tells)"
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


def arguments_of(device: Device, cores: Sequence[int], more: Mapping[str, object]) -> list[str]:
    """The arguments of a device's worker: what the device file says, and `more`; None is left out."""
    arguments: dict[str, object] = {
        "--name": device.name,
        "--data-port": device.data_port,
        "--torch-device": device.torch_device,
        "--threads": device.threads,
        "--cores": ",".join(str(core) for core in cores),
        "--slowdown": device.slowdown,
        "--rpc-threads": device.rpc_threads,
        "--prefetch": device.prefetch,
        "--interface": device.interface,
        "--idle-w": device.idle_w,
        "--busy-w": device.busy_w,
        **more,
    }
    return [part for name, value in arguments.items() if value is not None for part in (name, str(value))]


def _import_path() -> str:
    """Where this process finds modules: a user's own model must be found by its workers too."""
    return os.pathsep.join(dict.fromkeys([str(Path.cwd()), *(path for path in sys.path if path)]))


def script_of(backends: Sequence[str]) -> str:
    """The entry script of workers that offer these backends: a socket worker never loads what unpickles."""
    return "rpc_worker" if "rpc" in backends else "socket_worker"
