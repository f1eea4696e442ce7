"""The disk that results go to is full in the middle of a grid."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.strikes import small_disk
from pplib.config import configuration
from pplib.records import read_record
from pplib.sweep.experiment import prepare
from pplib.sweep.measuring.run import run_missing

ROOT = Path(__file__).resolve().parents[2]
SWEEP = [sys.executable, "-m", "pplib.sweep", "grid.yaml"]


def run(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(SWEEP, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.timeout(300)
def test_a_grid_on_a_full_disk_ends_with_what_to_do_and_goes_on_when_there_is_room(tiny, shared_workers, tmp_path):
    if os.geteuid() != 0:
        return  # an ordinary user cannot make a small disk
    out = tmp_path / "out"
    values = {**tiny, "partition_points": [2], "repeats": 8}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(values))
    with small_disk(out, 60_000):
        done = run(tmp_path)
        assert done.returncode == 1
        error = done.stderr.rpartition("\nerror: ")[2]  # before it a kernel that is ended may have its own say
        assert "No space left on device: make room, or choose another output_dir" in error
        assert "Traceback" not in error
        trials = {path: path.stat().st_mtime_ns for path in out.glob("*/*/trials/*")}
        assert 0 < len(trials) < 8
        assert {read_record(path).status for path in trials} == {"ok"}, "whole records, and nothing else"
        subprocess.run(["mount", "-o", "remount,size=10m", str(out)], check=True, timeout=20)
        assert len(run_missing(prepare(configuration(values)), progress=False)) == 8
        assert all(path.stat().st_mtime_ns == when for path, when in trials.items()), "nothing is done twice"
