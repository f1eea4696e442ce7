"""The model room: the values that every channel of an activation takes, for a wire of few bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pplib.errors import ModelError
from pplib.links import INT8_STEPS
from pplib.model.partition import PartitionedModel

MOST_CHANNELS = 4096  # with more, as flattened feature maps have, one range serves all


class Range(NamedTuple):
    """Of one activation: the smallest value, and the 255th part of what it spans; one each per channel, or one."""

    low: tuple[float, ...]
    step: tuple[float, ...]


@torch.inference_mode()
def ranges(partitioned: PartitionedModel, batches: Sequence[torch.Tensor], name: str) -> list[Range | None]:
    """The range of the value at every cut, over all `batches` (B, C, H, W); None where it is of no floating type.

    Channels are the second dimension of feature maps, and the last one of all else.

    Raises:
        ModelError: a value is not finite; says at which cut.
    """
    units = partitioned.units()
    found: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * (len(units) + 1)
    for batch in batches:
        value = batch.clone()
        for point in range(len(found)):
            if point:
                value = units[point - 1](value)
            if not value.is_floating_point():
                continue
            if not bool(value.isfinite().all()):
                raise ModelError(
                    f"{name}: the value at P{point} is not finite everywhere: `wire: int8` has no range for it; choose "
                    "float16 or float32"
                )
            low, high = _ends(value.float())
            before = found[point]
            found[point] = (low, high) if before is None else (before[0].minimum(low), before[1].maximum(high))
    return [None if one is None else _range(*one) for one in found]


def _ends(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    axis = 1 if value.dim() == 4 else value.dim() - 1
    if value.shape[axis] > MOST_CHANNELS:
        return value.min().reshape(1), value.max().reshape(1)
    rest = [i for i in range(value.dim()) if i != axis]
    return value.amin(rest), value.amax(rest)


def _range(low: torch.Tensor, high: torch.Tensor) -> Range:
    step = (high - low) / INT8_STEPS
    step[step == 0] = 1.0  # a channel that is always the same is its lowest value
    return Range(tuple(low.tolist()), tuple(step.tolist()))
