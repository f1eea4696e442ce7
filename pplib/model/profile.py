"""What each unit of a model costs on this machine: time, FLOPs, parameters, and the activation after it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pplib.model.optimise import optimise
from pplib.model.partition import PartitionedModel


@dataclass(frozen=True)
class UnitProfile:
    """One unit, between partition points `index` - 1 and `index`.

    `time_s` is the median over repeats of one batch through the unit alone, by this machine's
    monotonic clock, `time_min_s` and `time_max_s` their range. `flops` counts multiplications and
    additions (2 x MACs) of convolutions, matrix products and attention, for the whole batch.
    """

    index: int
    label: str
    name: str
    time_s: float
    time_min_s: float
    time_max_s: float
    flops: int
    params: int
    param_bytes: int
    activation_bytes: int


def profile_model(
    model: nn.Module,
    example_input: torch.Tensor,
    granularity: str = "block",
    repeats: int = 5,
    warmup: int = 2,
    optimize: bool = True,
) -> list[UnitProfile]:
    """Run every unit on the activation the one before it made, and measure it.

    Args:
        model: in eval mode, not changed.
        example_input: one batch, shape (B, C, H, W), on the model's device.
        granularity: what a unit is.
        repeats: timed runs per unit, after `warmup` runs.
        optimize: profile units as an optimised stage runs them.

    Raises:
        ModelError: the model cannot be traced.
    """
    partitioned = PartitionedModel(model, example_input, granularity)
    points = partitioned.points
    activation = example_input.clone()
    profiles = []
    for stage, point in zip(partitioned.units(), points[1:], strict=True):
        unit: nn.Module = optimise(stage) if optimize else stage
        if optimize and activation.dim() == 4:
            activation = activation.contiguous(memory_format=torch.channels_last)
        times = [_timed(unit, activation) for _ in range(warmup + repeats)][warmup:]
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            result = stage(activation)
        parameters = list(stage.parameters())
        profiles.append(
            UnitProfile(
                index=point.index,
                label=point.label,
                name=point.name,
                time_s=statistics.median(times),
                time_min_s=min(times),
                time_max_s=max(times),
                flops=counter.get_total_flops(),
                params=sum(p.numel() for p in parameters),
                param_bytes=sum(p.numel() * p.element_size() for p in parameters),
                activation_bytes=point.activation_bytes,
            )
        )
        activation = result
    return profiles


def _timed(unit: nn.Module, activation: torch.Tensor) -> float:
    on_gpu = activation.device.type == "cuda"
    with torch.inference_mode():
        if on_gpu:
            torch.cuda.synchronize(activation.device)
        start = time.monotonic_ns()
        unit(activation)
        if on_gpu:
            torch.cuda.synchronize(activation.device)
        return (time.monotonic_ns() - start) * 1e-9
