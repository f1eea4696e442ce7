"""Eager PyTorch: a stage is a module, made of the operations that it was described by."""

from __future__ import annotations

from typing import Literal

from pplib.runtimes import Precision

PACKAGES = ("torch",)
MODULES = ("torch", "torchvision")
REQUIREMENTS = "requirements-pi.txt"
ROOM_BYTES = 0.0
FORM: Literal["operations"] = "operations"
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def unfit(device: str) -> str:
    """See Runtime: a worker on a GPU does not start where PyTorch has it not."""
    return ""
