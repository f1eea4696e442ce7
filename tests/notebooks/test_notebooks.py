"""Every notebook that exists is executed with small parameters, and what it leaves is looked at."""

from __future__ import annotations

import base64
import os
import re
import shutil
import struct
from pathlib import Path

import nbformat
import papermill
import pytest

from pplib.errors import ConfigError
from pplib.sweep.closing import ANSWER, closing_lines
from pplib.sweep.job.kernel import NotebookError, execute, kernel
from pplib.sweep.job.showing import Job, Showing
from pplib.sweep.report import results_sections
from pplib.sweep.results import read_summary
from tests.helpers.records import read_records

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {
    "name": "small",
    "model": "tests.helpers.models:tiny",
    "num_images": 8,
    "batch_size": 2,
    "partition_points": [2],
    "in_flight": 2,
    "repeats": 1,
    "devices": str(ROOT / "params" / "devices" / "local.yaml"),
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Execute a notebook once, with those of the small parameters that it has."""
    folder, done = tmp_path_factory.mktemp("notebooks"), {}
    results = {"results": str(folder / "small"), "runs": [str(folder / "small"), str(folder / "again")]}
    values = {**SMALL, "output_dir": str(folder), **results}

    def run(path):
        if path.stem in ("analyze", "compare"):
            run(ROOT / "notebooks" / "sweep.ipynb")
        if path.stem == "compare":
            shutil.copytree(folder / "small", folder / "again", dirs_exist_ok=True)
        if path not in done:
            known = papermill.inspect_notebook(str(path))
            output = folder / "small" / f"{path.stem}-executed.ipynb"
            before = Path.cwd()
            os.chdir(ROOT)
            try:
                execute(path, output, {key: value for key, value in values.items() if key in known}, one)
            finally:
                os.chdir(before)
            done[path] = nbformat.read(output, as_version=4)
        return done[path], folder / "small"

    with kernel() as one:
        yield run


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_notebook_runs_and_its_charts_are_pictures_that_need_no_network(executed, path):
    book, _ = executed(path)
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    bundles = [output.data for output in outputs if "data" in output]
    pictures = [bundle["image/png"] for bundle in bundles if "image/png" in bundle]
    widgets = [bundle for bundle in bundles if "application/vnd.jupyter.widget-view+json" in bundle]
    assert (
        pictures or widgets or (path.stem == "compare" and any("<table" in one.get("text/html", "") for one in bundles))
    )
    for picture in pictures:
        width, height = struct.unpack(">II", base64.b64decode(picture)[16:24])
        assert width > 300
        assert height > 100
    text = nbformat.writes(book)
    assert "cdn.jsdelivr" not in text


def test_the_sweep_notebook_leaves_one_whole_record_per_trial(executed):
    _, folder = executed(ROOT / "notebooks" / "sweep.ipynb")
    (record,) = read_records(folder)
    assert record.status == "ok"
    assert record.label == "P2"
    assert [len(stage.received_s) for stage in record.timelines] == [record.warmup + 4 + record.cooldown] * 2
    assert record.environment["torch"]
    assert {device["name"] for device in record.devices} == {"device-0", "device-1"}
    if (setting := Path("/proc/sys/net/ipv4/tcp_congestion_control")).exists():
        assert {device["congestion_control"] for device in record.devices} == {setting.read_text().strip()}


def test_the_analysis_leaves_a_report_the_charts_and_the_summary(executed):
    book, folder = executed(ROOT / "notebooks" / "analyze.ipynb")
    shown = re.findall(r'show\(\*sections\["(\w+)"\]\)', "\n".join(cell.source for cell in book.cells))
    assert shown == list(results_sections(folder, read_summary(folder / "summary.csv"))), "the report's, in its order"
    assert (folder / "summary.csv").read_text().count("\n") == 2
    assert (folder / ANSWER).read_text().splitlines() == closing_lines(read_summary(folder / "summary.csv"))
    report = (folder / "report.html").read_text()
    assert "P2" in report
    assert "<script src" not in report
    drawn = {path.stem for path in (folder / "charts").iterdir()}
    assert drawn == {"front", "decomposition"}, "of one configuration there is nothing to compare"
    for name in drawn:
        assert (folder / "charts" / f"{name}.png").stat().st_size > 1000
        assert (folder / "charts" / f"{name}.svg").stat().st_size > 1000


def test_an_unknown_parameter_is_refused_before_a_notebook_runs(tmp_path):
    with pytest.raises(ConfigError, match=r"sweep\.ipynb: in_flihgt: unknown parameter; nearest: in_flight"):
        execute(ROOT / "notebooks" / "sweep.ipynb", tmp_path / "out.ipynb", {"in_flihgt": 2})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_papermill_alone_cannot_slip_an_unknown_parameter_past_the_notebook(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="in_flihgt: unknown key; nearest: in_flight"):
        papermill.execute_notebook(
            str(ROOT / "notebooks" / "sweep.ipynb"), str(tmp_path / "o.ipynb"), {"in_flihgt": 2}, progress_bar=False
        )


def test_a_failing_notebook_stops_at_its_cell_and_the_executed_copy_is_kept(tmp_path):
    output = tmp_path / "out.ipynb"
    with pytest.raises(NotebookError, match=r"ModelError: unknown model 'mobilnet'.*\n?.*the executed copy is"):
        execute(ROOT / "notebooks" / "profile.ipynb", output, {"model": "mobilnet"})
    assert output.exists()


def test_a_kernel_that_is_killed_is_told_with_what_to_do(tmp_path):
    book, output = nbformat.v4.new_notebook(), tmp_path / "out.ipynb"
    book.cells = [nbformat.v4.new_code_cell("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")]
    nbformat.write(book, tmp_path / "ends.ipynb")
    with pytest.raises(NotebookError, match=r"the kernel of ends.ipynb died.*start again to do the rest\nthe executed"):
        execute(tmp_path / "ends.ipynb", output, {})
    assert output.exists()


def test_notebooks_that_share_a_kernel_know_nothing_of_each_other_and_one_that_fails_keeps_none_from_its_turn(tmp_path):
    jobs, codes = (
        [],
        {
            "first": "import os, sys\nassert 'torch' not in sys.modules\nlast = 'of the first'\nos.getpid()",
            "second": "import os\nassert 'last' not in globals() and len(In) == 2\nos.getpid()",
            "failing": "last",
            "third": "import os\nassert 'last' not in globals()\nos.getpid()",
        },
    )
    for name, code in codes.items():
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        nbformat.write(book, tmp_path / f"{name}.ipynb")
        jobs.append(Job(name, tmp_path / f"{name}.ipynb", tmp_path / "out" / f"{name}.ipynb", {}))
    with Showing(kernels=1) as showing:
        showing.wait_ready()
        showing.begin(jobs)
        failed = showing.wait()
    assert list(failed) == ["failing"]
    assert "NameError: name 'last' is not defined" in str(failed["failing"])
    cells = {name: nbformat.read(tmp_path / "out" / f"{name}.ipynb", as_version=4).cells[-1] for name in codes}
    assert [cell.execution_count for cell in cells.values()] == [1, 1, 1, 1]
    pids = {name: cells[name].outputs[-1].data["text/plain"] for name in ("first", "second", "third")}
    assert pids["first"] == pids["second"] != pids["third"]
