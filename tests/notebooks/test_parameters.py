"""Which names are a notebook's parameters: its cells run again in one kernel, beside what users have there."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from pplib.errors import ConfigError
from pplib.notebook import from_notebook, notebook_parameters, reject_unknown

ROOT = Path(__file__).resolve().parents[2]
INJECTED = '# Parameters\nname = "injected"\n'


def cells(notebook):
    book = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run cells in a kernel whose user has a start-up file; the error of each, or None."""
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("from math import *\nrepeats = 'mine'\nnote = 'mine'\n")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kernel = KernelManager()
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel._kernel_spec = KernelSpec(argv=argv, language="python")
    kernel.start_kernel()
    client = kernel.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)

        def _run(*sources):
            replies = [client.execute_interactive(one, timeout=120, output_hook=lambda _: None) for one in sources]
            return [reply["content"].get("evalue") for reply in replies]

        yield _run
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def test_the_top_cells_of_the_notebooks_run_again_in_one_kernel_whatever_else_is_there(run):
    (sweep, setup), (results, read) = cells("sweep")[:2], cells("analyze")[:2]
    told = "assert config.name == {!r} and config.repeats == {}, config"
    between = "objectives = {'latency_s': 'min'}\nfolder = 'mine'\nbatchsize: int = 3"
    done = run(
        *[sweep, setup, told.format("default", 3), between],
        *[sweep, setup, told.format("default", 3), setup],
        *[sweep, INJECTED, setup, told.format("injected", 3)],
        *[sweep.replace("repeats: int = 3", "repeats: int = 5"), setup, told.format("default", 5)],
        *[results, read, between, results, read],
        *cells("run")[:2],
        *[sweep, "repeats = 7", setup, told.format("default", 7)],
    )
    assert done == [None] * len(done)
    wrong = run(sweep, "# Parameters\nin_flihgt = 2\n", setup, results, "# Parameters\nresutls = 'x'\n", read)
    assert wrong == [
        None,
        None,
        "in_flihgt: unknown key; nearest: in_flight",
        None,
        None,
        "resutls: unknown parameter; nearest: results",
    ]
    assert run(sweep, setup, results, read) == [None] * 4


def notebook(*history, **values):
    return {"In": ["", *history], **values}


def test_a_misspelled_name_in_the_parameters_cell_is_an_error_until_it_is_corrected():
    wrong = "batch_size: int = 4\nin_flihgt: int = 2"
    with pytest.raises(ConfigError, match="in_flihgt: unknown key; nearest: in_flight"):
        from_notebook(notebook(wrong, batch_size=4, in_flihgt=2))
    right = wrong.replace("flihgt", "flight")
    config = from_notebook(notebook(wrong, right, batch_size=4, in_flihgt=2, in_flight=2))
    assert (config.batch_size, config.in_flight) == (4, 2)


def test_a_parameters_cell_that_was_split_in_two_is_read_whole():
    history = ["batch_size: int = 4", "in_flight: int = 2", "num_images = 3", "not python ("]
    config = from_notebook(notebook(*history, batch_size=4, in_flight=2, num_images=3))
    assert (config.batch_size, config.in_flight, config.num_images) == (4, 2, 64)


def test_outside_ipython_the_known_names_are_the_parameters():
    assert notebook_parameters({"results": "x", "pi": 3.14, "In": 3}, ["results"]) == {"results": "x"}
    reject_unknown({"results": "x", "pi": 3.14}, ["results"])
