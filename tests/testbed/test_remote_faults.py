"""What real hardware does in the middle of a sweep, for real: see strikes.py; faults.py prints it as a table."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.faults import (
    BACKENDS,
    FAULTS,
    arena_up,
    devices_up,
    record_without_room,
    repair,
    survive,
    weights_without_room,
)
from benchmarks.strikes import run_files
from pplib import limits
from tests.conftest import INTERRUPTIBLE

pytestmark = pytest.mark.waits(200)

OWNER = Path(__file__).resolve().parents[1] / "helpers" / "session_owner.py"
SILENT_S = FORGOTTEN_S = 6.0


@pytest.fixture(scope="module")
def devices_apart(tmp_path_factory):
    """Two devices without workers."""
    with devices_up(tmp_path_factory.mktemp("faults")) as found:
        yield found


@pytest.fixture(scope="module")
def leftovers(devices_apart):
    """What is on a device when workers are started: an old folder, a young one, and an old one in use."""
    old, young, used = (run_files(devices_apart.remote.devices[0]) / name for name in ("old", "young", "used"))
    for folder in (old, young, used):
        folder.mkdir()
    hour_ago = time.time() - 3700
    for folder in (old, used):
        os.utime(folder, (hour_ago, hour_ago))
    with devices_apart.remote.net.popen(0, ["cat"], cwd=used, stdin=subprocess.PIPE) as process:
        yield old, young, used
        process.stdin.close()


@pytest.fixture(scope="module")
def arena(devices_apart, leftovers):
    """The devices with workers, which all tests that follow use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pplib.limits.SILENT_S", SILENT_S)
        with arena_up(devices_apart) as found:
            yield found
            for ours in leftovers[1:]:  # which no device forgets; any of these tests may be run by itself
                ours.rmdir()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("how", "limit_s"), [(signal.SIGINT, 8.0), (signal.SIGKILL, FORGOTTEN_S + 8.0)])
def test_workers_and_their_files_are_gone_soon_after_their_coordinator(devices_apart, wait_until, how, limit_s):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(OWNER.parents[2]), os.environ.get("PYTHONPATH", "")]),
    }
    with subprocess.Popen(
        [*INTERRUPTIBLE, sys.executable, str(OWNER), str(devices_apart.devices), str(FORGOTTEN_S)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"up\n", process.stderr.read().decode()
        assert all(devices_apart.workers()), devices_apart.workers()
        process.send_signal(how)
        process.wait(30)
    wait_until(lambda: not devices_apart.left(), f"left: {devices_apart.left()}", limit_s)


def test_a_device_forgets_what_workers_left_whose_coordinator_never_came_back(arena, leftovers):
    old, young, used = leftovers
    assert not old.exists()
    assert young.exists() and used.exists(), "a worker may be about to start there, or still be there"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sweep_survives_every_fault_and_a_later_run_repairs_what_failed(arena, backend, record_property):
    weights = weights_without_room(arena, backend)
    assert re.search(r"device-1: weights .* cannot be kept in .*: make room", weights.happened)
    rows, trials = survive(arena, backend)
    for row in rows:
        record_property(row.fault, row.markdown())
        assert 1 <= len(row.errors) <= 2, row
        assert all(re.search(row.cause, error) for error in row.errors), row
        assert row.to_ok_s is not None, row
        assert not re.search("processes|files", row.left), row  # namespaces may be somebody else's
    assert len(rows) == len(FAULTS)
    assert max(row.to_failed_s for row in rows) < limits.LEAST_TRIAL_S, (
        "every fault is noticed long before the deadline"
    )
    failed = trials[trials["status"] == "failed"]
    assert len(failed) == sum(len(row.errors) for row in rows)
    experiment = arena.experiment(backend)
    deadline_s = experiment.trial_timeout_s(experiment.plan((5,)))
    assert failed["duration_s"].max() < deadline_s + 30, "what may be added: the silence, and the ring's own limit"
    record = record_without_room(arena, backend)
    assert re.search(r"trials/P5_r\d+\.json: cannot be written: .*: make room", record.happened)
    to_repair, written = repair(arena, backend)
    assert written == to_repair
    assert len(written) == len(failed)
