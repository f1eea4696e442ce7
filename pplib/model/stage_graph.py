"""One stage as a module of its own: the nodes between two cuts, with nothing of its input overwritten."""

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import fx, nn

from pplib.model.graph import Cut

_IN_PLACE_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
_VIEW_MODULES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Flatten, nn.Unflatten)
_VIEW_NAMES = frozenset(
    "flatten reshape view permute transpose unsqueeze squeeze getitem chunk split contiguous dropout detach".split()
)


def stage_module(traced: fx.GraphModule, begin: Cut, end: Cut, copies: bool) -> fx.GraphModule:
    """The nodes after `begin` up to `end` as a module whose state keeps the whole model's names.

    Operations that would overwrite the stage's own input (an in-place ReLU right after the cut) are
    made out-of-place: the input is a receive buffer, or an image that is used again.

    Args:
        traced: the whole model.
        begin: the cut whose tensor is the stage's input.
        end: the cut whose tensor is its output.
        copies: copy submodules and parameters instead of sharing them.
    """
    graph = fx.Graph()
    source = graph.placeholder("x")
    env: dict[fx.Node, fx.Node] = {begin.value: source}
    targets: dict[str, Any] = {}
    aliases = {source}

    def lookup(node: fx.Node) -> fx.Node:
        if node not in env:
            if node.op != "get_attr":
                raise AssertionError(f"{node} is alive across a cut that only {begin.value} crosses")
            targets[str(node.target)] = _fetch(traced, str(node.target), copies)
            env[node] = graph.node_copy(node, lookup)
        return env[node]

    for node in list(traced.graph.nodes)[begin.position : end.position]:
        if node in env or node.op == "get_attr":
            continue
        new = env[node] = graph.node_copy(node, lookup)
        module = None
        if node.op == "call_module":
            module = targets[str(node.target)] = targets.get(str(node.target)) or _fetch(
                traced, str(node.target), copies
            )
        first = new.args[0] if new.args else None
        if first in aliases:
            if _make_out_of_place(new, module, targets):
                env[node.args[0]] = new  # whoever reads the input later expects it overwritten
            elif isinstance(module, _VIEW_MODULES) or _operation(new) in _VIEW_NAMES:
                aliases.add(new)
    graph.output(env[end.value])
    return fx.GraphModule(targets, graph, class_name="Stage")


def _fetch(traced: fx.GraphModule, target: str, copies: bool) -> Any:
    found: Any = traced
    for part in target.split("."):
        found = getattr(found, part)
    return copy.deepcopy(found) if copies else found


def _operation(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")


def _make_out_of_place(node: fx.Node, module: nn.Module | None, targets: dict[str, Any]) -> bool:
    """Rewrite an in-place operation; whether it was one."""
    if module is not None:
        if not getattr(module, "inplace", False) or isinstance(module, _VIEW_MODULES):
            return False
        replacement = copy.copy(module)
        replacement.inplace = False  # type: ignore[assignment]
        targets[str(node.target)] = replacement
        return True
    if node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"):
        node.target = str(node.target)[:-1]
        return True
    if node.op != "call_function":
        return False
    if node.target in _IN_PLACE_OPERATORS:
        node.target = _IN_PLACE_OPERATORS[node.target]
        return True
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
        return True
    name = _operation(node)
    outward = getattr(torch, name.rstrip("_"), None)
    if name.endswith("_") and not name.endswith("__") and callable(outward):
        node.target = outward
        return True
    return False
