"""What is said while a sweep runs, and how long it is said to take."""

from __future__ import annotations

import io
import math
import sys

import msgspec
import pytest

from pplib.sweep import progress
from pplib.sweep.progress import Board, Eta, State, Told


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_the_estimate_counts_the_set_up_of_configurations_to_come():
    clock = Clock()
    eta = Eta({"a": 4, "b": 4, "c": 4}, clock)
    eta.begin("a")
    clock.now = 20.0
    eta.at(0)
    assert eta.remaining_s() is None, "nothing is known of a trial"
    clock.now = 22.0
    eta.at(1)
    assert eta.remaining_s() == 3 * 2.0 + 2 * (20.0 + 4 * 2.0)
    for done in (2, 3, 4):
        clock.now += 2.0
        eta.at(done)
    eta.begin("b")
    assert eta.remaining_s() == 4 * 2.0 + 20.0 + 4 * 2.0


def test_of_a_plan_nobody_knows_how_long_it_takes():
    clock = iter(range(100)).__next__
    eta = Eta({"a": math.inf}, clock)
    eta.begin("a")
    for done in range(3):
        eta.at(done)
    assert eta.remaining_s() is None


def test_on_paper_a_line_per_stage_and_repeat_and_not_per_trial(capsys):
    tell = Told()
    tell(State(doing="loading"))
    for i in range(4):
        tell(State(doing=f"measuring P{i}, repeat {i // 2 + 1} of 2", done=i, total=4, repeat=i // 2))
    assert capsys.readouterr().out.splitlines() == [
        "loading",
        "measuring P0, repeat 1 of 2; 0 of 4 trials",
        "measuring P2, repeat 2 of 2; 2 of 4 trials",
    ]


@pytest.mark.parametrize("live", [True, False])
def test_the_command_says_which_configuration_is_at_what_and_what_failed(tmp_path, monkeypatch, live):
    stream = io.StringIO()
    stream.isatty = lambda: live
    monkeypatch.setattr(sys, "stderr", stream)
    board = Board({"a": 2, "b": 2}, tmp_path / "progress")
    monkeypatch.setenv(progress.VARIABLE, str(tmp_path / "progress"))
    board.say("starting the workers of pi-1, pi-2")
    board.begin("a")
    Told(False)(State(doing="loading x and its images"))
    board.look()
    Told(False)(State(doing="measuring P7, repeat 1 of 1", done=1, total=2, failed=1, repeat=0))
    board.look()
    board.failed("a", "a worker died\nand more")
    board.begin("b")
    said = stream.getvalue()
    for text in [
        "starting the workers of pi-1, pi-2",
        "[1/2] a: loading x and its images",
        "[1/2] a: measuring P7, repeat 1 of 1; 1 of 2 trials, 1 failed",
        "a failed: a worker died\n",
        "[2/2] b: starting; 1 configuration(s) failed",
    ]:
        assert text in said
    assert said.count("\n") == (1 if live else 6)


def test_a_file_half_written_is_no_error(tmp_path):
    board = Board({"a": 1}, tmp_path / "progress")
    (tmp_path / "progress").write_bytes(msgspec.json.encode(State(doing="x"))[:5])
    board.look()
