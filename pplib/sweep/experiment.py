"""Everything one configuration needs before its clock starts: model, weights, images, proven cuts."""

from __future__ import annotations

import functools
import hashlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import msgspec
import pandas as pd
import torch
from torch import nn

from pplib import limits
from pplib.analysis.trials.fidelity import Fidelity, check_agreement, compare
from pplib.config import Configuration
from pplib.devices import Testbed, load_testbed
from pplib.environment import load_environment
from pplib.links import LinkProfile
from pplib.model.data import load_images
from pplib.model.labels import Labels, check_labels, load_labels
from pplib.model.partition import PartitionedModel
from pplib.model.profile import profile_model
from pplib.model.stages.describe import describe
from pplib.model.stages.proof import allowed_error, reference_of
from pplib.model.weights.files import save_weights
from pplib.model.weights.stored import WeightsFile
from pplib.model.zoo import input_dtype, load_from
from pplib.pipeline.coordinator.stage_making import StageMaker, computing
from pplib.pipeline.stage.tensors import array_of, tensor_of
from pplib.pipeline.wire.plan import PipelinePlan, StageForm, TensorSpec, tensor_spec
from pplib.runtimes import EAGER, Array, runtime
from pplib.sweep.points import choose_points
from pplib.sweep.progress import State, Told


