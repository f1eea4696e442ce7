"""Workers that are forked: as if their script had been started, in whatever state the process that asks is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from pplib import ROOT
from pplib.errors import WorkerError
from pplib.testbed.workers.fork_server import ForkServer, Order

WHAT = "pplib.pipeline.worker.command_line"
SCRIPT = """
import json, os, random, signal, sys
print(json.dumps({"argv": sys.argv, "cwd": os.getcwd(), "word": os.environ.get("WORD"), "first": sys.path[0],
                  "home": "HOME" in os.environ, "session": os.getsid(0) == os.getpid(), "drawn": random.random(),
                  "fds": sorted(os.listdir("/proc/self/fd")), "name": open("/proc/self/comm").read().strip(),
                  "loaded": "pplib.pipeline.worker.worker" in sys.modules}))
sys.stdout.flush()
said = sys.stdin.readline().strip()
sys.stderr.write(f"heard {said}")
if said == "fail":
    raise ValueError("as it was told")
if said.isdigit():
    sys.exit(int(said))
if said == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def server():
    one = ForkServer(WHAT, "pplib.pipeline.stage.eager")  # as of workers that load PyTorch
    yield one
    one.close()


@pytest.fixture
def fork(server, tmp_path):
    """A function that forks a worker; its log is in the test's folder."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def start(word="a"):
        environment = {"WORD": word, "PYTHONPATH": "/first"}
        order = Order("device-7", str(script), ("x",), str(tmp_path), environment)
        with (tmp_path / "log").open("ab") as log:
            process = server.fork(order, log.fileno(), 60)
        return process, json.loads(process.stdout.readline())

    return start


def end(process, word=""):
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(f"{word}\n".encode())
    status = process.wait(20)
    process.stdin.close()
    process.stdout.close()
    return status


def test_a_worker_is_as_if_its_script_had_been_started(fork, tmp_path):
    (one, said), (two, other) = fork("ä"), fork("b")
    assert said.pop("drawn") != other.pop("drawn"), "each draws for itself"
    assert said.pop("fds") == ["0", "1", "2", "3"], "the third is the one that lists them"
    assert said == {
        "argv": [str(tmp_path / "script.py"), "x"],
        "cwd": str(tmp_path),
        "word": "ä",
        "home": False,
        "first": "/first",
        "session": True,
        "name": "device-7",
        "loaded": True,
    }
    assert other["word"] == "b"
    assert end(one) == end(two) == 0
    assert (tmp_path / "log").read_text() == "heard heard "


@pytest.mark.parametrize(("word", "status"), [("3", 3), ("fail", 1), ("kill", -signal.SIGKILL)])
def test_how_it_ended_is_told(fork, tmp_path, word, status):
    process, _ = fork()
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    assert end(process, word) == status == process.poll()
    assert ("ValueError: as it was told" in (tmp_path / "log").read_text()) == (word == "fail")


def test_its_resident_memory_is_that_of_a_worker_that_loaded_all_by_itself(server, fork):
    process, _ = fork()
    alone, forked = (psutil.Process(pid).memory_info().rss for pid in (server._process.pid, process.pid))
    assert end(process) == 0
    assert abs(forked / alone - 1) < 0.02


def test_one_that_is_killed_is_gone_and_may_be_killed_again(fork):
    process, _ = fork()
    process.kill()
    assert end(process) == -signal.SIGKILL
    process.kill()
    assert not psutil.pid_exists(process.pid)


def test_a_server_that_was_killed_is_started_again_and_its_workers_are_ended(server, fork):
    process, _ = fork()
    server._process.kill()
    assert process.wait(20) == end(process) == -signal.SIGKILL
    again, _ = fork()
    assert end(again) == 0


def test_a_server_that_is_not_ready_in_time_is_told_and_ended(tmp_path):
    one = ForkServer(WHAT)
    with (tmp_path / "log").open("ab") as log, pytest.raises(WorkerError, match=r"was not loaded within 0 s \(ready"):
        one.fork(Order("none", "none.py", (), "/", {}), log.fileno(), 0.01)
    assert one._process is None


def test_a_server_that_is_started_ahead_has_loaded_all_when_it_is_waited_for(tmp_path, capfd):
    one = ForkServer("pplib.errors")
    one.wait_loaded(0)  # nothing was started: there is nothing to wait for
    one.start()
    process = one._process
    one.start()
    assert one._process is process, "once"
    one.wait_loaded(60)
    assert one._loaded
    (tmp_path / "nothing.py").write_text("")
    forked = one.fork(Order("nothing", str(tmp_path / "nothing.py"), (), "/", {}), 2, 20)
    assert end(forked) == 0
    one.close()
    assert process.returncode == 0
    assert capfd.readouterr().err == ""


def test_a_server_that_still_loads_is_ended_at_once_and_without_a_word(tmp_path, monkeypatch, capfd):
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(1000)\n")
    monkeypatch.syspath_prepend(tmp_path)
    one = ForkServer("endless")
    one.start()
    process = one._process
    one.close()
    assert process.returncode == -signal.SIGKILL
    assert capfd.readouterr().err == ""


def test_the_server_ends_with_its_process(tmp_path, wait_until):
    code = f"""
import sys
from pplib.testbed.workers.fork_server import ForkServer, Order
server, order = ForkServer({WHAT!r}), Order("sleep", {str(tmp_path / "sleep.py")!r}, (), "/", {{}})
with open({str(tmp_path / "log")!r}, "ab") as log:
    print(server.fork(order, log.fileno(), 60).pid, server._process.pid, flush=True)
sys.stdin.read()
"""
    (tmp_path / "sleep.py").write_text("import sys; sys.stdin.read()")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        worker, server = process.stdout.readline().split()
        process.kill()
        process.wait(20)
    wait_until(lambda: not psutil.pid_exists(int(server)), "the server goes on")
    wait_until(lambda: not psutil.pid_exists(int(worker)), "the worker goes on")
