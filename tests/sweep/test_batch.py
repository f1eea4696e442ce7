"""`python -m pplib.sweep`: the whole job, its bad inputs, and what is left when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from pplib.records import read_record
from pplib.sweep.batch import main
from pplib.sweep.results import read_summary

ROOT = Path(__file__).resolve().parents[2]


def run_sweep(tmp_path, grid, monkeypatch):
    """Run the command in this process; its exit status."""
    monkeypatch.chdir(ROOT)
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return main([str(path)])


def workers_of(pid):
    """Worker processes and kernels below `pid`."""
    return psutil.Process(pid).children(recursive=True)


@pytest.mark.timeout(600)
def test_a_grid_becomes_executed_notebooks_a_summary_and_a_report(tmp_path, tiny, monkeypatch, capsys):
    grid = {**tiny, "backend": ["socket", "rpc"], "partition_points": [2, 3]}
    assert run_sweep(tmp_path, grid, monkeypatch) == 0
    said = capsys.readouterr().out
    results = tmp_path / "out" / "tiny"
    summary = read_summary(results / "summary.csv")
    assert len(summary) == 8
    assert set(summary["status"]) == {"ok"}
    assert f"summary: {results / 'summary.csv'}" in said
    assert "front:   tests.models:tiny rpc in flight 2: P" in said
    assert (results / "report.html").stat().st_size > 500_000
    assert len(list(results.glob("*/sweep.ipynb"))) == 2
    pids = {device["cores"] for path in results.glob("*/trials/*") for device in read_record(path).devices}
    assert len(pids) <= 2

    before = {path: path.stat().st_mtime_ns for path in results.glob("*/trials/*")}
    assert run_sweep(tmp_path, grid, monkeypatch) == 0
    assert {path: path.stat().st_mtime_ns for path in results.glob("*/trials/*")} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "mobilnet_v2"}, "error: unknown model 'mobilnet_v2'; nearest: mobilenet_v2"),
        ({"partition_points": [2, 7]}, "partition point 7 is not valid: valid are 0, 1, 2, 3, 4"),
        ({"batchsize": 2}, "batchsize: unknown key; nearest: batch_size"),
        ({"batch_size": "two"}, "batch_size: expected `int`, got 'two'"),
        ({"devices": "nowhere.yaml"}, "nowhere.yaml: cannot be read"),
        ({"weights": "nowhere.pth"}, "no such file: nowhere.pth"),
        ({"num_stages": 3, "partition_points": "even"}, "num_stages: expected at most 2"),
        ({"output_dir": "/proc/nowhere"}, "cannot be written"),
        ({"link": "4g"}, "link: unknown link '4g'"),
    ],
)
def test_bad_input_ends_in_one_clear_error_before_any_worker_starts(
    tmp_path, tiny, change, message, capsys, monkeypatch
):
    assert run_sweep(tmp_path, {**tiny, **change}, monkeypatch) == 1
    said = capsys.readouterr().err
    assert message in " ".join(said.split()), said
    assert "Traceback" not in said
    assert not [one for one in psutil.Process().children() if "worker" in str(one.cmdline())]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_sweep_leaves_no_process_and_goes_on_where_it_stopped(tmp_path, tiny, how):
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump({**tiny, "repeats": 40}))
    process = subprocess.Popen(
        [sys.executable, "-m", "pplib.sweep", str(grid)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    trials = tmp_path / "out" / "tiny"
    end = time.monotonic() + 200
    while len(list(trials.glob("*/trials/*.json"))) < 5:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)
    children = workers_of(process.pid)
    assert len(children) >= 3, "two workers and a kernel"
    os.kill(process.pid, how)
    _, error = process.communicate(timeout=100)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert b"trials already done are kept" in error
    found = list(trials.glob("*/trials/*.json"))
    kept = {path: path.stat().st_mtime_ns for path in found if read_record(path).status == "ok"}
    assert len(kept) >= 5
    assert len(found) - len(kept) <= 1, "at most the trial that was running"
    grid.write_text(yaml.safe_dump({**tiny, "repeats": 4}))
    done = subprocess.run(
        [sys.executable, "-m", "pplib.sweep", str(grid)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == kept[path] for path in kept), "nothing is done twice"
