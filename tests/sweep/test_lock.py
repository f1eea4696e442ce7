"""One sweep at a time in a folder: the second is refused by the first's pid, and a killed one leaves nothing held."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pplib.config import configuration
from pplib.errors import OutputError
from pplib.files import lock
from pplib.files.lock import sole_sweep
from pplib.sweep.experiment import prepare
from pplib.sweep.measuring.run import run_missing

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import subprocess, sys
from pathlib import Path
from pplib.files.lock import sole_sweep
with sole_sweep([Path(sys.argv[1])]):
    below = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
    print(below.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process holds, that process, and the pid of a process below it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    below = int(process.stdout.readline())
    yield tmp_path / "out", process
    os.kill(below, signal.SIGKILL)
    process.kill()
    process.communicate(timeout=20)


def test_a_second_sweep_is_refused_by_the_pid_of_the_first_until_that_has_ended_however_it_ended(held):
    folder, process = held
    refused = rf"out: another sweep is running there, its pid is {process.pid}: wait until it has ended, end it, or"
    with pytest.raises(OutputError, match=refused), sole_sweep([folder]):
        pytest.fail("it is held")
    process.kill()  # what it started lives on, and holds nothing
    process.wait(20)
    with sole_sweep([folder]):
        assert (folder / lock.NAME).read_text() == str(os.getpid())
    with sole_sweep([folder]):
        pass


def test_what_a_command_starts_may_write_where_the_command_sweeps(held, monkeypatch):
    folder, process = held
    monkeypatch.setenv(lock.VARIABLE, str(process.pid))
    with sole_sweep([folder]), pytest.raises(OutputError, match="another sweep"):
        monkeypatch.setenv(lock.VARIABLE, "1")
        with sole_sweep([folder]):
            pytest.fail("another command's")


def test_a_notebook_is_refused_where_a_sweep_runs_before_anything_is_started(held, tiny):
    folder, process = held
    config = configuration({**tiny, "output_dir": str(folder.parent), "name": "out"})
    config.folder.mkdir()
    (config.folder / lock.NAME).symlink_to(folder / lock.NAME)
    with pytest.raises(OutputError, match=f"its pid is {process.pid}"):
        run_missing(prepare(config, progress=False), progress=False)


def test_a_folder_that_cannot_be_written_is_named():
    with (
        pytest.raises(OutputError, match=r"/proc/nowhere/\.lock: cannot be written"),
        sole_sweep([Path("/proc/nowhere")]),
    ):
        pytest.fail("nothing can be written there")
