"""How a worker ended, as its log and the errors about it tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from pplib.testbed.workers.local import SILENT, last_words, write_ending


@pytest.mark.parametrize("said", ["signal 9; ", "exit status 137"])
def test_a_worker_that_was_killed_by_nobody_known_was_out_of_memory_most_likely(tmp_path, said):
    write_ending(tmp_path / "log", said)
    assert "because memory ran out" in last_words(tmp_path / "log", 0)


@pytest.mark.parametrize("said", ["signal 4", "exit status 132", "exit code 132"])
def test_a_worker_that_its_processor_cannot_run_is_told_so(tmp_path, said):
    write_ending(tmp_path / "log", said)
    assert "SIGILL: an instruction that its processor has not" in last_words(tmp_path / "log", 0)


@pytest.mark.parametrize("said", [f"{SILENT}exit status 137", f"{SILENT}signal 9; ", "signal 6", "exit status 1"])
def test_no_other_end_is_taken_for_one(tmp_path, said):
    write_ending(tmp_path / "log", said)
    assert last_words(tmp_path / "log", 0) == f"the worker ended: {said.rstrip('; ')}"


def test_what_a_worker_said_before_it_ended_is_told_once_and_without_noise(tmp_path):
    said = (
        "[W1 socket.cpp:207] [c10d] The hostname of the client socket cannot be retrieved. err=-3\nit hurts\nKilled\n"
    )
    for _ in range(2):  # the bridge and the supervisor both note it
        write_ending(tmp_path / "log", "exit status 1", said)
    assert last_words(tmp_path / "log", 0) == "it hurts | the worker ended: exit status 1"


def test_a_full_disk_here_does_not_end_the_supervision_of_workers():
    full = Path("/dev/full")
    if full.exists():
        write_ending(full, "exit status 1", "its log")
