"""The model room: regions of a forward() under `torch.autocast`, kept in a stage."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_NEUTRAL = ("placeholder", "get_attr", "output")


def enter_autocast(like: torch.Tensor, dtype: torch.dtype, enabled: bool) -> Any:
    """Begin a region on the device of `like`."""
    context: Any = torch.autocast(like.device.type, dtype=dtype, enabled=enabled)
    context.__enter__()
    return context


def exit_autocast(context: Any) -> None:
    """End a region."""
    context.__exit__(None, None, None)


def keep_autocast(graph: fx.Graph, like: fx.Node) -> None:
    """Put every run of operations that were traced under another autocast than the whole into a region of its own.

    An operation's state is in its `meta["autocast"]`: (enabled, dtype's name). `like` is on the graph's device.
    """
    entered: fx.Node | None = None
    state: tuple[bool, str] | None = None
    for node in list(graph.nodes):
        own = node.meta.get("autocast")
        if (node.op in _NEUTRAL and node.op != "output") or own == state:
            continue
        with graph.inserting_before(node):
            if entered is not None:
                graph.call_function(exit_autocast, (entered,))
                entered = None
            if own is not None:
                enabled, dtype = own
                kind = getattr(torch, dtype) if enabled else None
                entered = graph.call_function(enter_autocast, (like, kind, enabled))
        state = own
