"""Run one configuration: every missing trial, in randomised order, each stored as soon as it is done."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tqdm.std import tqdm

from pplib.config import WARMUP_MICROBATCHES, Configuration
from pplib.decode import plain
from pplib.errors import ParetoPipeError
from pplib.records import TrialRecord, point_label, trial_path, write_record
from pplib.runtime.client import WorkerLost
from pplib.runtime.coordinator import Coordinator, PipelineRun, wall_clock
from pplib.runtime.host import describe_host, git_commit
from pplib.runtime.timeline import measure
from pplib.sweep.experiment import Experiment
from pplib.sweep.results import claim_folder, is_done, summary_frame
from pplib.testbed.session import open_pipeline

MAX_FAILURES_IN_A_ROW = 3


@dataclass(frozen=True)
class Trial:
    """One trial to run: which partition, which repeat, and at which place in the order."""

    points: tuple[int, ...]
    repeat: int
    order: int


def schedule(points: list[tuple[int, ...]], repeats: int, seed: int) -> list[Trial]:
    """Every point once per repeat, each repeat in a random order of its own.

    Order within blocks keeps slow drift of a machine from looking like a difference between points.
    """
    trials: list[Trial] = []
    for repeat in range(repeats):
        block = list(points)
        random.Random(f"{seed}-{repeat}").shuffle(block)
        trials += [Trial(point, repeat, len(trials) + i) for i, point in enumerate(block)]
    return trials


def missing_trials(config: Configuration, points: list[tuple[int, ...]]) -> list[Trial]:
    """What a run that is started again still has to do."""
    return [
        trial
        for trial in schedule(points, config.repeats, config.seed)
        if not is_done(config, trial.points, trial.repeat)
    ]


def run_missing(experiment: Experiment, progress: bool = True) -> pd.DataFrame:
    """Measure what is missing of one configuration; one row per trial, those of earlier runs included.

    Raises:
        OutputError: the results folder cannot be written, or holds trials of other parameters.
        WorkerError: a worker was lost, or trials keep failing; trials already done are kept.
    """
    config = experiment.config
    claim_folder(config, experiment.testbed)
    todo = missing_trials(config, experiment.points)
    if todo:
        with open_pipeline(experiment.testbed, config.num_stages, [config.backend]) as coordinator:
            coordinator.put_inputs(experiment.batches, experiment.input_spec)
            _run_trials(experiment, coordinator, todo, progress)
    return summary_frame(config.folder)


def _run_trials(experiment: Experiment, coordinator: Coordinator, todo: list[Trial], progress: bool) -> None:
    failures = 0
    for trial in tqdm(todo, desc=experiment.config.identity, unit="trial", mininterval=1.0, disable=not progress):
        record, error = run_trial(experiment, coordinator, trial)
        write_record(trial_path(experiment.config.folder, trial.points, trial.repeat), record)
        failures = failures + 1 if error else 0
        if error and (isinstance(error, WorkerLost) or failures >= MAX_FAILURES_IN_A_ROW):
            kept = f"{point_label(trial.points)}, repeat {trial.repeat}; trials already done are kept"
            raise type(error)(f"{error} (at {kept}; start again to do the rest)") from error


def run_trial(
    experiment: Experiment, coordinator: Coordinator, trial: Trial
) -> tuple[TrialRecord, ParetoPipeError | None]:
    """Run one trial; what went wrong, if anything, is in the record and returned."""
    config, begun, started_at = experiment.config, time.monotonic(), wall_clock()
    error: ParetoPipeError | None = None
    measured: dict[str, Any] = {}
    try:
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
    config, plan = experiment.config, experiment.plan(points)
    count = config.total_microbatches
    coordinator.open(config.backend)
    stages = coordinator.prepare(plan)
    begun = time.monotonic()
    run = coordinator.run(plan, count, experiment.trial_timeout_s(count))
    busy_s = time.monotonic() - begun
    measured = slice(WARMUP_MICROBATCHES, WARMUP_MICROBATCHES + config.num_microbatches)
    metrics = measure(run.timelines, run.returned_s, measured, config.batch_size)
    hops = range(config.num_stages - 1)
    metrics |= {
        "max_abs_err": experiment.check_outputs(run.outputs),
        "outputs_checked": float(len(run.outputs)),
        "activation_bytes": float(sum(plan.tensors[i + 1].num_bytes for i in hops)),
        "payload_bytes": float(sum(run.payload_bytes)),
        **{f"hop{i}_payload_bytes": float(run.payload_bytes[i]) for i in hops},
        **{f"stage{i}_param_bytes": float(stage.param_bytes) for i, stage in enumerate(stages)},
        **{f"stage{i}_build_s": stage.build_s for i, stage in enumerate(stages)},
        **_usage_columns(run, count * config.batch_size),
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
            "temperature_c": usage.temperature_c,
            "throttled": usage.throttled,
            "monitor_cost": usage.monitor_cost,
        }
        columns |= {f"stage{i}_{name}": float(value) for name, value in told.items() if value is not None}
    if run.energy is not None:
        columns["energy_per_image_j"] = run.energy.joules / num_images
        columns["energy_estimated"] = float(run.energy.estimated)
    return columns


def run_once(experiment: Experiment) -> TrialRecord:
    """Measure the first partition of an experiment once, on live workers; nothing is written.

    Raises:
        ParetoPipeError: what went wrong.
    """
    config = experiment.config
    with open_pipeline(experiment.testbed, config.num_stages, [config.backend]) as coordinator:
        coordinator.put_inputs(experiment.batches, experiment.input_spec)
        record, error = run_trial(experiment, coordinator, Trial(experiment.points[0], 0, 0))
    if error:
        raise error
    return record
