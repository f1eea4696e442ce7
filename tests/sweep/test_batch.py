"""`python -m pplib.sweep`: the whole job, its bad inputs, and what is left when it is interrupted."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
import yaml

from pplib.columns import column
from pplib.files.lock import sole_sweep
from pplib.records import read_record
from pplib.sweep.job import grid_run
from pplib.sweep.job.command import main
from pplib.sweep.job.kernel import NOTEBOOKS
from pplib.sweep.results import read_summary
from tests.helpers.models import tiny as tiny_model
from tests.sweep.conftest import ROOT


def run_sweep(tmp_path, grid):
    """Run the command in this process; its exit status."""
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    return main([str(path)])


def tells_no_paths(results, tmp_path):
    """What is handed to others tells no folder of this machine."""
    files = [path for path in results.rglob("*") if path.suffix in {".json", ".ipynb", ".csv", ".html"}]
    assert {path.suffix for path in files} == {".json", ".ipynb", ".csv", ".html"}
    found = [
        f"{path}: {place}"
        for path in files
        for place in (tmp_path, ROOT, Path.home())
        if f"{place}/" in path.read_text()
    ]
    assert found == []


@pytest.mark.waits(40)
@pytest.mark.timeout(600)
def test_a_grid_becomes_executed_notebooks_a_summary_and_a_report(tmp_path, tiny, links, emulated_links, capsys):
    grid = {**tiny, "backend": "rpc", "link": ["near", "none"], "partition_points": [2, 3]}
    assert run_sweep(tmp_path, grid) == 0
    said = capsys.readouterr().out
    results = tmp_path / "out" / "tiny"
    summary = read_summary(results / "summary.csv")
    assert len(summary) == 8
    assert [name for name in summary.columns if column(name) is None] == []
    assert set(summary["status"]) == {"ok"}
    assert f"summary: {results / 'summary.csv'}" in said
    assert "front:   tests.helpers.models:tiny rpc in flight 2: P" in said
    assert "front:   tests.helpers.models:tiny rpc over near in flight 2: P" in said
    assert set(summary["link_engine"][summary["link"] == "none"]) == {"none"}
    assert "none" not in set(summary["link_engine"][summary["link"] == "near"])
    assert (results / "report.html").stat().st_size > 500_000
    assert len(list(results.glob("*/sweep.ipynb"))) == 2
    tells_no_paths(results, tmp_path)
    pids = {device["cores"] for path in results.glob("*/trials/*") for device in read_record(path).devices}
    assert len(pids) <= 2

    before = {path: path.stat().st_mtime_ns for path in results.glob("*/trials/*")}
    assert run_sweep(tmp_path, grid) == 0
    assert {path: path.stat().st_mtime_ns for path in results.glob("*/trials/*")} == before


@pytest.mark.timeout(600)
def test_a_grid_over_devices_and_weights_goes_on_after_what_fails_whatever_kernels_are_installed(
    tmp_path, tiny, links, capsys, monkeypatch
):
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    torch.save({name: value * 2 for name, value in tiny_model().state_dict().items()}, tmp_path / "own.pth")
    broken = Path(tiny["devices"]).read_text().replace("torch_device: cpu", "torch_device: cuda:99", 1)
    (tmp_path / "broken.yaml").write_text(broken)
    varied = {"weights": ["own.pth", "random"], "devices": [str(tmp_path / "broken.yaml"), tiny["devices"]]}
    assert run_sweep(tmp_path, {**tiny, **varied, "partition_points": [2], "repeats": 1}) == 1
    said, results = capsys.readouterr(), tmp_path / "out" / "tiny"
    base = "tests.helpers.models.tiny_block_k2_b2_socket_none_f2"
    for weights in ("own", "random"):
        assert re.search(f"error: {base}_broken_{weights}: device-0: .*(NVIDIA|CUDA)", said.err), said.err
    assert "2 part(s) failed: start again to do what is missing" in said.err
    summary = read_summary(results / "summary.csv")
    assert summary["status"].tolist() == ["ok", "ok"]
    assert set(summary["weights"]) == {"own.pth", "random"}
    assert f"report:  {results / 'report.html'}" in said.out
    assert re.search(r"front:   tests.helpers.models:tiny .*own.*: P2\n         lowest latency P2: ", said.out), (
        said.out
    )
    executed = list(results.glob("*_local_*/sweep.ipynb"))
    assert len(executed) == 2
    for path in executed:
        outputs = [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]
        assert not [one for one in outputs if one.get("name") == "stderr"], "nothing on pink"
        assert "tracing" not in str(outputs), "the command has loaded the model, and kept what its cuts are"


@pytest.mark.timeout(600)
def test_a_notebook_that_fails_is_told_and_the_others_go_on_beside_it(tmp_path, tiny, links, monkeypatch, capsys):
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks")
    book = nbformat.read(NOTEBOOKS / "sweep.ipynb", as_version=4)
    book.cells = [book.cells[1], nbformat.v4.new_code_cell("assert in_flight == 1, 'on purpose'")]
    nbformat.write(book, tmp_path / "notebooks" / "sweep.ipynb")
    monkeypatch.setattr(grid_run, "NOTEBOOKS", tmp_path / "notebooks")
    assert run_sweep(tmp_path, {**tiny, "partition_points": [2], "in_flight": [1, 2], "repeats": 1}) == 1
    said, results = capsys.readouterr(), tmp_path / "out" / "tiny"
    _, last, after = said.err.partition("writing summary and report, and the notebooks of 2 configurations\n")
    assert last, said.err
    one, two = (f"tests.helpers.models.tiny_block_k2_b2_socket_none_f{depth}" for depth in (1, 2))
    assert after.startswith(f"\nerror: {two}: AssertionError: on purpose\n"), "kernels do not talk over each other"
    assert f"error: {one}" not in after
    assert "1 part(s) failed" in after
    assert all((results / name / "sweep.ipynb").exists() for name in (one, two))
    assert f"report:  {results / 'report.html'}" in said.out
    assert (results / "report.html").exists()


def workers_here():
    return {one.pid for one in psutil.Process().children(recursive=True) if one.name().startswith("device-")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "mobilnet_v2"}, "error: unknown model 'mobilnet_v2'; nearest: mobilenet_v2"),
        ({"partition_points": [2, 7]}, "partition point 7 is not valid: valid are 0, 1, 2, 3, 4"),
        ({"batchsize": 2}, "batchsize: unknown key; nearest: batch_size"),
        ({"batch_size": "two"}, "batch_size: expected `int`, got 'two'"),
        ({"devices": "nowhere.yaml"}, "devices: no such file: nowhere.yaml (looked in "),
        ({"weights": "nowhere.pth"}, "no such file: nowhere.pth"),
        ({"weights": "README.md"}, "README.md: is no checkpoint"),
        ({"dataset": "folder:nowhere"}, "folder:nowhere: no such folder (looked in "),
        ({"dataset": "folder:params"}, "holds 0 images (and "),
        ({"num_stages": 3, "partition_points": "even"}, "num_stages: expected at most 2"),
        ({"output_dir": "/proc/nowhere"}, "cannot be written"),
        ({"link": "5gg"}, "link: '5gg' is not in"),
        ({"partition_points": []}, "partition_points: expected all, auto, even, plan or at least one point"),
        ({"name": "x" * 300}, "name: expected a folder name of at most 255 bytes, got 300"),
    ],
)
def test_bad_input_ends_in_one_clear_error_before_any_worker_starts(tmp_path, tiny, links, change, message, capsys):
    before = workers_here()
    assert run_sweep(tmp_path, {**tiny, **change}) == 1
    said = capsys.readouterr().err
    assert message in " ".join(said.split()), said
    assert "Traceback" not in said
    assert workers_here() == before


def test_a_folder_of_temporary_files_too_long_for_a_socket_is_named(tmp_path, tiny, links, monkeypatch, capsys):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert run_sweep(tmp_path, tiny) == 1
    assert "error: TMPDIR: expected a path of at most 57 bytes, for Unix sockets" in capsys.readouterr().err


def test_a_second_command_in_the_same_folder_is_refused(tmp_path, tiny, links, monkeypatch, capsys):
    with sole_sweep([tmp_path / "out" / "tiny"]):
        monkeypatch.delenv("PARETOPIPE_SWEEP")  # it is not ours
        before = workers_here()
        assert run_sweep(tmp_path, tiny) == 1
        assert f"another sweep is running there, its pid is {os.getpid()}" in capsys.readouterr().err
        assert workers_here() == before
        monkeypatch.setenv("PARETOPIPE_SWEEP", "0")
