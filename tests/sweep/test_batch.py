"""`python -m pplib.sweep`: the whole job, its bad inputs, and what is left when it is interrupted."""

from __future__ import annotations

import psutil
import pytest
import yaml

from pplib.records import read_record
from pplib.sweep.batch import main
from pplib.sweep.results import read_summary

pytestmark = pytest.mark.alone


def run_sweep(tmp_path, grid):
    """Run the command in this process; its exit status."""
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return main([str(path)])


@pytest.mark.timeout(600)
def test_a_grid_becomes_executed_notebooks_a_summary_and_a_report(tmp_path, tiny, links, capsys):
    grid = {**tiny, "backend": "rpc", "link": ["near", "none"], "partition_points": [2, 3]}
    assert run_sweep(tmp_path, grid) == 0
    said = capsys.readouterr().out
    results = tmp_path / "out" / "tiny"
    summary = read_summary(results / "summary.csv")
    assert len(summary) == 8
    assert set(summary["status"]) == {"ok"}
    assert f"summary: {results / 'summary.csv'}" in said
    assert "front:   tests.models:tiny rpc in flight 2: P" in said
    assert "front:   tests.models:tiny rpc over near in flight 2: P" in said
    assert set(summary["link_engine"][summary["link"] == "none"]) == {"none"}
    assert "none" not in set(summary["link_engine"][summary["link"] == "near"])
    assert (results / "report.html").stat().st_size > 500_000
    assert len(list(results.glob("*/sweep.ipynb"))) == 2
    pids = {device["cores"] for path in results.glob("*/trials/*") for device in read_record(path).devices}
    assert len(pids) <= 2

    before = {path: path.stat().st_mtime_ns for path in results.glob("*/trials/*")}
    assert run_sweep(tmp_path, grid) == 0
    assert {path: path.stat().st_mtime_ns for path in results.glob("*/trials/*")} == before


def workers_here():
    return {one.pid for one in psutil.Process().children() if "worker" in str(one.cmdline())}


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
        ({"link": "5gg"}, "link: '5gg' is not in"),
    ],
)
def test_bad_input_ends_in_one_clear_error_before_any_worker_starts(tmp_path, tiny, links, change, message, capsys):
    before = workers_here()
    assert run_sweep(tmp_path, {**tiny, **change}) == 1
    said = capsys.readouterr().err
    assert message in " ".join(said.split()), said
    assert "Traceback" not in said
    assert workers_here() == before
