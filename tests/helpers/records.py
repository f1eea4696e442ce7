"""The records of a folder of results."""

from __future__ import annotations

from pathlib import Path

from pplib.records import TrialRecord, read_record
from pplib.sweep.results import trial_files


def read_records(folder: Path) -> list[TrialRecord]:
    """All trials under a results folder, in order of their paths."""
    return [read_record(path) for path in trial_files(folder)]