@dataclass(frozen=True)
class Experiment:
    """One configuration, ready to be measured.

    `batches` are preprocessed input microbatches (B, C, H, W); `weights_taken` which entry of the file of weights
    they are; `labels` which class each image is of, where the dataset tells. What `proven` adds: `references`, the
    whole model's output for each of the batches, computed here, unoptimised; `model_s`, how long that took per
    microbatch; `stages`, what the devices are to compute: by runtime and points, for all configurations that share the
    model.
    """

    config: Configuration
    testbed: Testbed
    link: LinkProfile
    model: nn.Module
    weights: WeightsFile
    batches: list[torch.Tensor]
    partitioned: PartitionedModel
    points: list[tuple[int, ...]]
    maker: StageMaker
    weights_taken: str = ""
    labels: Labels | None = None
    references: list[torch.Tensor] = field(default_factory=list)
    model_s: float = 0.0
    stages: dict[object, tuple[StageForm, ...]] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, str]:
        """Hashes of what decides a trial: weights, images, labels where there are such, the model as described."""
        labels = {} if self.labels is None else {"labels": hashlib.sha256(self.labels.classes.tobytes()).hexdigest()}
        return {"weights": self.weights.sha256, "images": self._images_sha256, "model": self._model_sha256, **labels}

    @functools.cached_property
    def _images_sha256(self) -> str:
        digest = hashlib.sha256()
        for batch in self.batches:
            digest.update(str((tuple(batch.shape), batch.dtype)).encode())
            digest.update(batch.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @functools.cached_property
    def _model_sha256(self) -> str:
        cuts = [(cut.name, cut.activation_shape, cut.activation_dtype) for cut in self.partitioned.points]
        whole = describe(self.partitioned.between(0, len(cuts) - 1))
        return hashlib.sha256(msgspec.msgpack.encode((cuts, msgspec.structs.asdict(whole)))).hexdigest()

    @property
    def inputs(self) -> list[Array]:
        """The input microbatches as arrays of the pipeline."""
        return [array_of(batch) for batch in self.batches]

    @property
    def input_spec(self) -> TensorSpec:
        """The tensor of one input microbatch."""
        dtype = str(self.batches[0].dtype).removeprefix("torch.")
        return tensor_spec(tuple(self.batches[0].shape), dtype, self.config.optimize)

    def plan(self, points: tuple[int, ...]) -> PipelinePlan:
        """The plan of one partition, as the workers get it."""
        cuts = self.partitioned.points
        last = len(cuts) - 1
        tensors = [cuts[p] for p in (0, *points, last)]
        eager = [self.config.optimize and runtime(one).FORM == "operations" for one in self.config.runtimes]
        both = [all(eager[max(0, i - 1) : i + 1]) for i in range(len(tensors))]  # of the stages on both sides
        return PipelinePlan(
            model=self.config.model,
            weights_sha256=self.weights.sha256,
            precision=self.config.precision,
            granularity=self.config.granularity,
            points=points,
            optimize=self.config.optimize,
            in_flight=self.config.in_flight,
            tensors=tuple(
                tensor_spec(cut.activation_shape, cut.activation_dtype, channels_last)
                for cut, channels_last in zip(tensors, both, strict=True)
            ),
            encodings=self.maker.encodings(points, self.config.wire),
            stages=self.stages.get(self.key(points))
            or self.maker.make(points, self.config.runtimes, self.config.precision),
        )

    def key(self, points: tuple[int, ...]) -> object:
        """Of these points in `stages`."""
        return self.config.runtime, self.config.precision, points

    def point_name(self, points: tuple[int, ...]) -> str:
        """The names of the modules before the cuts."""
        return " | ".join(self.partitioned.points[p].name for p in points)

    def check_outputs(self, outputs: Sequence[Array]) -> Fidelity:
        """Compare a trial's outputs, as arrays of the pipeline, warm-up first, with the whole model's.

        Raises:
            TrialError: the pipeline did not compute what the model computes; where it is lossy, it agrees with the
                model on fewer images than `min_agreement`.
        """
        lossy, tolerance = self.config.lossy, self.partitioned.tolerance
        pairs = (
            (tensor_of(output).double().numpy(), one.double().numpy(), None if lossy else allowed_error(one, tolerance))
            for output, one in zip(outputs, itertools.cycle(self.references), strict=False)
        )
        found = compare(pairs, len(self.references), self.config.batch_size, self.labels and self.labels.classes)
        if lossy:
            check_agreement(found, self.config.min_agreement)
        return found

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
        return limits.LEAST_TRIAL_S + (20.0 * self.model_s * slowest + 5.0 * link_s) * self.config.total_microbatches


def prepare(config: Configuration, progress: bool = True, prove: bool = True) -> Experiment:
    """Load everything and prove the cuts; no device is touched.

    Args:
        config: what to prepare.
        progress: whether to show what is being done.
        prove: whether to prove the cuts now; else that is done where something is to be measured.

    Raises:
        ModelError: unknown model, points or weights, or a cut that does not compute the model.
        DataError: the images cannot be had.
        ConfigError: the device file is not valid.
    """
    tell = Told(progress)
    testbed = load_testbed(config.devices_file)
    testbed.first(config.num_stages)
    testbed.check_backend(config.backend)
    tell(State(doing=f"loading {config.model} and its images"))
    loaded = load_from(config.model, config.weights, config.num_classes, config.seed)
    model = loaded.model
    images = load_images(
        config.dataset,
        config.num_images,
        config.model,
        config.seed,
        load_environment().cifar10_path,
        input_dtype(config.model, model),
    )
    labels = load_labels(config.dataset, config.num_images, load_environment().cifar10_path)
    batches = list(torch.split(images, config.batch_size))
    tell(State(doing=f"tracing {config.model}"))
    partitioned = PartitionedModel(model, batches[0], config.granularity)
    check_labels(labels, partitioned.points[-1].activation_shape, config.dataset, config.model)
    points = choose_points(config, len(partitioned.points) - 1)
    weights = save_weights(model, constants=partitioned.constants)
    experiment = Experiment(
        config=config,
        testbed=testbed,
        link=config.link_profile,
        model=model,
        weights=weights,
        batches=batches,
        partitioned=partitioned,
        points=points,
        maker=StageMaker(partitioned, batches, weights, config.model),
        weights_taken=loaded.taken,
        labels=labels,
    )
    return proven(experiment, tell) if prove else experiment


def proven(experiment: Experiment, tell: Told) -> Experiment:
    """The experiment with its cuts proven, and with what their outputs are compared with; proven once.

    Raises:
        PartitionError: a cut does not compute what the model computes.
        ModelError: something in a stage has no name that a device knows.
    """
    config, points = experiment.config, experiment.points
    unproven = [one for one in points if experiment.key(one) not in experiment.stages]
    if experiment.references and not unproven:
        return experiment
    model, batches, parts = experiment.model, experiment.batches, experiment.partitioned
    with_what = "" if config.runtime == EAGER else f" with {config.runtime}"
    tell(State(doing=f"proving that {len(unproven)} cuts{with_what} compute what {config.model} computes"))
    fixed = parts.fixed or config.runtime != EAGER  # a graph takes inputs of one shape
    reference = reference_of(model, batches[0], fixed, parts.tolerance, config.model)
    if ":" in config.model:
        reference.check_repeats()
    for chosen in unproven:
        modules = parts.stages(chosen)
        forms = experiment.maker.make(chosen, config.runtimes, config.precision, modules)
        if not config.lossy and (stages := computing(forms, modules)) is not None:
            reference.check(stages)
        experiment.stages[experiment.key(chosen)] = forms
    if experiment.references:
        return experiment
    start = time.monotonic()
    with torch.inference_mode():
        references = [model(batch.clone()) for batch in batches]  # forward() may write into what it is given
    return replace(experiment, references=references, model_s=(time.monotonic() - start) / len(batches))


def points_frame(experiment: Experiment) -> pd.DataFrame:
    """The partition points of an experiment's model: index, label, name, and what crosses the cut."""
    return pd.DataFrame([asdict(point) for point in experiment.partitioned.points])


def profile_frame(experiment: Experiment) -> pd.DataFrame:
    """What each unit of an experiment's model costs on this machine, one row per unit."""
    config = experiment.config
    units = profile_model(experiment.model, experiment.batches[0], config.granularity, optimize=config.optimize)
    return pd.DataFrame([asdict(unit) for unit in units])
