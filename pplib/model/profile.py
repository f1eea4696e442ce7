"""The model room: what each unit of a model costs on this machine."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from pplib.errors import ModelError
from pplib.model.partition import PartitionedModel
from pplib.model.stages.optimise import optimise


@dataclass(frozen=True)
class UnitProfile:
    """One unit, between partition points `index` - 1 and `index`.

    `time_s` is the median over the repeats of one batch through the unit alone, by this machine's
    monotonic clock, until the result is complete; `time_min_s` and `time_max_s` are their range.
    `flops` is 2 x MACs of convolutions, matrix products and attention, for the whole batch.
    `activation_bytes` is the size of the unit's output.
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
    """Run every unit on the activation that the one before it made, and measure it.

    Args:
        model: on the device to measure; its mode is restored afterwards.
        example_input: one batch (B, C, H, W), on the same device.
        granularity: `block` or `layer`.
        repeats: timed runs per unit, after `warmup` runs that do not count.
        optimize: measure units as a run executes them (batch-norm folded, channels_last).

    Raises:
        ModelError: the model cannot be traced, has no weights, or `repeats` is below 1.
    """
    if repeats < 1 or warmup < 0:
        raise ModelError(f"profile: expected repeats >= 1 and warmup >= 0, got {repeats} and {warmup}")
    if example_input.is_meta:
        raise ModelError("profile: the model has no weights (meta device): load_model makes one that has")
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        partitioned = PartitionedModel(model, example_input, granularity)
        activation = example_input
        profiles = []
        for point, unit in zip(partitioned.points[1:], partitioned.units(), strict=True):
            with torch.inference_mode():
                flops = _count_flops(unit, activation)
                fast = optimise(unit) if optimize else unit
                times = [_time(fast, activation) for _ in range(warmup + repeats)][warmup:]
                activation = fast(activation)
            parameters = {id(parameter): parameter for parameter in unit.parameters()}.values()
            profiles.append(
                UnitProfile(
                    index=point.index,
                    label=point.label,
                    name=partitioned.unit_name(point.index),
                    time_s=statistics.median(times),
                    time_min_s=min(times),
                    time_max_s=max(times),
                    flops=flops,
                    params=sum(parameter.numel() for parameter in parameters),
                    param_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
                    activation_bytes=point.activation_bytes,
                )
            )
        return profiles
    finally:
        for module, training in modes.items():
            module.training = training


def _count_flops(unit: nn.Module, activation: torch.Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # which loads a compiler: sweeps count no operations

    with FlopCounterMode(display=False) as counter:
        unit(activation)
    return int(counter.get_total_flops())


def _time(unit: nn.Module, activation: torch.Tensor) -> float:
    _synchronise(activation)
    start = time.monotonic_ns()
    unit(activation)
    _synchronise(activation)
    return (time.monotonic_ns() - start) * 1e-9


def _synchronise(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
