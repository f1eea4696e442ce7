"""Workers on this machine: one process per device, each on cores of its own, none left behind."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from pplib.devices import Device, Testbed, assign_cores
from pplib.environment import INTERFACE_VARIABLES, load_environment
from pplib.errors import WorkerError
from pplib.runtime.serve import Ready
from pplib.testbed.namespaces import Namespaces, Place

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
        self.log = folder / f"{device.name}.log"
        localhost = "127.0.0.1" if device.host == "localhost" else device.host
        arguments: dict[str, object] = {
            "--name": device.name,
            "--control": folder / f"{device.name}.control",
            "--host": place.address if place else localhost,
            "--data-port": device.data_port,
            "--torch-device": device.torch_device,
            "--threads": device.threads,
            "--cores": ",".join(str(core) for core in cores),
            "--slowdown": device.slowdown,
            "--rpc-threads": device.rpc_threads,
            "--prefetch": device.prefetch,
            "--interface": place.interface if place else device.interface,
            "--idle-w": device.idle_w,
            "--busy-w": device.busy_w,
        }
        threads = str(device.threads)
        interfaces = load_environment().interface_variables
        if place:
            interfaces = dict.fromkeys(INTERFACE_VARIABLES, place.interface)
        with self.log.open("wb") as log:
            self._process = (place.popen if place else subprocess.Popen)(
                [
                    sys.executable,
                    str(WORKERS / script),
                    *_given(arguments),
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
        with contextlib.suppress(BrokenPipeError):  # it died at once; wait_ready tells why
            self._stdin.write(token.hex().encode() + b"\n")
            self._stdin.flush()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def _stdin(self):  # type: ignore[no-untyped-def]
        assert self._process.stdin is not None
        return self._process.stdin

    def wait_ready(self, timeout_s: float) -> Ready:
        """Wait for its ready line.

        Raises:
            WorkerError: it ended, or was silent for too long; the message ends with its log.
        """
        out = self._process.stdout
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
                    self._process.wait(5)
                    raise WorkerError(f"{self.device.name}: the worker did not start: {self.autopsy()}")
                line += got
        return msgspec.json.decode(line, type=Ready)

    def autopsy(self) -> str:
        """How it ended, if it did, and the last lines of its log."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)  # its sockets close a moment before it is gone
        code = self._process.poll()
        ended = "" if code is None else f"signal {-code}; " if code < 0 else f"exit code {code}; "
        return ended + log_tail(self.log)

    def stop(self) -> None:
        """End it, politely for two seconds."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        if self._process.stdout is not None:
            self._process.stdout.close()


def log_tail(log: Path, lines: int = 5) -> str:
    """The last lines of a worker's log, for an error message."""
    try:
        text = log.read_text(errors="replace").strip()
    except OSError:
        return "its log is gone"
    said = [line.strip() for line in text.splitlines() if line.strip(" ^~")]
    return " | ".join(said[-lines:]) or "its log is empty"


def _given(arguments: Mapping[str, object]) -> list[str]:
    return [part for name, value in arguments.items() if value is not None for part in (name, str(value))]


def _import_path() -> str:
    """Where this process finds modules: a user's own model must be found by its workers too."""
    return os.pathsep.join(dict.fromkeys([str(Path.cwd()), *(path for path in sys.path if path)]))


@contextlib.contextmanager
def local_workers(
    testbed: Testbed, token: bytes, backends: Sequence[str], net: Namespaces | None = None
) -> Iterator[list[tuple[LocalWorker, Ready]]]:
    """Start one worker per device, all at once, in the emulated network if there is one; stop them on the way out.

    Raises:
        WorkerError: one did not start.
    """
    script = "rpc_worker.py" if "rpc" in backends else "socket_worker.py"
    with tempfile.TemporaryDirectory(prefix="paretopipe-") as folder, contextlib.ExitStack() as stack:
        workers = []
        for i, (device, cores) in enumerate(zip(testbed.devices, assign_cores(testbed.devices), strict=True)):
            worker = LocalWorker(device, cores, token, script, Path(folder), net.place(i) if net else None)
            stack.callback(worker.stop)
            workers.append(worker)
        yield [(worker, worker.wait_ready(testbed.ready_timeout_s)) for worker in workers]
