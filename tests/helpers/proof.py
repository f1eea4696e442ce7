"""Whether stages compute what their model computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pplib.model.stages.proof import Reference


def verify_cut(
    model: nn.Module, stages: Sequence[nn.Module], batch: torch.Tensor, tolerance: float | None = None
) -> float:
    """Largest absolute difference between the composed `stages` and the whole `model` on `batch`: see `Reference`.

    Raises:
        ModelError: the model gives no finite output, or another when it is called again.
        PartitionError: the stages do not compute what the model computes.
    """
    return Reference(model, batch, tolerance).check(stages)
