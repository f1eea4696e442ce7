"""Everything one configuration needs before its clock starts: model, weights, images, proven cuts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import nn

from pplib.analysis.planning import balanced_points, even_points
from pplib.config import Configuration, project_path
from pplib.devices import Testbed, load_testbed
from pplib.environment import load_environment
from pplib.errors import PartitionError, TrialError
from pplib.links import LinkProfile
from pplib.model.data import load_images
from pplib.model.partition import PartitionedModel, combinations, validate_points, verify_cut
from pplib.model.profile import profile_model
from pplib.model.weights import WeightsFile, save_weights
from pplib.model.zoo import build_skeleton, input_shape, load_model
from pplib.runtime.plan import PipelinePlan, TensorSpec, tensor_spec

ATOL, RTOL = 1e-3, 1e-3
LEAST_TRIAL_S = 60.0  # no trial is given up before


@dataclass(frozen=True)
class Experiment:
    """One configuration, ready to be measured.

    `batches` are preprocessed input microbatches (B, C, H, W); `references` the whole model's output
    for each of them, computed here, unoptimised; `model_s` how long that took per microbatch.
    """

    config: Configuration
    testbed: Testbed
    link: LinkProfile
    model: nn.Module
    weights: WeightsFile
    batches: list[torch.Tensor]
    partitioned: PartitionedModel
    points: list[tuple[int, ...]]
    references: list[torch.Tensor]
    model_s: float

    @property
    def input_spec(self) -> TensorSpec:
        """The tensor of one input microbatch."""
        return tensor_spec(tuple(self.batches[0].shape), "float32", self.config.optimize)

    def plan(self, points: tuple[int, ...]) -> PipelinePlan:
        """The plan of one partition, as the workers get it."""
        cuts = self.partitioned.points
        last = len(cuts) - 1
        tensors = [cuts[p] for p in (0, *points, last)]
        return PipelinePlan(
            model=self.config.model,
            weights="DEFAULT" if self.config.weights == "DEFAULT" else "random",
            num_classes=self.config.num_classes,
            weights_sha256=self.weights.sha256,
            granularity=self.config.granularity,
            points=points,
            optimize=self.config.optimize,
            in_flight=self.config.in_flight,
            tensors=tuple(
                tensor_spec(cut.activation_shape, cut.activation_dtype, self.config.optimize) for cut in tensors
            ),
        )

    def point_name(self, points: tuple[int, ...]) -> str:
        """The names of the modules before the cuts."""
        return " | ".join(self.partitioned.points[p].name for p in points)

    def check_outputs(self, outputs: list[torch.Tensor]) -> float:
        """Compare a trial's outputs, warm-up first, with the whole model's.

        Returns:
            The largest absolute difference over all of them.

        Raises:
            TrialError: the pipeline did not compute what the model computes.
        """
        worst = 0.0
        for seq, output in enumerate(outputs):
            reference = self.references[seq % len(self.references)]
            error = float((output - reference).abs().max())
            allowed = ATOL + RTOL * float(reference.abs().max())
            if not error <= allowed:
                raise TrialError(
                    f"microbatch {seq}: the pipeline's output differs from the model's by {error:.3g}, expected "
                    f"at most {allowed:.3g}: this cut does not compute what the model computes"
                )
            worst = max(worst, error)
        return worst

    def trial_timeout_s(self, plan: PipelinePlan) -> float:
        """A limit no healthy trial comes near: 20 times what one core of this machine would need, and 5 times
        what the link would need.
        """
        slowest = max(device.slowdown for device in self.testbed.devices)
        link_s = sum(
            way.delay_s + way.jitter_s + (tensor.num_bytes * 8 / way.rate_bit_s if way.rate_bit_s else 0.0)
            for tensor in plan.tensors[1:]  # the last one is the result on its way back
            for way in (self.link.forward, self.link.backward)
        )
        return LEAST_TRIAL_S + (20.0 * self.model_s * slowest + 5.0 * link_s) * self.config.total_microbatches


def prepare(config: Configuration) -> Experiment:
    """Load and prove everything; no device is touched.

    Raises:
        ModelError: unknown model, points or weights, or a cut that does not compute the model.
        DataError: the images cannot be had.
        ConfigError: the device file is not valid.
    """
    testbed = load_testbed(project_path(config.devices))
    testbed.first(config.num_stages)
    testbed.check_backend(config.backend)
    model = load_model(config.model, config.weights, config.num_classes, config.seed)
    images = load_images(config.dataset, config.num_images, config.model, config.seed, load_environment().cifar10_path)
    batches = list(torch.split(images, config.batch_size))
    partitioned = PartitionedModel(model, batches[0], config.granularity)
    points = choose_points(
        config,
        len(partitioned.points) - 1,
        lambda: [unit.time_s for unit in profile_model(model, batches[0], config.granularity)],
    )
    for chosen in points:
        verify_cut(model, partitioned.stages(chosen), batches[0][:1])
    start = time.monotonic()
    with torch.inference_mode():
        references = [model(batch) for batch in batches]
    model_s = (time.monotonic() - start) / len(batches)
    return Experiment(
        config=config,
        testbed=testbed,
        link=config.link_profile,
        model=model,
        weights=save_weights(model),
        batches=batches,
        partitioned=partitioned,
        points=points,
        references=references,
        model_s=model_s,
    )


def choose_points(config: Configuration, count: int, unit_times_s: Callable[[], list[float]]) -> list[tuple[int, ...]]:
    """The partitions that `partition_points` asks for, of a model of `count` units.

    "all": every valid one; "even": units shared out equally; "auto": the slowest stage as fast as
    possible, by the units' times and the devices' slowdown; a list: those.

    Raises:
        PartitionError: a point outside the range; the valid ones are listed.
    """
    stages, asked = config.num_stages, config.partition_points
    if asked == "all":
        return combinations(count, stages)
    if asked == "even":
        return [even_points(count, stages)]
    if asked == "auto":
        speeds = [1 / device.slowdown for device in load_testbed(project_path(config.devices)).first(stages)]
        return [balanced_points(unit_times_s(), stages, speeds)]
    chosen = []
    for i, one in enumerate(asked):
        points = (one,) if isinstance(one, int) else tuple(one)
        try:
            if len(points) != stages - 1:
                raise PartitionError(f"{stages} stages need {stages - 1} partition points, got {len(points)}")
            validate_points(points, count)
        except PartitionError as exc:
            raise PartitionError(f"partition_points[{i}]: {config.model}: {exc}") from exc
        chosen.append(points)
    return list(dict.fromkeys(chosen))


def count_units(config: Configuration) -> int:
    """How many units the model has; the model is traced, but neither its weights nor its images are loaded.

    Raises:
        ModelError: the model is unknown or cannot be traced.
        WeightsError: the file of its weights is not there.
    """
    skeleton = build_skeleton(config.model, config.weights, config.num_classes)
    example = torch.empty((1, *input_shape(config.model)), device="meta")
    return len(PartitionedModel(skeleton, example, config.granularity).points) - 1


def points_frame(experiment: Experiment) -> pd.DataFrame:
    """The partition points of an experiment's model: index, label, name, and what crosses the cut."""
    return pd.DataFrame([asdict(point) for point in experiment.partitioned.points])


def profile_frame(experiment: Experiment) -> pd.DataFrame:
    """What each unit of an experiment's model costs on this machine, one row per unit."""
    config = experiment.config
    units = profile_model(experiment.model, experiment.batches[0], config.granularity, optimize=config.optimize)
    return pd.DataFrame([asdict(unit) for unit in units])
