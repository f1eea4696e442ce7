"""The model room: a whole model as exporters are given it, and what to say where one stumbles."""

from __future__ import annotations

import torch
from torch import nn

from pplib.model.partition import PartitionedModel


class Units(nn.Module):
    """All units in a row; the output of each is one of its outputs, so that an exporter leaves every cut open."""

    def __init__(self, partitioned: PartitionedModel) -> None:
        super().__init__()
        self.units = nn.ModuleList(partitioned.units())

    def forward(self, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The value at P1, P2, ... and the output."""
        found = []
        for unit in self.units:
            value = unit(value)
            found.append(value)
        return tuple(found)


def cause(exc: BaseException) -> str:
    """What an exporter stumbled over: the innermost of its errors says it best."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0][:300] if lines else ''}"
