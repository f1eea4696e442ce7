"""The runs that are compared: read, and refused where they measured unlike things."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.errors import OutputError
from pplib.records import read_record
from pplib.sweep.results import summary_frame, trial_files

SAME = ("weights_sha256", "images_sha256", "labels_sha256", "model_sha256")
"""What a network, its images and their labels are: runs that differ in these measured different things."""


class Run(NamedTuple):
    """One folder of results."""

    name: str
    summary: pd.DataFrame
    ran_on: dict[str, str]


def read_runs(folders: list[Path]) -> list[Run]:
    """The runs in these folders.

    Raises:
        OutputError: fewer than two folders, no trial in one, or they measured unlike things.
    """
    if len(folders) < 2:
        raise OutputError(f"expected two or more folders of results to compare, got {len(folders)}")
    names = [folder.name for folder in folders]
    unique = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    runs = [Run(name, summary_frame(one), _ran_on(one)) for name, one in zip(unique, folders, strict=True)]
    for other in runs[1:]:
        _refuse_unlike(runs[0], other)
    return runs


def _refuse_unlike(first: Run, other: Run) -> None:
    """Raise where no configuration is in both, or one that is has another content."""
    keys = [key for key in CONFIGURATION_KEYS if key != "setup"]
    mine, theirs = (
        run.summary[[*keys, *SAME]].drop_duplicates().astype(object).fillna("").astype(str) for run in (first, other)
    )
    both = mine.merge(theirs, on=keys, suffixes=("", " other"))
    if both.empty:
        differing = [key for key in keys if not set(mine[key]) & set(theirs[key])] or keys
        told = [f"{key}: {_values(mine[key])} and {_values(theirs[key])}" for key in differing]
        raise OutputError(
            f"{first.name} and {other.name}: nothing to compare: no configuration is in both ({', '.join(told)})"
        )
    for key in SAME:
        pair = both[[key, f"{key} other"]]
        unlike = both[(pair[key] != pair[f"{key} other"]) & ~pair.isin([""]).any(axis=1)]
        if len(unlike):
            row = unlike.iloc[0]
            raise OutputError(
                f"{first.name} and {other.name}: not comparable: {key} of {row['model']} is {row[key][:12]} in one and "
                f"{row[f'{key} other'][:12]} in the other"
            )


def _values(column: pd.Series[str]) -> str:
    return " ".join(sorted(set(column)))


def _ran_on(folder: Path) -> dict[str, str]:
    """What the devices of a run said of themselves in its first trial, and what this machine did."""
    record = read_record(trial_files(folder)[0])
    facts: dict[str, str] = {}
    told = (str, int, float, bool)  # what was used meanwhile is no fact of a device
    for name in dict.fromkeys(
        key for device in record.devices for key, value in device.items() if isinstance(value, told)
    ):
        values = [str(device.get(name, "")) for device in record.devices]
        facts[name] = values[0] if len(set(values)) == 1 else ", ".join(values)
    return {**facts, **{f"coordinator: {name}": str(value) for name, value in record.environment.items()}}
