"""Run one trial and make its record, whatever happens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pplib.config import WARMUP_MICROBATCHES
from pplib.decode import plain
from pplib.errors import ParetoPipeError, TrialError
from pplib.links import LinkRecord
from pplib.records import TrialRecord
from pplib.runtime.coordinator import Coordinator, PipelineRun, wall_clock
from pplib.runtime.host import describe_host, git_commit
from pplib.runtime.plausible import check_plausible
from pplib.runtime.stage_loop import Length
from pplib.runtime.timeline import measure
from pplib.sweep.experiment import Experiment


@dataclass(frozen=True)
class Trial:
    """One trial to run: which partition, which repeat, and at which place in the order."""

    points: tuple[int, ...]
    repeat: int
    order: int


def run_trial(
    experiment: Experiment, coordinator: Coordinator, trial: Trial, link: LinkRecord, link_error: str = ""
) -> tuple[TrialRecord, ParetoPipeError | None]:
    """Run one trial; what went wrong, if anything, is in the record and returned.

    `link_error` tells in what the link is not as asked for: the trial then fails without being run.
    """
    config, begun, started_at = experiment.config, time.monotonic(), wall_clock()
    error: ParetoPipeError | None = None
    measured: dict[str, Any] = {}
    try:
        if link_error:
            raise TrialError(link_error)
        measured = _measure(experiment, coordinator, trial.points)
    except ParetoPipeError as exc:
        error = exc
    duration_s = time.monotonic() - begun
    if measured:
        measured["metrics"]["overhead_s"] = duration_s - measured.pop("busy_s")
    record = TrialRecord(
        configuration=config.as_dict(),
        partition_points=list(trial.points),
        partition_name=experiment.point_name(trial.points),
        repeat=trial.repeat,
        order=trial.order,
        status="failed" if error else "ok",
        error=str(error or ""),
        started_at=started_at,
        duration_s=duration_s,
        warmup=WARMUP_MICROBATCHES,
        cooldown=config.cooldown,
        link=link,
        devices=[
            {**plain(device), "emulated": device.emulated, **worker.description.host, "usage": usage}
            for device, worker, usage in zip(
                experiment.testbed.first(config.num_stages),
                coordinator.workers,
                measured.pop("usages", [None] * config.num_stages),
                strict=True,
            )
        ],
        environment={
            **describe_host(),
            "git_commit": git_commit(),
            "weights_sha256": experiment.weights.sha256,
        },
        **measured,
    )
    return record, error


def _measure(experiment: Experiment, coordinator: Coordinator, points: tuple[int, ...]) -> dict[str, Any]:
    config, plan, profile = experiment.config, experiment.plan(points), experiment.link
    length = Length(config.total_microbatches, config.least_microbatches, config.max_trial_s)
    coordinator.open(config.backend)
    stages = coordinator.prepare(plan)
    begun = time.monotonic()
    run = coordinator.run(plan, length, experiment.trial_timeout_s(plan))
    busy_s = time.monotonic() - begun
    total = len(run.returned_s)
    measured = slice(WARMUP_MICROBATCHES, total - config.cooldown)
    check_plausible(run.timelines, measured, run.payload_bytes, profile)
    return_hops = experiment.testbed.return_hops(config.num_stages)
    metrics = measure(run.timelines, run.returned_s, measured, config.batch_size, profile, return_hops)
    hops = range(config.num_stages - 1)
    metrics |= {
        "max_abs_err": experiment.check_outputs(run.outputs),
        "outputs_checked": float(len(run.outputs)),
        "activation_bytes": float(sum(plan.tensors[i + 1].num_bytes for i in hops)),
        "payload_bytes": float(sum(run.payload_bytes)),
        **{f"hop{i}_payload_bytes": float(run.payload_bytes[i]) for i in hops},
        **{f"stage{i}_param_bytes": float(stage.param_bytes) for i, stage in enumerate(stages)},
        **{f"stage{i}_build_s": stage.build_s for i, stage in enumerate(stages)},
        **_usage_columns(run, total * config.batch_size),
    }
    return {
        "metrics": metrics,
        "timelines": run.timelines,
        "returned_s": run.returned_s,
        "busy_s": busy_s,
        "usages": [plain(usage) for usage in run.usages],
    }


def _usage_columns(run: PipelineRun, num_images: int) -> dict[str, float | str | None]:
    """What the devices used over the whole trial, warm-up included; columns are absent where none tells."""
    columns: dict[str, float | str | None] = {}
    for i, usage in enumerate(run.usages):
        told = {
            "cpu_fraction": usage.process_cpu_fraction,
            "resident_peak_bytes": usage.resident_peak_bytes,
            "received_bytes": usage.received_bytes,
            "sent_bytes": usage.sent_bytes,
            "temperature_c": usage.temperature_c,
            "throttled": usage.throttled,
            "monitor_cost": usage.monitor_cost,
        }
        columns |= {f"stage{i}_{name}": float(value) for name, value in told.items() if value is not None}
    if run.energy is not None:
        columns["energy_per_image_j"] = run.energy.joules / num_images
        columns["energy_estimated"] = float(run.energy.estimated)
    return columns
