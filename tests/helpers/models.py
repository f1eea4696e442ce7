"""A user's own model, as `tests.helpers.models:tiny`: small, with a residual branch and in-place operations."""

from __future__ import annotations

import torch
from torch import nn


class Residual(nn.Module):
    """Two convolutions around a shortcut, with the in-place operations that real models have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += x
        return self.relu(out)


def tiny(num_classes: int = 10) -> nn.Module:
    """A small residual network: five blocks, and a head."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        Residual(16),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(16, num_classes),
    )


tiny.input_shape = (3, 64, 64)


def branches_on_data(num_classes: int = 10) -> nn.Module:
    """Cannot be traced."""

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    return Branching()


def returns_a_pair(num_classes: int = 10) -> nn.Module:
    """Returns two tensors."""

    class Pair(nn.Module):
        def forward(self, x):
            return x, torch.flatten(x, 1)

    return Pair()
