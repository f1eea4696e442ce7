"""Results on disk: what is done already, and the tidy summary of a folder of trials."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from pplib.analysis.estimated.drift import drift_of
from pplib.analysis.repeats import point_name
from pplib.analysis.setups import setups
from pplib.analysis.statistics import CONFIGURATION_KEYS
from pplib.analysis.trials.events import timeline_frame
from pplib.columns import COLUMNS
from pplib.config import Configuration
from pplib.errors import OutputError
from pplib.files.csv_text import read_csv, to_csv
from pplib.files.own_paths import shown_values, without_own_paths
from pplib.records import read_record, summary_row, trial_path, write_atomic, write_record

CUTS = "cuts.json"
PREDICTIONS = "predictions.csv"
_PREDICTED = [column.name for column in COLUMNS if column.name.startswith(("predicted_", "plan_"))]
_DEFAULTS = Configuration().as_dict()  # what a record says nothing of is older than the parameter


def is_done(config: Configuration, points: tuple[int, ...], repeat: int) -> bool:
    """Whether this trial was measured; a failed one counts as missing, as does one over a shaped link
    that was not found right afterwards.
    """
    path = trial_path(config.folder, points, repeat)
    if not path.exists():
        return False
    record = read_record(path)
    return record.status == "ok" and (record.link is None or record.link.verified)


def trial_files(folder: Path) -> list[Path]:
    """The records under a results folder (of one configuration, of a grid, or of several), in order of their paths."""
    return sorted(path for path in folder.glob("**/trials/*.json") if not path.name.startswith("."))


def write_cuts(config: Configuration, cuts: pd.DataFrame) -> None:
    """Keep what the partition points of a configuration are, beside its trials: `cuts.json`.

    Raises:
        OutputError: the folder cannot be written.
    """
    content = cuts.to_json(orient="records", indent=1)
    if not (path := config.folder / CUTS).is_file() or path.read_text("utf-8") != content:
        write_atomic(path, content.encode())


def read_cuts(config: Configuration) -> pd.DataFrame | None:
    """What `write_cuts` wrote; None where nothing did, as of results that are older."""
    path = config.folder / CUTS
    if not path.is_file():
        return None
    cuts = pd.DataFrame(json.loads(path.read_text("utf-8")))
    return cuts.assign(activation_shape=cuts["activation_shape"].map(tuple))


def write_predictions(folder: Path, table: pd.DataFrame) -> None:
    """Keep what was predicted of the cuts of a configuration: `predictions.csv` in its folder.

    Args:
        folder: of the configuration.
        table: one row per cut, see `pplib.planner.prediction.predict_cuts`; `plan_round`: in which round of a plan it
            was chosen, NaN where it was not; what is predicted of one that was is from before it was measured.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_atomic(folder / PREDICTIONS, to_csv(table).encode())


def read_predictions(folder: Path) -> pd.DataFrame | None:
    """What `write_predictions` wrote; None where nothing did.

    Raises:
        OutputError: the file cannot be read.
    """
    path = folder / PREDICTIONS
    if not path.is_file():
        return None
    wrong = ""
    try:
        table = read_csv(path, keep_default_na=True)
    except (OSError, ValueError) as exc:
        wrong = str(exc)
    else:
        lacking = [name for name in ("partition_label", "plan_round") if name not in table.columns]
        wrong = f"expected the column {lacking[0]}" if lacking else ""
        if not lacking and not table["partition_label"].astype("str").str.fullmatch(r"P\d+(-\d+)*").all():
            wrong = "expected a partition_label such as P7 in every row"
    if wrong:
        raise OutputError(f"{path}: no predictions: {wrong}: move it away to predict again")
    return table


def has_trials(folder: Path) -> bool:
    """Whether there is a record under a folder."""
    return bool(trial_files(folder))


def _some_trial_files(folder: Path) -> list[Path]:
    paths = trial_files(folder)
    if not paths:
        raise OutputError(f"{folder}: no trials there: expected <configuration>/trials/*.json")
    return paths


def summary_frame(folder: Path) -> pd.DataFrame:
    """One row per trial under `folder`; `setup` says what tells them apart beside the configuration's columns.

    Raises:
        OutputError: no trial there, or one is there twice.
    """
    rows, seen, places = [], dict[object, Path](), dict[tuple[str, str], Path]()
    for path in _some_trial_files(folder):
        record = read_record(path)
        record.configuration = {**_DEFAULTS, **record.configuration}
        key = (record.started_at, record.label, record.repeat, str(record.configuration))
        if key in seen:
            raise OutputError(
                f"{path}: the same trial as {seen[key]}: one of the folders is a copy; move it out of {folder}, or "
                "analyze one of them"
            )
        seen[key] = path
        place = path.parent.parent
        run = str(place.parent.relative_to(folder)) if place != folder else ""
        places[run, place.name] = place
        rows.append({**summary_row(record), "run": run, "folder": place.name})
    frame = _with_predictions(pd.DataFrame(rows), places)
    frame.insert(0, "setup", setups(frame, [key for key in CONFIGURATION_KEYS if key != "setup"]))
    speeds = {f"stage{i}_speed": np.exp(-log_s) for i, log_s in enumerate(drift_of(frame).log_s.T)}
    frame = pd.concat([frame, pd.DataFrame(speeds, index=frame.index)], axis=1)
    held = [name for name in frame.columns if re.fullmatch(r"stage\d+_resident_peak_bytes", str(name))]
    if held:
        frame["peak_memory_bytes"] = frame[held].max(axis=1, skipna=False)
    keys = ["model", "backend", "link", "in_flight", "batch_size", "setup", "repeat", "order"]
    return frame.drop(columns=["run", "folder"]).sort_values(keys, kind="stable", ignore_index=True)


