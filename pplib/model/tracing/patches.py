"""The model room: what is changed around a model while it is traced, and set back afterwards."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import fx, nn

from pplib.model.tracing.proxies import Concrete, proxies_in


@contextlib.contextmanager
def python_told() -> Iterator[None]:
    """Have isinstance(x, torch.Tensor) be true of a proxy (in Python; C code must see what it is), and
    torch.zeros(n, 3) know an n that is a proxy, as torch.zeros((n, 3)) does. A function under
    `torch.jit.script` is the Python function it was made from.
    """
    is_instance = isinstance

    def of_value(thing: Any, kinds: Any) -> bool:
        return is_instance(thing, kinds) or (is_instance(thing, Concrete) and is_instance(thing.value, kinds))

    def packed(function: Any) -> Any:
        def call(*size: Any, **kwargs: Any) -> Any:
            if not size or not is_instance(size[0], fx.Proxy):
                return function(*size, **kwargs)
            whole = is_instance(size[0], Concrete) and is_instance(size[0].value, (tuple, list))
            return function(tuple(size[0]) if whole else size, **kwargs)

        return call

    scripted = torch.jit.ScriptFunction.__call__

    def unscripted(function: Any, *args: Any, **kwargs: Any) -> Any:
        source = getattr(function, "_torchdynamo_inline", None)
        if source is not None and proxies_in((args, kwargs)):
            return source(*args, **kwargs)
        return scripted(function, *args, **kwargs)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(builtins, "isinstance", of_value))
        for name in ("zeros", "ones", "empty", "rand", "randn"):
            stack.enter_context(mock.patch.object(torch, name, packed(getattr(torch, name))))
        stack.enter_context(mock.patch.object(torch.jit.ScriptFunction, "__call__", unscripted))
        if (compiled := sys.modules.get("torch._dynamo")) is not None:  # what torch.compile made runs as it was written
            stack.enter_context(compiled.config.patch(error_on_nested_fx_trace=False))
        yield


def attributes(root: nn.Module) -> list[tuple[Any, Any]]:
    """What a module's attributes are, and the dicts and lists in them, to set them back: forward() may keep what it
    computed there.
    """
    saved: dict[int, tuple[Any, Any]] = {}
    waiting: list[Any] = [vars(module) for module in root.modules()]
    while waiting:
        table = waiting.pop()
        if id(table) not in saved:
            values = list(table.values()) if isinstance(table, dict) else table
            saved[id(table)] = (table, dict(table) if isinstance(table, dict) else list(table))
            waiting += [value for value in values if isinstance(value, (dict, list))]
    return list(saved.values())


def restore(saved: list[tuple[Any, Any]]) -> None:
    """Set back what `attributes` saved."""
    for table, before in saved:
        if isinstance(table, list):
            table[:] = before
        elif table.keys() != before.keys() or any(table[key] is not value for key, value in before.items()):
            table.clear()
            table.update(before)
