"""The model room: what a forward() may return, and how to pick one tensor of anything else."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import fx, nn

from pplib.errors import ModelError
from pplib.model.tracing.proxies import Concrete


def one_tensor(model: nn.Module, output: Any) -> Any:
    """`output`, where it is one tensor that forward() computed of its input.

    Args:
        model: whose forward() it is, for the message.
        output: as returned while tracing.

    Raises:
        ModelError: anything else; says what it is, and how to pick a tensor of it.
    """
    value = output.value if issubclass(type(output), Concrete) else output
    if issubclass(type(output), fx.Proxy) and issubclass(type(value), torch.Tensor):
        return output
    what, key = _kind(value)
    if key is None:
        way = "return one that is computed of the input"
    else:
        way = (
            "pick one where the model is made, e.g. by "
            f"`model.register_forward_hook(lambda module, inputs, output: output{key})`"
        )
    raise ModelError(f"{type(model).__name__}: forward() must return one tensor, it returns {what}: {way}")


def _kind(value: Any) -> tuple[str, str | None]:
    """What a value is, in words, and what picks the first tensor of it; None where it holds none."""
    kind = type(value)
    if issubclass(kind, dict):
        known = ", ".join(str(key) for key in value)
        return f"a dict with the keys {known}", _first([(f"[{key!r}]", item) for key, item in value.items()])
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        fields = [(f".{name}", item) for name, item in zip(kind._fields, value, strict=True)]
        return f"a {kind.__name__} with the fields {', '.join(kind._fields)}", _first(fields)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        fields = [(f".{name}", getattr(value, name, None)) for name in names]
        return f"a {kind.__name__} with the fields {', '.join(names)}", _first(fields)
    if issubclass(kind, (tuple, list)):
        name = "list" if issubclass(kind, list) else "tuple"
        return f"a {name} of {len(value)}", _first([(f"[{i}]", item) for i, item in enumerate(value)])
    if value is None:
        return "nothing (None)", None
    if issubclass(kind, torch.Tensor):
        return "a tensor that does not depend on its input", None
    return f"a {kind.__name__}", None


def _first(parts: list[tuple[str, Any]]) -> str | None:
    """The key of the first part that is a tensor; of several layers of containers, all keys."""
    for key, item in parts:
        value = item.value if issubclass(type(item), Concrete) else item
        if issubclass(type(value), torch.Tensor):
            return key
        inner = _kind(value)[1]
        if inner is not None:
            return key + inner
    return None
