"""Trials during which a device was disturbed: measured once more, and left out where their point has others."""

from __future__ import annotations

import os

import pytest

from pplib.records import read_record, trial_path, write_record
from pplib.sweep.measuring.schedule import missing_trials, once_more
from pplib.sweep.results import read_summary
from pplib.view.words.disturbed import disturbed_words
from tests.sweep.test_batch import run_sweep
from tests.sweep.test_summary import summary_of, write  # noqa: F401 (a fixture)

POINTS = [(2,), (4,)]


def mark(config, point, repeat, words="pi: throttled", **changes):
    """Say of a trial that a device was disturbed; of one that is not there, made from the first of its point."""
    path = trial_path(config.folder, (point,), repeat)
    record = read_record(path if path.exists() else trial_path(config.folder, (point,), 0))
    record.repeat, record.metrics["disturbed"] = repeat, words
    for name, value in changes.items():
        setattr(record, name, value)
    write_record(path, record)


def test_a_disturbed_trial_is_measured_once_more_as_a_repeat_of_its_own(write):  # noqa: F811
    config = write(repeats=2)
    assert missing_trials(config, POINTS) == []
    mark(config, 4, 1)
    (again,) = missing_trials(config, POINTS)
    assert (again.points, again.repeat, again.order) == ((4,), 2, 4)
    mark(config, 4, 2, words="")
    assert missing_trials(config, POINTS) == [], "it has as many as were asked for"


def test_what_is_missing_comes_first(write):  # noqa: F811
    config = write(repeats=3)
    mark(config, 4, 1)
    assert [(one.points, one.repeat) for one in sorted(missing_trials(config, POINTS), key=lambda one: one.points)] == [
        ((2,), 2),
        ((4,), 2),
    ]


def test_a_device_that_is_always_disturbed_is_taken_to_be_so(write):  # noqa: F811
    config = write(repeats=2)
    for point in (2, 4):
        mark(config, point, 0)
        mark(config, point, 1)
    assert {(one.points, one.repeat) for one in once_more(config, POINTS)} == {((2,), 2), ((4,), 2)}
    mark(config, 2, 2)
    mark(config, 4, 2)
    assert once_more(config, POINTS) == [], "both were disturbed again"
    words = disturbed_words(summary_of(config.results))
    assert words == (
        "6 of 6 trials were disturbed (pi: throttled); 0 of them are left out, for their points have others. All "
        "trials of these points were disturbed, and count: P2, P4."
    )


def test_no_point_gets_more_than_twice_what_was_asked_for(write):  # noqa: F811
    config = write(repeats=2)
    mark(config, 4, 1)
    for repeat in (2, 3):
        mark(config, 4, repeat, words="", status="failed", error="lost", metrics={})
    assert once_more(config, POINTS) == []


VCGENCMD = """#!/bin/sh
echo asked >> {log}
calls=$(wc -l < {log})
[ "$calls" -eq 6 ] && echo throttled=0x4 || echo throttled=0x0
"""


@pytest.mark.timeout(600)
def test_a_trial_during_which_the_firmware_says_throttled_is_repeated_at_the_end(
    tmp_path, tiny, links, unshown, monkeypatch, capsys
):
    """In place of a Raspberry Pi's firmware a script answers: throttled when it is asked for the sixth time."""
    program = tmp_path / "bin" / "vcgencmd"
    program.parent.mkdir()
    program.write_text(VCGENCMD.format(log=tmp_path / "asked.txt"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    grid = {**tiny, "partition_points": [2, 3], "repeats": 2}
    assert run_sweep(tmp_path, grid) == 0
    assert "\ndisturbed: 1 of 5 trials were disturbed (" in capsys.readouterr().out
    summary = read_summary(tmp_path / "out" / "tiny" / "summary.csv").sort_values("order")
    disturbed = summary["disturbed"].fillna("")
    (hot,) = [i for i, words in enumerate(disturbed) if words]
    assert hot < 4 and ": throttled" in disturbed.iloc[hot]
    flags = summary[["stage0_throttled", "stage1_throttled"]].max(axis=1)  # two may ask at the same time
    assert flags.tolist() == [int(i == hot) for i in range(5)]
    assert (summary["repeat"].iloc[4], summary["partition_label"].iloc[4]) == (2, summary["partition_label"].iloc[hot])
    assert {"stage1_swapped_bytes", "stage0_suspended_s"} <= set(summary.columns)  # too short for steal
    before = list((tmp_path / "out").rglob("trials/*.json"))
    assert run_sweep(tmp_path, grid) == 0
    assert list((tmp_path / "out").rglob("trials/*.json")) == before
