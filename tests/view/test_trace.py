"""A trial's timeline as a trace that Perfetto opens."""

from __future__ import annotations

import json

import pytest

from pplib.records import StageTimeline, TrialRecord, write_record
from pplib.view.trace import main, trace

MS = 1e-3


def record():
    """Two microbatches through two stages: the second waits for stage 1, its transfer overlaps with nothing."""
    first = StageTimeline(
        stage_index=0,
        device="a",
        ready_s=[0.0, 10 * MS],
        received_s=[0.0, 10 * MS],
        compute_start_s=[0.0, 10 * MS],
        compute_end_s=[10 * MS, 20 * MS],
        copy_s=[0.0, 0.0],
        send_start_s=[10 * MS, 20 * MS],
    )
    last = StageTimeline(
        stage_index=1,
        device="b",
        ready_s=[0.0, 0.0],
        received_s=[12 * MS, 22 * MS],
        compute_start_s=[12 * MS, 42 * MS],
        compute_end_s=[42 * MS, 72 * MS],
        copy_s=[0.0, 0.0],
        send_start_s=[42 * MS, 72 * MS],
        clock_error_s=5e-5,
    )
    return TrialRecord(
        configuration={"model": "m"},
        partition_points=[3],
        partition_name="x",
        repeat=1,
        order=0,
        status="ok",
        started_at="2026-01-01T00:00:00+00:00",
        duration_s=1.0,
        warmup=1,
        cooldown=0,
        timelines=[first, last],
        returned_s=[43 * MS, 73 * MS],
    )


def test_what_is_computed_lasts_what_waits_or_travels_begins_and_ends_and_the_clocks_error_is_told():
    found = trace(record())
    names = [event["args"]["name"] for event in found["traceEvents"] if event["ph"] == "M"]
    assert names == ["a (clock within 0 us)", "b (clock within 50 us)"]
    computed = [
        (event["pid"], event["name"], event["ts"], event["dur"]) for event in found["traceEvents"] if event["ph"] == "X"
    ]
    assert computed == [
        (0, "compute 0", 0.0, pytest.approx(10_000)),
        (0, "compute 1", pytest.approx(10_000), pytest.approx(10_000)),
        (1, "compute 0", pytest.approx(12_000), pytest.approx(30_000)),
        (1, "compute 1", pytest.approx(42_000), pytest.approx(30_000)),
    ]
    begun = {event["id"]: event["ts"] for event in found["traceEvents"] if event["ph"] == "b"}
    ended = {event["id"]: event["ts"] for event in found["traceEvents"] if event["ph"] == "e"}
    assert begun.keys() == ended.keys() == {"hop 0 transfer 0", "hop 0 transfer 1", "stage 1 queue 1"}
    assert ended["stage 1 queue 1"] - begun["stage 1 queue 1"] == pytest.approx(20_000)
    assert ended["hop 0 transfer 1"] - begun["hop 0 transfer 1"] == pytest.approx(2_000)
    assert found["otherData"]["clock_error_s"] == {"a": 0.0, "b": 5e-5}
    assert (found["otherData"]["point"], found["otherData"]["warmup"]) == ("P3", 1)


def test_the_command_writes_the_trace_where_it_is_asked_to_and_says_what_is_no_record(tmp_path, capsys):
    write_record(tmp_path / "P3_r1.json", record())
    assert main([str(tmp_path / "P3_r1.json"), "--output", str(tmp_path / "it.json")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'it.json'}\n"
    assert json.loads((tmp_path / "it.json").read_text())["displayTimeUnit"] == "ms"
    (tmp_path / "bad.json").write_text("{}")
    assert main([str(tmp_path / "bad.json")]) == 1
    assert "bad.json: not a trial record" in capsys.readouterr().err
