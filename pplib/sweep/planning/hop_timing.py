"""Have messages of several sizes cross the hops of a pipeline whose stages compute nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pplib import limits
from pplib.analysis.trials.timeline import measure
from pplib.config import WARMUP_MICROBATCHES, Configuration
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.stage.length import Length
from pplib.pipeline.stage.tensors import array_of
from pplib.pipeline.wire.plan import ExportedStage, PipelinePlan, tensor_spec
from pplib.planner.profiles.hop_profile import Line, fit_line
from pplib.runtimes import EAGER, runtime
from pplib.sweep.experiment import Experiment

PAUSE_S = 0.03  # between a message and the next, as while stages compute
SIZES, ROUNDS = 7, 4
RUNS, LEAST_RUNS, RUN_S = 6, 3, 4.0  # messages of a run, and after how long a run of slow ones ends


@dataclass
class HopTimes:
    """What one hop was seen to take; lists of one entry per size, and in it one per round."""

    num_bytes: list[int]
    payload_bytes: list[float]
    took_s: dict[str, list[list[float]]] = field(default_factory=dict)

    def line(self, what: str) -> Line | None:
        """The line through what `transfer`, `encode`, `decode` or `back` took; None where it took nothing."""
        sizes = self.payload_bytes if what in ("transfer", "back") else self.num_bytes
        rounds = self.took_s[what]
        return fit_line(sizes, rounds) if np.max(rounds) > 0 else None


def time_hops(experiment: Experiment, config: Configuration, coordinator: Coordinator) -> tuple[list[HopTimes], float]:
    """Time every hop of a pipeline, with activations of the model of sizes as unlike as it has them.

    Args:
        experiment: the model, and what is computed of it here: real values, for what compresses them.
        config: whose backend and wire type; its `link` is not looked at.
        coordinator: of workers over a link that is not shaped.

    Returns:
        Each hop, and how long that took, in s.

    Raises:
        WorkerError: the workers cannot do so.
    """
    began, hops = time.monotonic(), range(config.num_stages - 1)
    cuts = experiment.partitioned.points
    chosen = unlike_sizes([cut.activation_bytes for cut in cuts], SIZES)
    sizes = [cuts[point].activation_bytes for point in chosen]
    plans = {point: _plan(experiment, config, point) for point in chosen}
    values = _values(experiment, chosen)
    found = [HopTimes(sizes, [0.0] * len(sizes)) for _ in hops]
    for one in found:
        one.took_s = {what: [[] for _ in sizes] for what in ("transfer", "encode", "decode", "back")}
    coordinator.open(config.backend)
    draw = random.Random(config.seed)
    most, least = WARMUP_MICROBATCHES + RUNS, WARMUP_MICROBATCHES + LEAST_RUNS
    for _ in range(ROUNDS):
        for point in draw.sample(chosen, len(chosen)):
            plan, k = plans[point], chosen.index(point)
            spec = plan.tensors[0]
            coordinator.put_inputs([spec.laid_out(values[point])], spec)
            coordinator.prepare(plan)
            run = coordinator.run(plan, Length(most, least, RUN_S), limits.LEAST_TRIAL_S + 60 * RUN_S)
            metrics = measure(run.timelines, run.returned_s, slice(WARMUP_MICROBATCHES, None), config.batch_size)
            for i in hops:
                found[i].payload_bytes[k] = float(run.payload_bytes[i])
                for what in ("transfer", "encode", "decode"):
                    found[i].took_s[what][k].append(float(metrics[f"hop{i}_{what}_s"] or 0.0))
                found[i].took_s["back"][k].append(float(metrics["return_transfer_s"] or 0.0))
    return found, time.monotonic() - began


def unlike_sizes(sizes: Sequence[int], count: int) -> list[int]:
    """The places of at most so many sizes, the least and the largest among them, spread evenly over their logarithms.

    >>> unlike_sizes([100, 100, 5, 50, 60, 12], 3)
    [2, 5, 0]
    """
    places = {size: place for place, size in reversed(list(enumerate(sizes)))}
    known = np.array(sorted(places))
    wanted = np.geomspace(known[0], known[-1], count)
    nearest = [int(np.abs(np.log(known / one)).argmin()) for one in wanted]
    return [places[int(known[i])] for i in dict.fromkeys(nearest)]


def _plan(experiment: Experiment, config: Configuration, point: int) -> PipelinePlan:
    """Every stage passes the activation at a point on, after a pause."""
    cut, stages = experiment.partitioned.points[point], config.num_stages
    channels_last = config.optimize and all(runtime(one).FORM == "operations" for one in config.runtimes)
    spec = tensor_spec(cut.activation_shape, cut.activation_dtype, channels_last)
    pausing = ExportedStage(EAGER, "float32", b"", "0" * 64, 0, PAUSE_S)
    return PipelinePlan(
        model=config.model,
        weights_sha256=experiment.weights.sha256,
        granularity=config.granularity,
        points=(point,) * (stages - 1),
        optimize=config.optimize,
        in_flight=1,
        tensors=(spec,) * (stages + 1),
        encodings=experiment.maker.encodings((point,) * (stages - 1), config.wire),
        stages=(pausing,) * stages,
    )


def _values(experiment: Experiment, points: Sequence[int]) -> dict[int, np.ndarray]:
    """The activations at some points, for the first microbatch."""
    found, value, before = dict[int, np.ndarray](), experiment.batches[0], 0
    with torch.inference_mode():
        for point in sorted(points):
            value, before = experiment.partitioned.between(before, point)(value.clone()), point
            found[point] = array_of(value)
    return found
