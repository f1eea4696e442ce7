"""The trial record: one JSON file per trial, written atomically, and its row of `summary.csv`."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import msgspec

from pplib.columns import OF_ALL_TRIALS
from pplib.errors import OutputError
from pplib.files.own_paths import without_own_paths
from pplib.links import LinkRecord

SCHEMA_VERSION = 1
HALF = ".half"  # ends the name of a file that is being written


class StageTimeline(msgspec.Struct, kw_only=True):
    """When each microbatch passed one stage; lists have one entry per microbatch, warm-up first.

    Seconds on the coordinator's time base, counted from the first admission of the trial.
    `received_s`: the whole input is in the stage's memory (stage 0: it takes the microbatch up).
    `ready_s`: there was room to receive it. `compute_*_s` include copies to and from a GPU, of which
    `copy_s` tells the duration. `send_start_s`: the link took the output up. `decode_s` is how long it took, before
    computing, to decode the input, `encode_s`, before sending, to encode the output; empty where that is not done.
    """

    stage_index: int
    device: str
    ready_s: list[float]
    received_s: list[float]
    compute_start_s: list[float]
    compute_end_s: list[float]
    copy_s: list[float]
    send_start_s: list[float]
    encode_s: list[float] = []
    decode_s: list[float] = []
    clock_offset_s: float = 0.0
    clock_drift_s: float = 0.0
    clock_error_s: float = 0.0


class TrialRecord(msgspec.Struct, kw_only=True):
    """One measured run of one partition point, with all that is needed to judge it.

    Of the microbatches in `timelines` the first `warmup` and the last `cooldown` are not measured.
    `metrics` are the measured columns of `summary.csv` (empty when the trial failed);
    `returned_s` is when each output was back on stage 0. `link` is None in records from before links
    were measured.
    """

    schema_version: int = SCHEMA_VERSION
    configuration: dict[str, Any]
    partition_points: list[int]
    partition_name: str
    repeat: int
    order: int
    status: Literal["ok", "failed"]
    error: str = ""
    started_at: str
    duration_s: float
    warmup: int
    cooldown: int
    metrics: dict[str, float | str | None] = {}
    timelines: list[StageTimeline] = []
    returned_s: list[float] = []
    link: LinkRecord | None = None
    devices: list[dict[str, Any]] = []
    environment: dict[str, Any] = {}

    @property
    def measured(self) -> slice:
        """The measured microbatches among those of the timelines."""
        return slice(self.warmup, len(self.returned_s) - self.cooldown)

    @property
    def label(self) -> str:
        """`P7`, or `P3-7` for three stages."""
        return point_label(self.partition_points)


def point_label(points: list[int] | tuple[int, ...]) -> str:
    """The name of a partition, as in columns, charts and file names.

    >>> point_label((7,)), point_label((3, 7))
    ('P7', 'P3-7')
    """
    return "P" + "-".join(str(point) for point in points)


def trial_path(folder: Path, points: tuple[int, ...], repeat: int) -> Path:
    """Where the record of this trial is, or will be."""
    return folder / "trials" / f"{point_label(points)}_r{repeat}.json"


def write_atomic(path: Path, content: bytes, mode: int = 0o644, durable: bool = True) -> None:
    """Write a whole file or nothing: a reader, or a crash, never sees half of it.

    One that is not `durable` is not waited for until the disk has it: it is lost with the machine.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=HALF)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            Path(temporary).chmod(mode)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise not_written(path, exc) from exc


def remove_half_written(folder: Path) -> None:
    """Remove what killed processes were writing below a folder of results, which nobody writes into now."""
    for place in (folder, folder / "trials", folder / "charts"):
        for path in place.glob(f".*{HALF}"):
            with contextlib.suppress(OSError):  # then it stays, and harms nobody
                path.unlink()


def not_written(path: Path, exc: OSError) -> OutputError:
    """The error that says why a file of the results could not be written, and what to do."""
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "make room, or choose another output_dir" if full else "choose another output_dir"
    return OutputError(f"{path}: cannot be written: {exc.strerror or exc}: {advice}")


