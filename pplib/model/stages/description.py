"""A stage as plain data. Who reads it runs no code of others: names are looked up in `tracing.operations`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class TensorFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor of a stage, without its content."""

    shape: tuple[int, ...]
    dtype: str
    parameter: bool


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layer of torch.nn. Tensors are indices into the stage's; a tied one has the same index in two places."""

    kind: str
    attributes: dict[str, Any]
    tensors: dict[str, int | None]
    unsaved: tuple[str, ...]  # buffers that are not part of the state dict
    layers: dict[str, Layer | None]


class Operation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One operation, by fx's words; in `args` and `kwargs`, earlier operations stand by name."""

    op: Literal["placeholder", "get_attr", "call_module", "call_function", "call_method", "output"]
    name: str
    target: str
    args: Any
    kwargs: Any


class StageDescription(msgspec.Struct, frozen=True, tag="operations", forbid_unknown_fields=True):
    """What a stage computes: its operations in order, its layers, and which tensors it needs, all by qualified name."""

    operations: tuple[Operation, ...]
    layers: dict[str, Layer]
    attributes: dict[str, tuple[int, bool]]  # tensors that operations use directly; whether in the state dict
    tensors: tuple[TensorFacts, ...]
