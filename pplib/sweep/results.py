"""Results on disk: what is done already, and the tidy summary of a folder of trials."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from pplib.config import Configuration
from pplib.decode import plain
from pplib.devices import Testbed
from pplib.errors import OutputError
from pplib.records import TrialRecord, read_record, summary_row, trial_path, write_atomic, write_record


def claim_folder(config: Configuration, testbed: Testbed) -> None:
    """Make this configuration's folder, or make sure that what it holds can be continued.

    Raises:
        OutputError: not writable, or it holds trials of other parameters or devices; they are named.
    """
    path = config.folder / "configuration.json"
    ours = {**config.measured(), "devices": plain(testbed)["devices"]}
    if config.link_profile.shaped:
        ours["link_profile"] = plain(config.link_profile)
    if testbed.tunnel != "none":
        ours["tunnel"] = testbed.tunnel
    if path.exists():
        try:
            theirs: dict[str, Any] = msgspec.json.decode(path.read_bytes())
        except (OSError, msgspec.DecodeError) as exc:
            raise OutputError(f"{path}: cannot be read: {exc}") from exc
        differing = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
        if differing:
            changes = "; ".join(f"{key}: {theirs.get(key)!r} there, {ours.get(key)!r} here" for key in differing)
            raise OutputError(
                f"{config.folder}: holds trials that cannot be compared with these ({changes}): "
                "choose another `name`, or delete the folder"
            )
    write_atomic(path, msgspec.json.format(msgspec.json.encode(ours), indent=1))


def is_done(config: Configuration, points: tuple[int, ...], repeat: int) -> bool:
    """Whether this trial was measured; a failed one counts as missing, as does one over a shaped link
    that was not found right afterwards.
    """
    path = trial_path(config.folder, points, repeat)
    if not path.exists():
        return False
    record = read_record(path)
    return record.status == "ok" and (record.link is None or record.link.verified)


def read_records(folder: Path) -> list[TrialRecord]:
    """All trials under a results folder (of one configuration or of a grid), in order of their paths.

    Raises:
        OutputError: no trial there.
    """
    paths = sorted(folder.glob("**/trials/*.json"))
    if not paths:
        raise OutputError(f"{folder}: no trials there: expected <configuration>/trials/*.json")
    return [read_record(path) for path in paths]


def summary_frame(folder: Path) -> pd.DataFrame:
    """One row per trial under `folder`."""
    frame = pd.DataFrame([summary_row(record) for record in read_records(folder)])
    keys = ["model", "backend", "link", "in_flight", "batch_size", "repeat", "order"]
    return frame.sort_values(keys, kind="stable", ignore_index=True)


def write_summary(folder: Path) -> Path:
    """Write `summary.csv` of a results folder; where it is."""
    path = folder / "summary.csv"
    write_atomic(path, summary_frame(folder).to_csv(index=False).encode())
    return path


def read_summary(path: Path) -> pd.DataFrame:
    """Read a `summary.csv` back with the dtypes it was written from."""
    return pd.read_csv(path, keep_default_na=True, dtype={"error": "str", "num_classes": "Int64"})


def timeline_frame(record: TrialRecord, measured_only: bool = True) -> pd.DataFrame:
    """The events of one trial: what each stage and hop did with each microbatch, and when.

    Columns: microbatch, stage_index, lane ("stage 0", "hop 0"), event ("queue", "compute",
    "transfer"), start_s, end_s (since the first admission), device. Queueing shows on the lane of
    the stage or hop that is waited for.
    """
    from pplib.runtime.timeline import Parts

    parts = Parts(record.timelines, propagation_s=record.link.profile.forward.delay_s if record.link else 0.0)
    total = len(record.returned_s)
    shown = range(total)[record.measured] if measured_only else range(total)
    rows = []
    for i, stage in enumerate(record.timelines):
        for seq in shown:
            spans = [
                (f"stage {i}", "queue", stage.received_s[seq], stage.compute_start_s[seq]),
                (f"stage {i}", "compute", stage.compute_start_s[seq], stage.compute_end_s[seq]),
            ]
            if i < len(parts.transfer):
                start = float(parts.transfer_start[i][seq])
                spans += [
                    (f"hop {i}", "queue", stage.compute_end_s[seq], start),
                    (f"hop {i}", "transfer", start, record.timelines[i + 1].received_s[seq]),
                ]
            rows += [
                {
                    "microbatch": seq - shown.start,
                    "stage_index": i,
                    "lane": lane,
                    "event": event,
                    "start_s": begin,
                    "end_s": end,
                    "device": stage.device,
                }
                for lane, event, begin, end in spans
            ]
    return pd.DataFrame(rows)


def drop_details(folder: Path) -> None:
    """Keep one small record per trial and the summary; timelines and executed notebooks go (`keep: summary`)."""
    for path in folder.glob("**/trials/*.json"):
        record = read_record(path)
        if record.timelines:
            record.timelines, record.returned_s = [], []
            write_record(path, record)
    for path in folder.glob("*/sweep.ipynb"):
        path.unlink()
    for path in folder.glob("*/.ipynb_checkpoints"):
        shutil.rmtree(path)
