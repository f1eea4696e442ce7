"""What can be told of configurations before a worker is started: units, and whether weights and images will do."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from pplib.config import Configuration
from pplib.environment import load_environment
from pplib.model.data import check_images, synthetic_images
from pplib.model.labels import load_labels
from pplib.model.partition import PartitionedModel
from pplib.model.stages.proof import reference_of
from pplib.model.zoo import build_model, build_skeleton, input_dtype, input_shape, load_model
from pplib.pipeline.coordinator.stage_making import described


def count_units(config: Configuration, proven: dict[object, nn.Module] | None = None) -> int:
    """How many units the model has: it is traced, and of torchvision's ones no weights are read.

    A user's model is loaded with its weights and run, so that what cannot work is said before a device is
    touched.

    Args:
        config: whose model.
        proven: users' models that were loaded and proven for other configurations; what is loaded here is added.

    Raises:
        ModelError: the model is unknown, cannot be traced, or does not compute the same twice.
        WeightsError: the file of its weights is not there, or does not fit.
    """
    name, shape = config.model, input_shape(config.model)
    if ":" not in name and config.weights == "random":  # as soon made as a skeleton, which takes PyTorch's compiler
        model = build_model(name, config.num_classes, config.seed)
        return len(PartitionedModel(model, torch.zeros(1, *shape), config.granularity).points) - 1
    if ":" not in name:
        skeleton = build_skeleton(name, config.weights, config.num_classes)
        return len(PartitionedModel(skeleton, torch.empty((1, *shape), device="meta"), config.granularity).points) - 1
    known, key = {} if proven is None else proven, (name, config.weights, config.num_classes)
    model = known[key] if key in known else load_model(name, config.weights, config.num_classes, config.seed)
    example = synthetic_images(config.batch_size, shape, config.seed, input_dtype(name, model))
    partitioned = PartitionedModel(model, example, config.granularity)
    if key not in known:
        stages = partitioned.stages((0,))
        described(stages)
        reference = reference_of(model, example, partitioned.fixed, partitioned.tolerance, name)
        reference.check_repeats()
        reference.check(stages)
        known[key] = model
    return len(partitioned.points) - 1


def check_inputs(configurations: Iterable[Configuration]) -> None:
    """Make sure that weights fit their models and images can be read, before workers are started.

    Weights are loaded, and the first image is preprocessed; what several configurations share, once.

    Raises:
        WeightsError: weights are not there, are no checkpoint, or do not fit.
        DataError: the images are not there or too few, or the preprocessing does not make what the model takes,
            or their folders are no classes.
    """
    loaded: set[object] = set()
    seen: set[object] = set()
    for config in configurations:
        name, own = config.model, ":" in config.model
        weights = (name, config.weights, config.num_classes)
        if not own and config.weights != "random" and weights not in loaded:  # `count_units` has loaded the others
            load_model(name, config.weights, config.num_classes, config.seed)
        loaded.add(weights)
        images = (*weights, config.dataset, config.num_images)
        if images not in seen:
            pictures = config.dataset != "synthetic"
            model = build_model(name, config.num_classes, config.seed) if own and pictures else None
            dtype = input_dtype(name, model)
            place = load_environment().cifar10_path
            check_images(config.dataset, config.num_images, name, place, dtype)
            load_labels(config.dataset, config.num_images, place)
        seen.add(images)
