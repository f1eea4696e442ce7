"""A real worker process to be attacked: what it is told at its start, how it is watched, and what was found."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from pplib.errors import ParetoPipeError
from pplib.pipeline.coordinator.client import WorkerClient
from pplib.pipeline.wire.connection import endpoint_of
from pplib.pipeline.worker.settings import WorkerSettings

TOKEN = secrets.token_bytes(32)
ROOT = Path(__file__).resolve().parents[1]
RAN = "ran: "

# The hook writes down what would be code that came from outside. The one line it begins with shows that it works.
_CODE = f"""
import pickle, sys
import pplib.pipeline.stage.eager  # here: loading PyTorch runs programs
from pplib.pipeline.worker.command_line import main
WATCHED = {{"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"}}
def hook(event, args):
    if event == "subprocess.Popen" and args[0] == "uname":
        return  # platform.processor(), for the description of the host
    if event in WATCHED or (event == "import" and args[0] == "pplib.pipeline.hops.rpc"):
        sys.stderr.write(f"{RAN}{{event}} {{args[:2]}}\\n")
        sys.stderr.flush()
sys.addaudithook(hook)
pickle.loads(b"cos\\ngetcwd\\n.")
main(("socket",))
"""


@dataclass
class Outcome:
    """What a run of the fuzzer found; memory in bytes, of the worker's resident set, its peak as the kernel has it."""

    tried: Counter[str] = field(default_factory=Counter)
    crashes: int = 0
    trials_failed: int = 0
    trials_served: int = 0
    code_run: int = 0
    memory_before_bytes: int = 0
    memory_peak_bytes: int = 0
    threads_peak: int = 0

    @property
    def grown_bytes(self) -> int:
        """How far the worker's memory was above where it began, at most."""
        return self.memory_peak_bytes - self.memory_before_bytes

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.tried.items()))
        return (
            f"inputs tried {self.tried.total()} ({kinds}), crashes {self.crashes}, code run {self.code_run}, "
            f"trials failed with their cause {self.trials_failed}, trials served in between {self.trials_served}, "
            f"memory before {self.memory_before_bytes / 1e6:.1f} MB, peak {self.memory_peak_bytes / 1e6:.1f} MB, "
            f"growth {self.grown_bytes / 1e6:.1f} MB, at most {self.threads_peak} threads"
        )


class Target:
    """One worker process. Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.log, self.outcome = folder / "log", Outcome()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(WorkerSettings(name="target", token=TOKEN).line)
        self.process.stdin.flush()
        control = endpoint_of(msgspec.json.decode(self.process.stdout.readline())["control"])
        assert isinstance(control, tuple)
        self.control = control
        with self.client() as client:
            self.data = (client.description.data_host, client.description.data_port)
        self.count_memory_from_here()

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()

    @contextlib.contextmanager
    def client(self) -> Iterator[WorkerClient]:
        """A coordinator that is served."""
        client = WorkerClient("target", self.control, TOKEN)
        try:
            yield client
        finally:
            client.close()

    def count_memory_from_here(self) -> None:
        """Forget the peak so far."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        self.outcome.memory_before_bytes = self._status()["VmRSS"]
        self.look()

    def look(self) -> None:
        """Make sure that it lives; take down its memory and its threads."""
        if self.process.poll() is not None:
            self.outcome.crashes += 1
            raise RuntimeError(f"the worker ended: {self.log.read_text()[-3000:]}")
        status = self._status()
        self.outcome.memory_peak_bytes = status["VmHWM"]
        self.outcome.threads_peak = max(self.outcome.threads_peak, status["Threads"])

    def _status(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in ("VmRSS", "VmHWM"):
                found[key] = int(value.split()[0]) * 1024
            elif key == "Threads":
                found[key] = int(value)
        return found

    def serves(self) -> None:
        """Make sure that a coordinator is served, and that the worker has run no code from outside."""
        try:
            with self.client() as client:
                client.ping()
        except ParetoPipeError as exc:
            self.outcome.crashes += 1
            raise RuntimeError(f"the worker does not serve any more: {exc}: {self.log.read_text()[-3000:]}") from exc
        ran = [line for line in self.log.read_text().splitlines() if line.startswith(RAN)]
        if ran[:1] != [f"{RAN}pickle.find_class ('os', 'getcwd')"]:
            raise RuntimeError(f"the hook that looks for code does not work: {ran}")
        self.outcome.code_run = len(ran) - 1
        if len(ran) > 1:
            raise RuntimeError(f"the worker ran code from outside: {ran[1:]}")