def _with_predictions(frame: pd.DataFrame, places: Mapping[tuple[str, str], Path]) -> pd.DataFrame:
    """With the columns of what was predicted of each trial's cut, where that was done; `places` by run and folder."""
    tables = []
    for (run, name), place in places.items():
        if (known := read_predictions(place)) is not None:
            tables.append(known.assign(run=run, folder=name, predicted_cuts=len(known)))
    if not tables:
        return frame
    told = pd.concat(tables, ignore_index=True)
    wanted = [name for name in _PREDICTED if name in told.columns]
    return frame.merge(
        told[["run", "folder", "partition_label", *wanted]], on=["run", "folder", "partition_label"], how="left"
    )


def write_summary(folder: Path) -> Path:
    """Write `summary.csv` of a results folder; where it is."""
    path = folder / "summary.csv"
    write_atomic(path, without_own_paths(to_csv(summary_frame(folder)), folder.parent).encode())
    return path


def read_summary(path: Path) -> pd.DataFrame:
    """Read a `summary.csv` back with the dtypes it was written from."""
    frame = read_csv(path, keep_default_na=True, dtype={"error": "str", "setup": "str", "num_classes": "Int64"})
    older = {key: _DEFAULTS[key] for key in CONFIGURATION_KEYS if key in _DEFAULTS and key not in frame.columns}
    frame = frame.assign(setup=frame["setup"].fillna("") if "setup" in frame.columns else "", **older)
    return frame.copy()  # in few blocks: as it is read, each column is one, and pandas warns of more to come


def kept_timelines(folder: Path, trials: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The events of these trials, by `point_name`; nothing of one whose record keeps no timelines or is not there.

    Args:
        folder: of results.
        trials: rows of its summary, one per point.

    Raises:
        OutputError: a record is damaged.
    """
    wanted = {_trial_name(row): point_name(row) for row in trials.to_dict("records")}
    files = {f"{row['partition_label']}_r{int(row['repeat'])}.json" for row in trials.to_dict("records")}
    found = {}
    for path in trial_files(folder):
        record = read_record(path) if path.name in files else None
        if record is not None and record.timelines:
            record.configuration = {**_DEFAULTS, **record.configuration}
            if (name := wanted.get(_trial_name(summary_row(record)))) is not None:
                found[name] = timeline_frame(record)
    return found


def _trial_name(row: Mapping[Any, Any]) -> tuple[str, int, str]:
    """What tells a trial from all others, in its record as in the summary, where `setup` is told by all of them."""
    return point_name({**row, "setup": ""}), int(row["repeat"]), str(row["started_at"])


def is_shown(config: Configuration) -> bool:
    """Whether the sweep notebook was executed to its end since the newest trial of a configuration."""
    copy = config.folder / "sweep.ipynb"
    newest = max((path.stat().st_mtime_ns for path in trial_files(config.folder)), default=0)
    return copy.exists() and copy.stat().st_mtime_ns >= newest and bool(_noted(copy).end_time)


def drop_details(configurations: Iterable[Configuration]) -> None:
    """Keep one small record per trial and the summary (`keep: summary`): timelines and executed notebooks go.

    Only what these configurations wrote is touched, whatever else is in their folders: records that tell
    their parameters, and the executed copy that was given them.
    """
    for config in configurations:
        for path in trial_files(config.folder):
            record = read_record(path)
            if record.timelines and _is_of(config, record.configuration):
                record.timelines, record.returned_s = [], []
                write_record(path, record)
        opened = config.folder / ".ipynb_checkpoints"  # JupyterLab's copy of a notebook that was looked at
        for path in (config.folder / "sweep.ipynb", opened / "sweep-checkpoint.ipynb"):
            if _is_of(config, _noted(path).parameters):
                path.unlink()
        with contextlib.suppress(OSError):  # there is none, or it holds more
            opened.rmdir()


def _is_of(config: Configuration, told: Mapping[str, Any]) -> bool:
    """Whether parameters that a file tells are those of a configuration."""
    told = shown_values(told)
    return all(key in told and told[key] == value for key, value in shown_values(config.measured()).items())


def _noted(notebook: Path) -> _Papermill:
    """What papermill noted in an executed notebook; nothing where it is none."""
    try:
        return msgspec.json.decode(notebook.read_bytes(), type=_Executed).metadata.papermill
    except (OSError, msgspec.DecodeError):
        return _Papermill()


class _Papermill(msgspec.Struct):
    parameters: dict[str, Any] = {}
    end_time: str | None = None


class _Metadata(msgspec.Struct):
    papermill: _Papermill = msgspec.field(default_factory=_Papermill)


class _Executed(msgspec.Struct):
    metadata: _Metadata
