"""Ended in the middle, over a shaped link: by Ctrl-C, by `kill -9` of the command or of the notebook's kernel."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml

from pplib.config import configuration
from pplib.records import read_record
from pplib.sweep.experiment import prepare
from pplib.sweep.job.kernel import NOTEBOOKS
from pplib.sweep.measuring.run import run_missing
from tests.conftest import INTERRUPTIBLE

pytestmark = pytest.mark.waits(65)

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 200
SWEEP = [*INTERRUPTIBLE, sys.executable, "-m", "pplib.sweep"]
PAPERMILL = [sys.executable, "-m", "papermill", "--no-progress-bar", str(NOTEBOOKS / "sweep.ipynb"), "out.ipynb"]


@pytest.fixture
def temporary():
    """A folder for temporary files that no other test uses; its path is short, for Unix sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def start(command, folder, temporary):
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def below(process):
    """All processes under `process`, and the network namespaces they are in or hold, beside our own."""
    children = psutil.Process(process.pid).children(recursive=True)
    own, found = str(Path("/proc/self/ns/net").readlink()), set()
    for child in children:
        with contextlib.suppress(OSError):
            for link in [Path(f"/proc/{child.pid}/ns/net"), *Path(f"/proc/{child.pid}/fd").iterdir()]:
                with contextlib.suppress(OSError):
                    if str(link.readlink()).startswith("net:"):
                        found.add(str(link.readlink()))
    return children, found - {own}


def held():
    """The network namespaces that any process is in or holds."""
    links = [*Path("/proc").glob("[0-9]*/ns/net"), *Path("/proc").glob("[0-9]*/fd/*")]
    found = set()
    for link in links:
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return found


def wait_until_let_go(spaces):
    """Until no process has these namespaces: one that was started after we looked may take longer to end."""
    end = time.monotonic() + 20
    while left := spaces & held():
        assert time.monotonic() < end, left
        time.sleep(0.1)


def verified(folder):
    """Trials that are done for good: measured, and their link measured again."""
    found = list(folder.glob("**/trials/*.json"))
    return {path for path in found if (record := read_record(path)).status == "ok" and record.link.verified}


def wait_for(condition, process):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.1)


def qdiscs():
    return subprocess.run(["tc", "qdisc", "show"], capture_output=True, text=True, timeout=20, check=True).stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9 of the command", "kill -9 of papermill's kernel"])
def test_a_shaped_run_that_is_ended_leaves_nothing_and_goes_on_where_it_stopped(
    tiny, links, emulated_links, temporary, how
):
    interfaces, disciplines = sorted(Path("/sys/class/net").iterdir()), qdiscs()
    values, trials = {**tiny, "link": "near", "repeats": 40}, links / "out" / "tiny"
    (links / "values.yaml").write_text(yaml.safe_dump(values))
    command = [*PAPERMILL, "-f", "values.yaml"] if "papermill" in how else [*SWEEP, "values.yaml"]
    process = start(command, links, temporary)
    wait_for(lambda: len(verified(trials)) >= 3, process)
    children, spaces = below(process)
    assert len(children) >= 4, "two workers, what they are forked from, and a keeper of the network"
    assert len(spaces) >= 2, "one for each device"
    if "papermill" in how:
        (kernel,) = [one for one in children if "ipykernel_launcher" in " ".join(one.cmdline())]
        kernel.kill()
    else:
        process.send_signal(signal.SIGINT if how == "Ctrl-C" else signal.SIGKILL)
    _, error = process.communicate(timeout=100)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    wait_until_let_go(spaces)
    assert sorted(Path("/sys/class/net").iterdir()) == interfaces
    assert qdiscs() == disciplines
    assert not list(temporary.glob("kernel-ipc*"))
    if how == "Ctrl-C":
        assert process.returncode == 130
        assert b"trials already done are kept" in error
    kept = {path: path.stat().st_mtime_ns for path in verified(trials)}
    assert len(kept) >= 3
    if how != "Ctrl-C":
        return  # what is on the disk is the same: going on is shown once
    again = run_missing(prepare(configuration({**values, "repeats": 2})), progress=False)
    assert set(again["status"]) == {"ok"}, again["error"].tolist()
    assert all(path.stat().st_mtime_ns == kept[path] for path in kept), "nothing is done twice"
    assert len(verified(trials)) >= 6


SHOWING = """
import sys
from pathlib import Path
import pplib.sweep.job.grid_run as grid_run
from pplib.sweep.job.command import main
grid_run.NOTEBOOKS = Path("notebooks").resolve()
sys.exit(main(["values.yaml"]))
"""


@pytest.mark.timeout(300)
def test_ctrl_c_ends_all_notebooks_that_are_being_executed(tiny, links, temporary):
    (links / "notebooks").mkdir()
    for name in ("sweep", "analyze"):
        book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        waits = f"from pathlib import Path; import time; Path('{name}').touch(); time.sleep(1000)"
        book.cells = [book.cells[1], nbformat.v4.new_code_cell(waits)]
        nbformat.write(book, links / "notebooks" / f"{name}.ipynb")
    values = {**tiny, "partition_points": [2], "repeats": 1}
    (links / "values.yaml").write_text(yaml.safe_dump(values))
    process = start([*INTERRUPTIBLE, sys.executable, "-c", SHOWING], links, temporary)
    wait_for(lambda: all((links / name).exists() for name in ("sweep", "analyze")), process)
    children, _ = below(process)
    assert len([one for one in children if one.name() == "kernel"]) == 2
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert process.returncode == 130
    assert error.decode().endswith("interrupted: trials already done are kept; start again to do the rest\n")
