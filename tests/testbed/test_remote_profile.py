"""Remote devices are profiled where they are: over SSH, each on its own clock."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from pplib.__main__ import main
from pplib.devices import load_testbed
from pplib.planner.profiles.device_profile import DeviceProfile
from pplib.planner.profiles.hop_profile import HopProfile
from pplib.planner.profiles.kept import read_profile
from pplib.sweep.planning import device_timing, hop_timing
from pplib.testbed.provision.setup import set_up

pytestmark = pytest.mark.waits(20)

GRID = {
    "name": "remote",
    "model": "tests.helpers.models:tiny",
    "num_images": 4,
    "batch_size": 1,
    "devices": "devices.yaml",
    "link": "slow",
}
LINKS = "none: {}\nslow: {rate_bit_s: 20_000_000}\n"


@pytest.mark.timeout(300)
def test_remote_devices_and_the_hop_between_them_are_profiled_and_the_link_is_not_in_it(
    remote, tmp_path, monkeypatch, capsys
):
    for module in (device_timing, hop_timing):
        monkeypatch.setattr(module, "PAUSE_S", 0.001)
        monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(device_timing, "LEAST_ROUNDS", 2)
    monkeypatch.chdir(tmp_path)
    Path("params").mkdir()
    Path("params/links.yaml").write_text(LINKS)
    Path("grid.yaml").write_text(yaml.safe_dump(GRID))
    remote.write(tmp_path / "devices.yaml", python=sys.executable)
    outcomes = set_up(load_testbed(tmp_path / "devices.yaml"))
    assert all(isinstance(one, str) for one in outcomes.values()), outcomes
    assert main(["plan", "profile", "grid.yaml"]) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    paths = [Path(line.rpartition("; ")[2]) for line in lines]
    for path in paths[:2]:
        profile = read_profile(path, DeviceProfile)
        assert all(len(stage.rounds_s) == 2 for stage in profile.stages)
    hop = read_profile(paths[2], HopProfile)
    sent_s = hop.num_bytes[-1] * 8 / 20e6
    assert hop.asked["engine"] == "tc"
    assert min(hop.rounds_s["transfer"][-1]) < sent_s / 2
