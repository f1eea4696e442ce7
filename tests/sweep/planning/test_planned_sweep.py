"""`partition_points: plan` and `auto`, end to end over two workers of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pplib.records import point_label, read_record
from pplib.sweep.job.command import main
from pplib.sweep.measuring.schedule import DECIDED
from pplib.sweep.planning import device_timing, hop_timing
from pplib.sweep.results import read_predictions, read_summary, trial_files


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """As few rounds and as short pauses as can be."""
    for module in (device_timing, hop_timing):
        monkeypatch.setattr(module, "PAUSE_S", 0.001)
        monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(device_timing, "LEAST_ROUNDS", 2)


def sweep(tmp_path, grid):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return main([str(path)])


def stamps(results):
    return {path: path.stat().st_mtime_ns for path in trial_files(results)}


@pytest.mark.timeout(600)
def test_a_plan_measures_what_it_chose_and_a_second_start_has_nothing_to_do(tmp_path, tiny, links, request):
    powers = tmp_path / "powers.yaml"
    powers.write_text("devices: [{name: a, idle_w: 2, busy_w: 6}, {name: b, idle_w: 1, busy_w: 9}]")
    grid = {**tiny, "partition_points": "plan", "repeats": 2, "in_flight": [1, 2], "devices": str(powers)}
    assert sweep(tmp_path, grid) == 0
    results = tmp_path / "out" / "tiny"
    for folder in results.glob("*_f*"):
        table = read_predictions(folder)
        chosen = set(table.loc[table["plan_round"].notna(), "partition_label"])
        records = [read_record(path) for path in trial_files(folder)]
        assert {point_label(one.partition_points) for one in records} == chosen
        assert len(records) >= 2 * len(chosen)
        assert (folder / DECIDED).is_file()
        assert set(table["partition_label"]) == {"P0", "P1", "P2", "P3", "P4"}
    summary = read_summary(results / "summary.csv")
    assert summary["predicted_latency_s"].notna().all()
    assert (summary["predicted_cuts"] == 5).all()
    ratio = summary["predicted_energy_per_image_j"] / summary["energy_per_image_j"]
    assert ratio.between(0.2, 5).all(), "of a model so small most is what devices take before they begin"
    assert "Predicted and measured" in (results / "report.html").read_text()
    before = stamps(results)
    request.getfixturevalue("unshown")
    assert sweep(tmp_path, grid) == 0
    assert stamps(results) == before
    trial_files(next(results.glob("*_f1")))[0].unlink()  # an interrupted one
    assert sweep(tmp_path, {**grid, "in_flight": 1}) == 0
    assert {path for path in before if "_f1/" in str(path)} <= set(stamps(results))


@pytest.mark.timeout(600)
def test_auto_is_chosen_once_and_a_second_start_has_nothing_to_do(tmp_path, tiny, links, unshown, capsys):
    grid = {**tiny, "partition_points": "auto", "repeats": 1, "backend": ["socket", "rpc"]}
    assert sweep(tmp_path, grid) == 0
    results = tmp_path / "out" / "tiny"
    assert len(list(Path(tmp_path / "out" / "profiles").iterdir())) == 4, "two devices; a hop of each backend"
    before = stamps(results)
    assert len(before) == 2
    assert sweep(tmp_path, grid) == 0
    assert stamps(results) == before
    assert "starting the workers" in capsys.readouterr().err.partition("writing summary")[0]
