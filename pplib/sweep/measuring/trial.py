"""Run one trial and make its record, whatever happens."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict

import torch

from pplib import limits
from pplib.analysis.trials.plausible import check_plausible
from pplib.analysis.trials.timeline import measure
from pplib.config import WARMUP_MICROBATCHES
from pplib.decode import plain
from pplib.errors import ParetoPipeError, TrialError
from pplib.links import HopMeasurement, LinkRecord
from pplib.pipeline.coordinator.coordinator import Coordinator, PipelineRun, wall_clock
from pplib.pipeline.coordinator.weights_sending import send_weights
from pplib.pipeline.monitor.disturbance import disturbance
from pplib.pipeline.monitor.host import describe_host, git_commit
from pplib.pipeline.monitor.usage import energy_scope
from pplib.pipeline.stage.length import Length
from pplib.pipeline.wire.messages import Prepared
from pplib.pipeline.wire.plan import PipelinePlan
from pplib.records import TrialRecord
from pplib.sweep.experiment import Experiment
from pplib.sweep.measuring.schedule import Trial
from pplib.testbed.ssh.parallel import all_or_error, for_each

Metrics = dict[str, float | str | None]


def run_trial(
    experiment: Experiment, coordinator: Coordinator, trial: Trial, link: LinkRecord, link_error: str = ""
) -> tuple[TrialRecord, ParetoPipeError | None]:
    """Run one trial; what went wrong, if anything, is in the record and returned.

    `link_error` tells in what the link is not as asked for: the trial then fails without being run.
    """
    config, begun, started_at = experiment.config, time.monotonic(), wall_clock()
    error: ParetoPipeError | None = None
    seen: PipelineRun | None = None
    metrics: Metrics = {}
    try:
        if link_error:
            raise TrialError(link_error)
        coordinator.failed_run = None  # whatever fails before the run leaves nothing
        plan = experiment.plan(trial.points)
        coordinator.open(config.backend)
        stages = coordinator.prepare(plan)
        running = time.monotonic()
        seen = _run(experiment, coordinator, plan)
        busy_s = time.monotonic() - running
        metrics = _metrics(experiment, plan, stages, seen)
        metrics["overhead_s"] = time.monotonic() - begun - busy_s
    except ParetoPipeError as exc:
        error, metrics = exc, {}
        seen = seen or coordinator.failed_run
    duration_s = time.monotonic() - begun
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
        metrics=metrics,
        timelines=seen.timelines if seen else [],
        returned_s=seen.returned_s if seen else [],
        devices=[
            {
                **plain(device),
                "emulated": device.emulated,
                **worker.description.host,
                "runtimes": worker.description.runtimes,
                "usage": plain(usage) if usage else None,
            }
            for device, worker, usage in zip(
                experiment.testbed.first(config.num_stages),
                coordinator.workers,
                seen.usages if seen else [None] * config.num_stages,
                strict=True,
            )
        ],
        environment={
            **describe_host("cpu", torch.get_num_threads()),
            "git_commit": git_commit(),
            **{f"{name}_sha256": digest for name, digest in experiment.content.items()},
            "weights_taken": experiment.weights_taken,
        },
    )
    return record, error


def _run(experiment: Experiment, coordinator: Coordinator, plan: PipelinePlan) -> PipelineRun:
    config = experiment.config
    length = Length(config.total_microbatches, config.least_microbatches, config.max_trial_s)
    return coordinator.run(plan, length, experiment.trial_timeout_s(plan))


def _metrics(experiment: Experiment, plan: PipelinePlan, stages: Sequence[Prepared], run: PipelineRun) -> Metrics:
    """Every measured column.

    Raises:
        TrialError: the outputs or the times cannot be believed.
    """
    config, profile, total = experiment.config, experiment.link, len(run.returned_s)
    measured = slice(WARMUP_MICROBATCHES, total - config.cooldown)
    found = experiment.check_outputs(run.outputs)
    check_plausible(run.timelines, measured, run.payload_bytes, profile)
    return_hops = experiment.testbed.return_hops(config.num_stages)
    hops = range(config.num_stages - 1)
    return {
        **measure(run.timelines, run.returned_s, measured, config.batch_size, profile, return_hops, config.in_flight),
        **asdict(found),
        "activation_bytes": float(sum(plan.tensors[i + 1].num_bytes for i in hops)),
        "payload_bytes": float(sum(run.payload_bytes)),
        **{f"hop{i}_payload_bytes": float(run.payload_bytes[i]) for i in hops},
        **{f"hop{i}_compression_ratio": plan.tensors[i + 1].num_bytes / run.payload_bytes[i] for i in hops},
        **{f"stage{i}_param_bytes": float(stage.param_bytes) for i, stage in enumerate(stages)},
        **{f"stage{i}_build_s": stage.build_s for i, stage in enumerate(stages)},
        **_usage_columns(run, total * config.batch_size),
        "disturbed": _disturbed(run, [device.name for device in experiment.testbed.devices]),
    }


def _usage_columns(run: PipelineRun, num_images: int) -> Metrics:
    """What the devices used over the whole trial, warm-up included; columns are absent where none tells."""
    columns: Metrics = {}
    for i, usage in enumerate(run.usages):
        if usage is None:
            continue
        told = {
            "cpu_fraction": usage.process_cpu_fraction,
            "resident_peak_bytes": usage.resident_peak_bytes,
            "received_bytes": usage.received_bytes,
            "sent_bytes": usage.sent_bytes,
            "temperature_c": usage.temperature_c,
            "throttled": usage.throttled,
            "steal_fraction": usage.steal_fraction,
            "swapped_bytes": usage.swapped_bytes,
            "suspended_s": usage.suspended_s,
            "monitor_cost": usage.monitor_cost,
        }
        columns |= {f"stage{i}_{name}": float(value) for name, value in told.items() if value is not None}
        if usage.energy_j is not None:
            columns[f"stage{i}_energy_per_image_j"] = usage.energy_j / num_images
            columns[f"stage{i}_energy_scope"] = energy_scope(usage)
    if run.energy is not None:
        columns["energy_per_image_j"] = run.energy.joules / num_images
        columns["energy_scope"] = run.energy.scope
        columns["energy_estimated"] = float(run.energy.estimated)
    return columns


def _disturbed(run: PipelineRun, names: Sequence[str]) -> str:
    """Which device was disturbed, and by what; empty where none was."""
    told = [(name, disturbance(usage)) for name, usage in zip(names, run.usages, strict=False) if usage is not None]
    return "; ".join(f"{name}: {words}" for name, words in told if words)


def provide(experiment: Experiment, coordinator: Coordinator) -> None:
    """Give the devices what they need once: the images to the first, the weights to those that lack them."""
    coordinator.put_inputs(experiment.inputs, experiment.input_spec)
    for file in experiment.maker.files.values():
        all_or_error(for_each(coordinator.workers, functools.partial(send_weights, file=file), limits.WEIGHTS_S))


def verified(record: TrialRecord, after: list[HopMeasurement], wrong: str) -> TrialRecord:
    """The record of a trial after which the link was measured again."""
    assert record.link is not None
    record.link.after = after
    if wrong and record.status == "ok":
        record.status, record.error, record.metrics = "failed", f"after the trial, {wrong}", {}
    return record