def write_record(path: Path, record: TrialRecord) -> None:
    """Store one trial; what it tells of paths of this machine is told as it is meant elsewhere."""
    text = msgspec.json.format(msgspec.json.encode(record).decode(), indent=1)
    write_atomic(path, without_own_paths(text, str(record.configuration.get("output_dir", ""))).encode())


def read_record(path: Path) -> TrialRecord:
    """Read one trial.

    Raises:
        OutputError: unreadable, damaged, or of another schema version; the file is left alone.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=TrialRecord)
    except (OSError, msgspec.DecodeError) as exc:
        raise OutputError(f"{path}: not a trial record: {exc}: move it away, and the trial is run again") from exc
    if record.schema_version != SCHEMA_VERSION:
        raise OutputError(
            f"{path}: schema version {record.schema_version}, expected {SCHEMA_VERSION}: "
            "read it with the version that wrote it, or choose another output_dir"
        )
    return record


def summary_row(record: TrialRecord) -> dict[str, Any]:
    """One tidy row: the configuration, the point, the outcome, the metrics."""
    config = record.configuration
    points = record.partition_points
    head = [key for key in config if key not in OF_ALL_TRIALS]
    return {
        **{key: config.get(key) for key in head},
        **_ran_on(record),
        "partition_point": points[0] if len(points) == 1 else record.label[1:],
        "partition_label": record.label,
        "partition_name": record.partition_name,
        "repeat": record.repeat,
        "order": record.order,
        "status": record.status,
        "error": record.error,
        "emulated": any(device.get("slowdown", 1) > 1 for device in record.devices),
        "started_at": record.started_at,
        "duration_s": record.duration_s,
        **({} if record.link is None else link_columns(record.link)),
        **record.metrics,
    }


def _ran_on(record: TrialRecord) -> dict[str, Any]:
    """What a trial ran on and with, in words: one column each, devices in pipeline order."""

    def each(key: str) -> str | None:
        told = [device.get(key) for device in record.devices]
        return " + ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in told) if any(told) else None

    on_devices = {
        "device_names": each("name"),
        "cpu": each("cpu"),
        "gpu": each("gpu"),
        "torch": each("torch"),
        "congestion_control": each("congestion_control"),
        "device_torch_devices": each("torch_device"),
        "device_threads": each("threads"),
        "device_slowdowns": each("slowdown"),
    }
    with_what = ("git_commit", "weights_sha256", "images_sha256", "labels_sha256", "model_sha256")
    return {**on_devices, **{key: record.environment.get(key) for key in with_what}}


def link_columns(link: LinkRecord) -> dict[str, float | str | None]:
    """What was asked of the link and what was measured, as columns: round trips in s, goodput in bit/s."""
    forward, backward = link.profile.forward, link.profile.backward
    columns: dict[str, float | str | None] = {
        "link_engine": link.engine,
        "link_tunnel": link.tunnel,
        "link_requested_rtt_s": link.profile.rtt_s,
        "link_requested_forward_bit_s": forward.rate_bit_s,
        "link_requested_backward_bit_s": backward.rate_bit_s,
        "link_requested_loss": forward.loss,
        "link_requested_backward_loss": backward.loss,
        "link_requested_rtt_spread_s": link.profile.rtt_spread_s,
    }
    for when, hops in (("before", link.before), ("after", link.after or [])):
        for i, hop in enumerate(hops):
            columns |= {
                f"hop{i}_rtt_{when}_s": hop.rtt_s,
                f"hop{i}_rtt_p99_{when}_s": hop.rtt_p99_s,
                f"hop{i}_forward_{when}_bit_s": hop.forward_bit_s,
                f"hop{i}_backward_{when}_bit_s": hop.backward_bit_s,
                f"hop{i}_rtt_spread_{when}_s": hop.rtt_spread_s,
                f"hop{i}_forward_loss_{when}": hop.forward_loss,
                f"hop{i}_backward_loss_{when}": hop.backward_loss,
                f"hop{i}_forward_segments_{when}": hop.forward_segments,
                f"hop{i}_backward_segments_{when}": hop.backward_segments,
            }
    return columns
