"""The records of a folder of results: read, or made up without a worker."""

from __future__ import annotations

from pathlib import Path

from pplib.analysis.trials.timeline import measure
from pplib.config import Configuration, configuration
from pplib.records import StageTimeline, TrialRecord, read_record, trial_path, write_record
from pplib.sweep.results import trial_files

CUTS = {2: (0.010, 0.050), 7: (0.030, 0.032), 15: (0.055, 0.012)}  # point -> what the two stages take of a microbatch


def read_records(folder: Path) -> list[TrialRecord]:
    """All trials under a results folder, in order of their paths."""
    return [read_record(path) for path in trial_files(folder)]


def write_made_up(output_dir: Path, repeats: int = 2, microbatches: int = 16, **values: object) -> Configuration:
    """Write what a sweep of two stages leaves: `CUTS` over a hop of 5 ms, the later repeats a little slower."""
    config = configuration({"output_dir": str(output_dir), "partition_points": list(CUTS), "batch_size": 2, **values})
    for point, costs in CUTS.items():
        for repeat in range(repeats):
            write_record(
                trial_path(config.folder, (point,), repeat), _made_up(config, point, repeat, costs, microbatches)
            )
    return config


def _made_up(config: Configuration, point: int, repeat: int, costs: tuple[float, float], count: int) -> TrialRecord:
    slower = 1 + 0.02 * repeat
    first, last = (
        StageTimeline(
            stage_index=i,
            device=f"device-{i}",
            ready_s=[],
            received_s=[],
            compute_start_s=[],
            compute_end_s=[],
            copy_s=[0.0] * count,
            send_start_s=[],
        )
        for i in range(2)
    )
    returned = list[float]()
    for n in range(count):
        admitted = returned[n - config.in_flight] if n >= config.in_flight else 0.0
        for stage, cost in zip((first, last), costs, strict=True):
            before = stage.received_s[-1] if stage.received_s else 0.0
            free = stage.compute_end_s[-1] if stage.compute_end_s else 0.0
            there = max(admitted, free) if stage is first else max(first.send_start_s[-1], before) + 0.005 * slower
            start = max(there, free)
            stage.ready_s.append(before)
            stage.received_s.append(there)
            stage.compute_start_s.append(start)
            stage.compute_end_s.append(start + cost * slower)
            stage.send_start_s.append(start + cost * slower)
        returned.append(last.send_start_s[-1] + 0.001)
    return TrialRecord(
        configuration=config.as_dict(),
        partition_points=[point],
        partition_name=f"features.{point - 1}",
        repeat=repeat,
        order=repeat * len(CUTS) + list(CUTS).index(point),
        status="ok",
        started_at=f"2026-01-01T00:0{repeat}:{point:02}.000Z",
        duration_s=1.0,
        warmup=2,
        cooldown=1,
        metrics=measure([first, last], returned, slice(2, count - 1), config.batch_size),
        timelines=[first, last],
        returned_s=returned,
        devices=[
            {"name": f"device-{i}", "cpu": "a CPU", "torch": "2.9.1", "threads": 1, "cores": "0", "torch_device": "cpu"}
            | {"slowdown": 1.0, "emulated": False}
            for i in range(2)
        ],
        environment={
            "torch": "2.9.1",
            "python": "3.11",
            "pplib": "1",
            "git_commit": "abc",
            "weights_sha256": "aa" * 32,
        },
    )
