"""The fault table, for real: `python -m benchmarks.faults` prints it as Markdown.

One sweep per backend survives all faults one after the other, on two devices whose workers are started once.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

from benchmarks.strikes import FAULTS, VICTIM, Fault, full_disk, run_files, small_disk, worker_of
from pplib.config import configuration
from pplib.devices import load_testbed
from pplib.errors import OutputError, WorkerError
from pplib.records import TrialRecord, write_record
from pplib.sweep.experiment import Experiment, prepare
from pplib.sweep.measuring import run as room
from pplib.sweep.measuring.run import run_missing
from pplib.sweep.measuring.schedule import missing_trials
from pplib.testbed.provision.setup import set_up
from pplib.testbed.session import workers_up
from tests.helpers.remote_devices import running

BACKENDS = ("socket", "rpc")  # of the tests; `python -m benchmarks.faults gloo` takes a minute more
GONE_S = 10.0  # for what a lost worker had to end
OK_BEFORE = 2  # trials that must be well again before the next fault strikes
SMALL = {
    "name": "faults",
    "model": "squeezenet1_1",
    "num_images": 6,
    "batch_size": 1,
    "partition_points": [5],
    "in_flight": 2,
    "repeats": len(FAULTS) * (OK_BEFORE + 3),
}


@dataclass
class Row:
    """What one fault did; seconds count from the strike."""

    fault: str
    backend: str
    happened: str = ""
    to_failed_s: float | None = None
    to_ok_s: float | None = None
    cause: str = ""
    errors: list[str] = field(default_factory=list)
    left: str = ""

    def markdown(self) -> str:
        """One line of the table."""
        times = ["" if one is None else f"{one:.1f} s" for one in (self.to_failed_s, self.to_ok_s)]
        failed = str(len(self.errors)) if self.cause else ""
        return (
            f"| {' | '.join([self.fault, self.backend, self.happened.replace('|', '/'), failed, *times, self.left])} |"
        )


HEAD = (
    "| fault | backend | what happened | failed trials | strike to failed record | strike to next ok trial | left |\n"
    "|---|---|---|---|---|---|---|"
)


@dataclass
class Arena:
    """Two devices whose workers are up."""

    remote: Any
    devices: Path
    out: Path

    def experiment(self, backend: str, **changes: object) -> Experiment:
        """The sweep that is to survive."""
        fixed = {"backend": backend, "devices": str(self.devices), "output_dir": str(self.out)}
        return prepare(configuration({**SMALL, **fixed, **changes}))

    def workers(self) -> list[int | None]:
        """The process ids of the workers; None for one that is not there."""
        found: list[int | None] = []
        for device in self.remote.devices:
            try:
                found.append(worker_of(device).pid)
            except ValueError:
                found.append(None)
        return found

    def belongings(self) -> Counter[str]:
        """What there is of workers on the devices, and of namespaces on this machine, by kind and number."""
        found: Counter[str] = Counter()
        for device in self.remote.devices:
            found[f"{device.name}: processes"] = sum("workers." in words for _, words in device.processes())
            found[f"{device.name}: files"] = len(list(run_files(device).iterdir()))
        spaces = [path for path in Path("/proc").glob("[0-9]*/ns/*") if path.name in ("net", "mnt", "pid", "user")]
        found["namespaces"] = len({_link(path) for path in spaces})
        return found

    def left(self) -> list[str]:
        """What must not be on the devices any more, once their workers have ended."""
        said = [words for device in self.remote.devices for _, words in device.processes() if "workers." in words]
        return said + [str(path) for device in self.remote.devices for path in run_files(device).iterdir()]


def _link(path: Path) -> str:
    with contextlib.suppress(OSError):  # it has ended
        return str(path.readlink())
    return ""


@contextlib.contextmanager
def devices_up(folder: Path) -> Iterator[Arena]:
    """Two devices, set up, whose disks are small where there is something to fill, with no worker yet."""
    with running(folder) as remote, contextlib.ExitStack() as disks:
        for device in remote.devices:
            disks.enter_context(small_disk(run_files(device), 1 << 18))
            disks.enter_context(small_disk(device.home / ".cache" / "paretopipe", 10 << 20))
        out = folder / "out"
        disks.enter_context(small_disk(out, 20 << 20))
        path = remote.write(folder / "devices.yaml", python=sys.executable, top={"ready_timeout_s": 90})
        done = set_up(load_testbed(path))
        assert all(isinstance(one, str) for one in done.values()), done
        yield Arena(remote, path, out)


@contextlib.contextmanager
def arena_up(arena: Arena, backends: Sequence[str] = BACKENDS) -> Iterator[Arena]:
    """Have the workers of both devices up, for these backends; nothing may be left of them afterwards."""
    with workers_up(load_testbed(arena.devices), list(backends)):
        yield arena
    assert not arena.left(), arena.left()


class Striker:
    """Sees every record when it is stored, and strikes one fault after the other once all is well."""

    def __init__(self, arena: Arena, backend: str, tell: Callable[[Row], object]) -> None:
        self._arena, self._backend, self._tell = arena, backend, tell
        self._faults, self._well = list(FAULTS), 0
        self._seen: set[Path] = set()
        self._row: Row | None = None
        self._pool = ThreadPoolExecutor(1, "strike")
        self.rows: list[Row] = []

    def store(self, path: Path, record: TrialRecord) -> None:
        """In the place of `write_record`."""
        now = time.monotonic()
        write_record(path, record)
        if path in self._seen:
            return  # stored again, when the link was measured after it
        self._seen.add(path)
        row = self._row
        if record.status == "failed":
            assert row is not None, f"failed before any fault: {record.error}"
            row.errors.append(record.error)
            if row.to_failed_s is None:
                mend, self._struck_at = self._strike.result(60)
                row.to_failed_s = max(0.0, now - self._struck_at)
                mend()
        elif row is not None and row.errors:
            row.to_ok_s = now - self._struck_at
            row.happened = f"{row.errors[0]} ({self._restarted()})"
            row.left = self._left()
            self._row, self._well = None, 1
            self._tell(row)
        elif row is None:
            self._well += 1
            if self._well > OK_BEFORE and self._faults:
                self._begin(self._faults.pop(0))

    def _begin(self, fault: Fault) -> None:
        self._row = Row(fault.name, self._backend, cause=fault.cause)
        self._belonged = self._arena.belongings()
        self.rows.append(self._row)
        self._before = self._arena.workers()
        self._strike = self._pool.submit(lambda: (fault.strike(self._arena.remote), time.monotonic()))

    def _left(self) -> str:
        """What the strike left behind: nothing is allowed to stay for longer than it takes to end."""
        end = time.monotonic() + GONE_S
        while more := self._arena.belongings() - self._belonged:
            if time.monotonic() > end:
                return ", ".join(f"{number} {what}" for what, number in more.items())
            select.select([], [], [], 0.1)
        return "nothing"

    def _restarted(self) -> str:
        pairs = zip(self._arena.remote.devices, self._before, self._arena.workers(), strict=True)
        names = [device.name for device, old, new in pairs if old != new]
        return f"started again: {', '.join(names)}" if names else "no worker started again"


def survive(
    arena: Arena, backend: str, tell: Callable[[Row], object] = lambda row: None
) -> tuple[list[Row], pd.DataFrame]:
    """Run the sweep through all faults that cost a trial; a row for each, and the trials."""
    striker = Striker(arena, backend, tell)
    with mock.patch.object(room, "write_record", striker.store):
        trials = run_missing(arena.experiment(backend), progress=False)
    return striker.rows, trials


def weights_without_room(arena: Arena, backend: str) -> Row:
    """The disk of a device is full when it is to keep the weights: nothing can be measured until there is room."""
    row = Row("the device's disk full, no room for the weights", backend)
    device = arena.remote.devices[VICTIM]
    experiment = arena.experiment(backend, name="weights", repeats=1)
    for path in (device.home / ".cache" / "paretopipe" / "weights").glob("*"):
        path.unlink()
    struck = time.monotonic()
    with full_disk(device.home / ".cache" / "paretopipe", worker_of(device).pid):
        row.happened = f"the run stops: {stopped_by(WorkerError, experiment)}"
        row.to_failed_s = time.monotonic() - struck
    assert not list((device.home / ".cache" / "paretopipe" / "weights").glob("*")), "a part is left on a full disk"
    trials = run_missing(experiment, progress=False)
    row.to_ok_s = time.monotonic() - struck
    assert trials["status"].tolist() == ["ok"], trials["error"].tolist()
    return row


def stopped_by(kind: type[Exception], experiment: Experiment) -> str:
    """Run a sweep that must stop with an error: its text."""
    try:
        run_missing(experiment, progress=False)
    except kind as exc:
        return str(exc)
    raise AssertionError(f"no {kind.__name__}")


def record_without_room(arena: Arena, backend: str) -> Row:
    """The disk of this machine is full when a failed trial has been repaired and is to be stored."""
    row = Row("this machine's disk full, no room for a record", backend)
    experiment = arena.experiment(backend)
    folder = experiment.config.folder / "trials"
    before = contents(folder)

    def store(path: Path, record: TrialRecord) -> None:
        with full_disk(arena.out, os.getpid()):
            write_record(path, record)

    with mock.patch.object(room, "write_record", store):
        row.happened = f"the run stops: {stopped_by(OutputError, experiment)}"
    assert contents(folder) == before, "a record has changed, or half of one is there"
    return row


def contents(folder: Path) -> dict[str, bytes]:
    """All files in a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def repair(arena: Arena, backend: str) -> tuple[set[str], set[str]]:
    """Run the sweep again: the names of the records that had failed, and of those that were written."""
    experiment = arena.experiment(backend)
    trials = experiment.config.folder / "trials"
    failed = {f"P5_r{one.repeat}.json" for one in missing_trials(experiment.config, experiment.points)}
    before = {path.name: path.stat().st_mtime_ns for path in trials.iterdir()}
    again = run_missing(experiment, progress=False)
    assert set(again["status"]) == {"ok"}, again["error"].tolist()
    return failed, {path.name for path in trials.iterdir() if before.get(path.name) != path.stat().st_mtime_ns}


def main(backends: Sequence[str]) -> None:
    """Print the table, row by row."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name, devices_up(Path(name)) as devices:
        os.environ["PARETOPIPE_CACHE"] = str(Path(name) / "cache")

        def say(line: str) -> None:
            sys.stdout.write(line.replace(name, "") + "\n")
            sys.stdout.flush()

        with arena_up(devices, backends) as arena:
            say(HEAD)
            for backend in backends:
                say(weights_without_room(arena, backend).markdown())
                _, trials = survive(arena, backend, lambda row: say(row.markdown()))
                say(record_without_room(arena, backend).markdown())
                failed, written = repair(arena, backend)
                assert failed == written
                say(f"| a later run | {backend} | {len(written)} of {len(trials)} done again, and no other | | | | |")
        say("\nNothing is left on the devices.")


if __name__ == "__main__":
    main(sys.argv[1:] or BACKENDS)
