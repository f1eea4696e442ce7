"""`paretopipe plan profile|predict GRID`, end to end over two workers of this machine; no speed is asserted."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import msgspec
import pytest
import yaml

from pplib.__main__ import main
from pplib.errors import OutputError
from pplib.files.csv_text import read_csv
from pplib.planner.profiles.device_profile import DeviceProfile
from pplib.planner.profiles.hop_profile import HopProfile
from pplib.planner.profiles.kept import read_profile
from pplib.planner.profiles.stage_times import StageTimes
from pplib.sweep.planning import device_timing, hop_timing

ROOT = Path(__file__).resolve().parents[2]
GRID = {
    "name": "tiny",
    "model": "tests.helpers.models:tiny",
    "num_images": 8,
    "batch_size": 2,
    "partition_points": "auto",
    "devices": "devices.yaml",
    "runtime": ["eager", "onnxruntime"],
    "wire": ["float32", "int8+lz4"],
}
DEVICES = {"devices": [{"name": "a", "idle_w": 2.0, "busy_w": 6.0}, {"name": "b", "slowdown": 3.0}]}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """As few rounds and as short pauses as can be."""
    for module in (device_timing, hop_timing):
        monkeypatch.setattr(module, "PAUSE_S", 0.001)
        monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(device_timing, "LEAST_ROUNDS", 2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a user works: with a grid and a device file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("grid.yaml").write_text(yaml.safe_dump(GRID))
    Path("devices.yaml").write_text(yaml.safe_dump(DEVICES))
    return tmp_path


def profile(capsys, *more):
    status = main(["plan", "profile", "grid.yaml", *more])
    told = capsys.readouterr()
    return status, told.out.splitlines(), told.err


def kept(kind):
    found = []
    for path in sorted(Path("outputs/profiles").iterdir()):
        with contextlib.suppress(OutputError):  # of the other kind
            found.append(read_profile(path, kind))
    return found


def test_every_device_and_hop_of_a_grid_is_profiled_once_and_found_again(folder, capsys):
    status, lines, error = profile(capsys)
    assert (status, error) == (0, "")
    assert len(lines) == 2 * 2 + 2 * 2, "two devices with two runtimes, one hop with two runtimes and two wires"
    assert sum("a: tests.helpers.models:tiny with onnxruntime: 4 units, whole" in line for line in lines) == 1
    assert all("took" in line for line in lines)
    devices, hops = kept(DeviceProfile), kept(HopProfile)
    assert (len(devices), len(hops)) == (4, 4)
    for one in devices:
        assert [(stage.first, stage.last) for stage in one.stages[:4]] == [(0, 1), (1, 2), (2, 3), (3, 4)]
        assert {(0, 4), (0, 0), (4, 4)} <= {(stage.first, stage.last) for stage in one.stages}
        assert all(len(stage.rounds_s) == 2 for stage in one.stages)
        assert one.stages[1].param_bytes > 0
        assert one.stages[0].resident_bytes > 1e6
        assert StageTimes(one).at(0, 4).seconds > 0
        assert (one.idle_w is None) == (one.name == "b")
    for one in hops:
        assert one.name == "a-b"
        assert one.num_bytes == sorted(one.num_bytes)
        compressed = one.asked["wire"] == "int8+lz4"
        assert (one.encode is not None, one.decode is not None) == (compressed, compressed)
        assert all(len(rounds) == 2 for rounds in one.rounds_s["transfer"])
    before = {path: path.stat().st_mtime_ns for path in Path("outputs/profiles").iterdir()}
    status, again, _ = profile(capsys)
    assert status == 0
    assert len(again) == 8
    assert all("kept from before" in line for line in again)
    assert {path: path.stat().st_mtime_ns for path in Path("outputs/profiles").iterdir()} == before


def test_a_device_that_changed_is_refused_until_it_is_measured_again(folder, capsys):
    Path("grid.yaml").write_text(yaml.safe_dump({**GRID, "runtime": "onnxruntime", "wire": "float32"}))
    assert profile(capsys)[0] == 0
    path = next(path for path in Path("outputs/profiles").iterdir() if path.name.startswith("b-"))
    older = read_profile(path, DeviceProfile)
    other = msgspec.structs.replace(older, found={**older.found, "cpu": "Cortex-A72"})
    path.unlink()
    changed = path.with_name(path.name[:-17] + "0" * 12 + ".json")
    changed.write_bytes(msgspec.json.encode(other))
    status, lines, error = profile(capsys)
    assert status == 1
    assert "b as it is no longer: cpu: 'Cortex-A72' there, " in error
    assert "--fresh" in error
    status, lines, error = profile(capsys, "--fresh")
    assert (status, error) == (0, "")
    assert all("took" in line for line in lines)
    assert read_profile(changed, DeviceProfile) == other
    assert path.exists()
    path.write_bytes(b"{")
    for again in ([], ["--fresh"]):
        status, lines, error = profile(capsys, *again)
        assert status == 1
        assert not any("took" in line for line in lines), "before anything is measured"
        assert f"{path}: not a profile" in error
        assert path.read_bytes() == b"{"


def test_bad_grids_are_told_before_anything_starts(folder, capsys):
    Path("grid.yaml").write_text("modle: x")
    assert profile(capsys)[0] == 1
    assert main(["plan", "profile", "none.yaml"]) == 1
    assert "none.yaml" in capsys.readouterr().err
    assert not Path("outputs").exists()


def test_every_cut_is_predicted_and_held_against_the_sweep_where_there_is_one(folder, unshown, capsys):
    grid = {**GRID, "runtime": "eager", "wire": "float32", "in_flight": 2, "partition_points": "all", "repeats": 2}
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    assert main(["plan", "predict", "grid.yaml"]) == 0
    *_, front = capsys.readouterr().out.splitlines()
    kept_at = front.rpartition("; ")[2]
    assert re.match(
        r"tests\.helpers\.models\.tiny_block_k2_b2_socket_none_f2: predicted front: P\d [\d.e+]+ ms \(", front
    )
    table = read_csv(kept_at)
    assert table["partition_label"].tolist() == ["P0", "P1", "P2", "P3", "P4"]
    assert (table["predicted_latency_s_low"] <= table["predicted_latency_s_high"]).all()
    assert (table["predicted_throughput_img_s"] <= table["predicted_bound_img_s"] * 1.0001).all()
    assert table["plan_round"].isna().all()
    assert main(["sweep", "grid.yaml"]) == 0
    capsys.readouterr()
    assert main(["plan", "predict", "grid.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("kept from before" in line for line in lines) == 3
    against = [line for line in lines if line.startswith("  against its sweep: ")]
    assert [line.split()[3] for line in against] == ["latency", "throughput"]
    assert all("of 5 cuts off by" in line and "without a common factor of" in line for line in against)
