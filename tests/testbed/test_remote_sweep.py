"""Whole configurations on remote devices: started, fed, measured and stopped over SSH."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pplib.errors import WorkerError
from pplib.testbed.session import open_pipeline, workers_up
from pplib.testbed.session_file import VARIABLE

pytestmark = pytest.mark.waits(100)

ROOT = Path(__file__).resolve().parents[2]
LINKS = "none: {}\nslow: {rate_bit_s: 20_000_000}\n"
GRID = """
name: remote
model: mine.net:model  # the user's own, in files beside the parameters
num_images: 4
batch_size: 1
num_stages: 3
partition_points: [[1, 2], [2, 3]]
backend: [socket, rpc]
link: slow
in_flight: 2
repeats: 1
devices: devices.yaml
output_dir: out
"""
MINE = {
    "widths.py": "WIDTH = 16\n",
    "mine/__init__.py": "",
    "mine/layers.py": """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()

    def forward(self, x):
        return x + self.relu(self.norm(self.conv(x)))
""",
    "mine/net.py": """
import widths
from torch import nn

from .layers import Block

def model():
    stem, head = nn.Conv2d(3, widths.WIDTH, 3, stride=2, padding=1), nn.Linear(widths.WIDTH, 10)
    return nn.Sequential(stem, Block(widths.WIDTH), Block(widths.WIDTH), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)

model.input_shape = (3, 64, 64)
""",
}


def python(*words):
    """Run a command of ours as a user does; what it printed."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(600)
def test_from_devices_that_have_nothing_to_a_report_on_both_backends_over_a_shaped_link(
    start_remote, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "links.yaml").write_text(LINKS)
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "mine").mkdir()
    for name, text in MINE.items():
        (tmp_path / name).write_text(text)
    with start_remote(num_devices=3) as remote:
        remote.write(tmp_path / "devices.yaml", python=sys.executable)
        python("pplib.devices", "setup", "devices.yaml")
        checked = python("pplib.devices", "check", "devices.yaml")
        assert "FAIL" not in checked, checked
        python("pplib.sweep", "grid.yaml")
        rows = pd.read_csv(tmp_path / "out" / "remote" / "summary.csv")
        assert len(rows) == 4
        assert set(rows["status"]) == {"ok"}, rows["error"].tolist()
        assert set(rows["backend"]) == {"socket", "rpc"}
        assert set(rows["link_engine"]) == {"tc"}
        for _, row in rows.iterrows():
            for hop in (0, 1):
                assert row[f"hop{hop}_forward_after_bit_s"] == pytest.approx(20e6 * 1448 / 1500, rel=0.1)
                assert row[f"hop{hop}_backward_after_bit_s"] == pytest.approx(20e6 * 1448 / 1500, rel=0.1)
                assert row[f"hop{hop}_transfer_s"] >= row[f"hop{hop}_payload_bytes"] * 8 / 20e6 * 0.9
            total = row["num_microbatches"] + 3 + row["in_flight"] - 1
            crossed = row["hop0_payload_bytes"] * total
            assert crossed <= row["stage0_sent_bytes"] <= crossed * 1.15 + 40_000
            assert row["max_abs_err"] < 1e-3
        assert (tmp_path / "out" / "remote" / "report.html").stat().st_size > 100_000
        assert remote.left_on() == []
        for device in remote.devices:
            assert not {"htb", "tbf"} & set(qdiscs(remote, device).split())
            assert not list((device.home / ".paretopipe" / "run").iterdir()), "logs and all are gone"
            assert not [*device.home.rglob("widths.py"), *device.home.rglob("mine")], "the user's code stays here"


def qdiscs(remote, device):
    """What shapes a device's data interface."""
    words = ["tc", "qdisc", "show", "dev", "data"]
    shown = remote.net.popen(device.index, words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return shown.communicate(timeout=20)[0]


def test_weights_travel_once_and_an_interrupted_transfer_goes_on(sweep, remote):
    experiment, _ = sweep(partition_points=[3])
    held = [device.home / ".cache" / "paretopipe" / "weights" for device in remote.devices]
    name = f"{experiment.weights.sha256}.safetensors"
    kept = [(folder / name).stat() for folder in held]
    assert [one.st_size for one in kept] == [experiment.weights.num_bytes] * 2
    half = (held[0] / name).read_bytes()[: experiment.weights.num_bytes // 2]
    (held[0] / name).unlink()
    (held[0] / f".{experiment.weights.sha256}.part").write_bytes(half)
    (held[1] / name).unlink()
    (held[1] / f".{experiment.weights.sha256}.part").write_bytes(b"x" * 1000)  # damaged on the way
    testbed = experiment.testbed
    from pplib.pipeline.coordinator.weights_sending import send_weights

    with open_pipeline(testbed, 2, ["socket"]) as (coordinator, _):
        first, second = coordinator.workers
        assert send_weights(first, experiment.weights) == experiment.weights.num_bytes - len(half)
        assert send_weights(second, experiment.weights) == experiment.weights.num_bytes, "all of it, in the end"
        assert [send_weights(one, experiment.weights) for one in (first, second)] == [0, 0]
    assert all((folder / name).read_bytes() == experiment.weights.path.read_bytes() for folder in held)


def test_the_token_is_in_no_process_list_and_no_log_and_only_loopback_has_a_control_port(sweep, remote):
    experiment, _ = sweep(partition_points=[3])
    with workers_up(experiment.testbed, ["socket"]) as session:
        token = session.told.token
        assert os.environ[VARIABLE]
        seen = "".join(words for device in remote.devices for _, words in device.processes())
        assert seen.count("workers.socket_worker") >= 2
        assert token not in seen
        for device in remote.devices:
            for pid, _ in device.processes():
                assert token not in Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            for log in (device.home / ".paretopipe").rglob("*"):
                assert not log.is_file() or token.encode() not in log.read_bytes()
            listening = remote.net.popen(device.index, ["ss", "-ltnH"], stdin=-3, stdout=-1, text=True).communicate(
                timeout=20
            )[0]
            places = [line.split()[3] for line in listening.splitlines()]
            assert sum(place.startswith("127.0.0.1:") for place in places) == 1, places
            assert not [place for place in places if place.startswith(("0.0.0.0", "*", "[::]"))], places
    assert remote.left_on() == []


def test_a_device_that_is_not_set_up_says_what_to_run(remote, tmp_path):
    for device in remote.devices:
        for stamp in (device.home / ".paretopipe" / "code").glob("*"):
            stamp.rename(stamp.with_name("gone"))
    testbed = remote.testbed(tmp_path, python=sys.executable)
    try:
        with (
            pytest.raises(WorkerError, match=r"device-\d: not set up .*run `paretopipe setup`"),
            workers_up(testbed, ["socket"]),
        ):
            pass
    finally:
        for device in remote.devices:
            for stamp in (device.home / ".paretopipe" / "code").glob("gone"):
                stamp.rename(stamp.with_name(re.sub("gone", "x", stamp.name)))
