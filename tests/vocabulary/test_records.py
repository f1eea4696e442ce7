"""Trial records: whole or not at all, and of one schema."""

from __future__ import annotations

import json

import pytest

from pplib.errors import OutputError
from pplib.records import TrialRecord, read_record, summary_row, trial_path, write_atomic, write_record


def record(**changes):
    values = {
        "configuration": {"model": "alexnet", "backend": "rpc", "num_stages": 2},
        "partition_points": [7],
        "partition_name": "features.6",
        "repeat": 1,
        "order": 4,
        "status": "ok",
        "started_at": "2026-01-01T00:00:00Z",
        "duration_s": 1.5,
        "warmup": 3,
        "cooldown": 1,
        "metrics": {"latency_s": 0.25},
    }
    return TrialRecord(**{**values, **changes})


def test_a_record_comes_back_as_it_was_written(tmp_path):
    path = trial_path(tmp_path, (7,), 1)
    write_record(path, record())
    assert path == tmp_path / "trials" / "P7_r1.json"
    assert read_record(path) == record()
    assert [entry.name for entry in path.parent.iterdir()] == ["P7_r1.json"]


def test_a_row_of_three_stages_names_both_points():
    row = summary_row(record(partition_points=[3, 7], devices=[{"slowdown": 2.0}]))
    assert (row["partition_point"], row["partition_label"], row["emulated"]) == ("3-7", "P3-7", True)
    assert summary_row(record())["partition_point"] == 7
    assert summary_row(record())["latency_s"] == 0.25


def test_a_damaged_record_is_named_and_left_alone(tmp_path):
    path = tmp_path / "P1_r0.json"
    path.write_text('{"configuration": ')
    with pytest.raises(OutputError, match=r"P1_r0\.json: not a trial record"):
        read_record(path)
    assert path.exists()


def test_a_record_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "P1_r0.json"
    write_record(path, record())
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(OutputError, match="schema version 99, expected 1"):
        read_record(path)


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written: .*choose another output_dir"):
        write_atomic(tmp_path / "file" / "trials" / "x.json", b"x")
