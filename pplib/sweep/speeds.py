"""How fast the devices are, for `partition_points: auto`: each runs one stage, once, before the cut is decided."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import msgspec

from pplib.config import LEAST_MICROBATCHES, WARMUP_MICROBATCHES
from pplib.errors import TrialError
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.stage.length import Length
from pplib.sweep.auto import with_speeds
from pplib.sweep.experiment import Experiment, proven
from pplib.sweep.progress import Told


def is_settled(experiment: Experiment) -> bool:
    """Whether the partition is decided: given, or chosen by what the devices were found to take."""
    return experiment.auto is None or bool(experiment.auto.compute_s)


def settle(experiment: Experiment, compute_s: Sequence[float]) -> Experiment:
    """The experiment with the partition that the devices' speeds ask for, proven as every cut is.

    Args:
        experiment: with an `auto` choice.
        compute_s: what each device takes for its stage at the points of that choice, see `time_stages`.

    Raises:
        PartitionError: the cut does not compute what the model computes.
    """
    assert experiment.auto is not None
    chosen = with_speeds(experiment.auto, compute_s)
    return proven(dataclasses.replace(experiment, points=[tuple(chosen.points)], auto=chosen), Told(False))


def time_stages(experiment: Experiment, coordinator: Coordinator) -> list[float]:
    """Seconds per microbatch that each device takes for its stage at the experiment's first points.

    The median of a few microbatches after the warm-up, one in the pipeline after the other.

    Args:
        experiment: whose images and weights the devices have.
        coordinator: of its devices.

    Raises:
        WorkerError: a device cannot run its stage.
        TrialError: a stage took no time.
    """
    plan = msgspec.structs.replace(experiment.plan(experiment.points[0]), in_flight=1)
    coordinator.open(experiment.config.backend)
    coordinator.prepare(plan)
    count = WARMUP_MICROBATCHES + LEAST_MICROBATCHES
    run = coordinator.run(plan, Length(count, count, None), experiment.trial_timeout_s(plan))
    found = []
    for stage in run.timelines:
        spans = zip(stage.compute_start_s, stage.compute_end_s, strict=True)
        taken = statistics.median([end - start for start, end in spans][WARMUP_MICROBATCHES:])
        if taken <= 0:
            raise TrialError(f"{stage.device}: its stage took {taken} s, expected more than 0: its clock is wrong")
        found.append(taken)
    return found
