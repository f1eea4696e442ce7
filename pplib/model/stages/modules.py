"""The model room: a run of operations as a module of its own, that never writes into what it is given."""

from __future__ import annotations

import copy
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from pplib.model.tracing.autocast import keep_autocast
from pplib.model.tracing.graph import TracedModel


def build_stage(traced: TracedModel, start: int, end: int, source: fx.Node, result: fx.Node) -> fx.GraphModule:
    """The operations `traced.nodes[start:end]` as a module from `source`'s value to `result`'s.

    Its state-dict keys are the whole model's qualified names. With a model on the meta device the
    stage holds copies of its modules, so that weights given to it stay with it; otherwise it shares
    the model's modules.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {source: graph.placeholder("x")}
    nodes = [
        node
        for node in traced.nodes[start:end]
        if node.op not in ("placeholder", "output") and node not in traced.constants
    ]

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies and node in traced.constants:  # wherever it stands: it needs no input
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    outcome = _input_writes(traced, nodes, source, result)
    if outcome is None:
        copies[source] = graph.call_method("clone", (copies[source],))
    for node in nodes:
        copies[node] = graph.node_copy(node, copied)
    root = traced.model
    names = {node.target for node in outcome or () if node.op == "call_module"}
    for node in outcome or ():
        _write_elsewhere(copies[node])
    graph.output(copies[result])
    keep_autocast(graph, next(iter(graph.nodes)))
    stage = fx.GraphModule(_parts(traced, graph), graph, class_name="Stage")
    stage.training = False
    _restore_buffer_kinds(stage, root)
    if _is_meta(root):
        for child_name, child in stage.named_children():
            stage._modules[child_name] = _own_tables(child)
    for name in names:
        _replace(stage, str(name), _not_in_place(stage.get_submodule(str(name))))
    return stage


def _parts(traced: TracedModel, graph: fx.Graph) -> dict[str, Any]:
    """The layers and tensors that a graph refers to, by name."""
    parts: dict[str, Any] = {}
    for node in graph.nodes:
        name = str(node.target)
        if node.op == "call_module":
            parts[name] = traced.model.get_submodule(name)
        elif node.op == "get_attr":
            parts[name] = traced.tensors[name] if name in traced.tensors else _tensor(traced.model, name)
    return parts


def _tensor(model: nn.Module, name: str) -> torch.Tensor:
    parent, _, own = name.rpartition(".")
    found: torch.Tensor = getattr(model.get_submodule(parent), own)
    return found


def _input_writes(
    traced: TracedModel, nodes: Sequence[fx.Node], source: fx.Node, result: fx.Node
) -> list[fx.Node] | None:
    """Operations that would write into the stage's input and can write elsewhere instead.

    None when one of them cannot, because something else reads what it wrote: the input is then copied.
    """
    order = {node: i for i, node in enumerate(nodes)}
    shared = {source.name: source}  # values that lie in the input's memory
    found = []
    for i, node in enumerate(nodes):
        facts = traced.facts[node.name]
        written = facts.mutates & shared.keys()
        if not written:
            if facts.aliases & shared.keys():
                shared[node.name] = node
            continue
        seen_later = any(
            value is result or any(order.get(user, -1) > i for user in value.users) for value in shared.values()
        )
        if seen_later or not _can_write_elsewhere(traced.model, node, nodes):
            return None
        found.append(node)
    return found


def _can_write_elsewhere(model: nn.Module, node: fx.Node, nodes: Sequence[fx.Node]) -> bool:
    if node.op == "call_module":
        once = sum(other.target == node.target for other in nodes) == 1
        return once and getattr(model.get_submodule(str(node.target)), "inplace", None) is True
    return node.kwargs.get("inplace") is True or node.target in _OUT_OF_PLACE


_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
    "relu_": "relu",
    "add_": "add",
    "sub_": "sub",
    "mul_": "mul",
    "div_": "div",
    "clamp_": "clamp",
    "sigmoid_": "sigmoid",
    "tanh_": "tanh",
}


def _write_elsewhere(node: fx.Node) -> None:
    if node.kwargs.get("inplace") is True:
        node.kwargs = {**node.kwargs, "inplace": False}
    elif node.op != "call_module":
        node.target = _OUT_OF_PLACE[node.target]


def _not_in_place(module: nn.Module) -> nn.Module:
    changed = copy.copy(module)
    changed.inplace = False  # type: ignore[assignment]
    return changed


def _replace(stage: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(stage.get_submodule(parent), own, module)


def _is_meta(model: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in itertools.chain(model.parameters(), model.buffers()))


def _own_tables(module: nn.Module) -> nn.Module:
    """A copy of `module` whose tensors can be replaced without touching the original's.

    Much quicker than a deep copy. Tensors on the meta device are shared until they are replaced.
    """
    for key, value in vars(module).items():
        if key not in _TABLES and isinstance(value, (list, dict)) and _holds_tensors(value):
            return copy.deepcopy(module)  # recurrent layers keep a second list of their weights
    own = module.__class__.__new__(module.__class__)
    vars(own).update(vars(module))
    for table in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        vars(own)[table] = copy.copy(vars(module)[table])
    for name, child in own._modules.items():
        own._modules[name] = None if child is None else _own_tables(child)
    return own


_TABLES = ("_parameters", "_buffers", "_modules")


def _holds_tensors(values: Any) -> bool:
    items = values.values() if isinstance(values, dict) else values
    return any(isinstance(item, (torch.Tensor, nn.Module)) for item in items)


def _restore_buffer_kinds(stage: fx.GraphModule, model: nn.Module) -> None:
    """fx registers every tensor that a graph reads as a persistent buffer; keep what the model said."""
    for target in {str(node.target) for node in stage.graph.nodes if node.op == "get_attr"}:
        parent, _, name = target.rpartition(".")
        module = model.get_submodule(parent)
        saved = name in module._buffers and name not in module._non_persistent_buffers_set
        if name not in module._parameters and not saved:
            stage.get_submodule(parent)._non_persistent_buffers_set.add(name)
