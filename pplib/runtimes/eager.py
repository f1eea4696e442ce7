"""Eager PyTorch: a stage is a module, made of the operations that it was described by."""

from __future__ import annotations

from typing import Literal

from pplib.runtimes import Precision

PACKAGES = ("torch",)
FORM: Literal["operations"] = "operations"
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
