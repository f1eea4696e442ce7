"""What real hardware does in the middle of a sweep, for real."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time

import psutil
import pytest

from pplib.config import configuration
from pplib.devices import load_testbed
from pplib.sweep.configuration import missing_trials, run_missing
from pplib.sweep.experiment import prepare
from pplib.testbed.setup import set_up

SMALL = {
    "name": "faults",
    "model": "squeezenet1_1",
    "num_images": 6,
    "batch_size": 1,
    "partition_points": [5],
    "in_flight": 2,
    "repeats": 12,
}


def worker_of(device):
    """The process of a device's worker, not the shells around it."""
    (pid,) = [pid for pid, words in device.processes() if re.match(r"\S*python\S* -m workers\.", words)]
    return psutil.Process(pid)


def killed(remote):
    worker_of(remote.devices[1]).send_signal(signal.SIGKILL)


def stopped(remote):
    worker_of(remote.devices[1]).send_signal(signal.SIGSTOP)


def rebooted(remote):
    remote.devices[1].switch("off")
    threading.Timer(6.0, remote.devices[1].switch, ("on",)).start()


FAULTS = {
    "kill -9": (killed, r"device-1: .*(exit status 137|died)"),
    "SIGSTOP": (stopped, r"device-1"),
    "reboot": (rebooted, r"device-1"),
}


@pytest.mark.timeout(500)
@pytest.mark.parametrize(("fault", "backend"), [("kill -9", "rpc"), ("SIGSTOP", "socket"), ("reboot", "rpc")])
def test_a_fault_fails_its_trial_with_the_device_named_and_the_sweep_goes_on(
    start_remote, tmp_path, fault, backend, record_property
):
    strike, cause = FAULTS[fault]
    with start_remote(num_devices=2) as remote:
        path = remote.write(tmp_path / "devices.yaml", python=sys.executable, top={"ready_timeout_s": 90})
        set_up(load_testbed(path))
        values = {**SMALL, "backend": backend, "devices": str(path), "output_dir": str(tmp_path / "out")}
        experiment = prepare(configuration(values))
        trials, stop, struck = experiment.config.folder / "trials", threading.Event(), []

        def wait_and_strike():
            while not trials.exists() or len(list(trials.glob("*.json"))) < 2:
                if stop.wait(0.05):
                    return
            struck.append(time.monotonic())
            strike(remote)

        thread = threading.Thread(target=wait_and_strike)
        thread.start()
        rows = run_missing(experiment, progress=False)
        took_s = time.monotonic() - struck[0]
        stop.set()
        thread.join(30)
        failed = rows[rows["status"] == "failed"]
        record_property("fault", f"{fault} {backend}: {len(failed)} failed, all over after {took_s:.0f} s")
        assert len(rows) == 12
        assert 1 <= len(failed) <= 2
        assert all(re.search(cause, error) for error in failed["error"]), failed["error"].tolist()
        assert failed["duration_s"].max() < 90
        repaired = run_missing(experiment, progress=False)
        assert set(repaired["status"]) == {"ok"}
        assert missing_trials(experiment.config, experiment.points) == []
        assert not [words for device in remote.devices for _, words in device.processes() if "workers." in words]
