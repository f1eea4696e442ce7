"""From a stage to its description, and back to a module without weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from pplib.errors import ModelError
from pplib.model.stages.description import Layer, Operation, StageDescription, TensorFacts
from pplib.model.tracing.operations import layer, layer_name, name_of, operation

_RESERVED = frozenset(vars(nn.Module()))  # kept by every module itself
_DERIVED = frozenset({"_flat_weights", "_flat_weight_refs"})  # recurrent layers' second list of their weights
_NAME = re.compile(r"[^\"'\\\x00-\x1f]{1,1000}")
_FORMATS = ("contiguous_format", "channels_last", "channels_last_3d", "preserve_format")


def describe(stage: fx.GraphModule) -> StageDescription:
    """`stage` as plain data.

    Raises:
        ModelError: something in it has no name that a device knows.
    """
    index: dict[int, int] = {}
    tensors: list[TensorFacts] = []

    def place(tensor: torch.Tensor) -> int:
        if id(tensor) not in index:
            index[id(tensor)] = len(tensors)
            dtype = str(tensor.dtype).removeprefix("torch.")
            tensors.append(TensorFacts(tuple(tensor.shape), dtype, isinstance(tensor, nn.Parameter)))
        return index[id(tensor)]

    operations, layers, attributes = [], {}, {}
    for node in stage.graph.nodes:
        target = str(node.target)
        if node.op in ("call_function", "call_method"):
            target = name_of(node.op, node.target)
        elif node.op == "call_module":
            layers[target] = _describe_layer(target, stage.get_submodule(target), place)
        elif node.op == "get_attr":
            parent, _, own = target.rpartition(".")
            module = stage.get_submodule(parent)
            saved = own not in module._non_persistent_buffers_set
            attributes[target] = (place(getattr(module, own)), saved)
        try:
            args, kwargs = _plain(node.args, place), _plain(dict(node.kwargs), place)
        except TypeError as exc:
            raise ModelError(f"operation {node.name} ({target}): {exc}") from exc
        operations.append(Operation(node.op, node.name, target, args, kwargs))
    return StageDescription(tuple(operations), layers, attributes, tuple(tensors))


def build(description: StageDescription, device: torch.device) -> fx.GraphModule:
    """The stage that was described, without weights (on the meta device), for use on `device`.

    Raises:
        ModelError: it names what no stage may have, or is not sound.
    """
    try:
        return _build(description, device)
    except ModelError:
        raise
    except Exception as exc:
        raise ModelError(f"the description of a stage is not sound: {type(exc).__name__}: {exc}") from exc


def _build(description: StageDescription, device: torch.device) -> fx.GraphModule:
    tensors = [_empty(facts) for facts in description.tensors]
    parts: dict[str, Any] = {
        _name(name): _build_layer(one, tensors, device) for name, one in description.layers.items()
    }
    parts |= {_name(name): tensors[place] for name, (place, _) in description.attributes.items()}
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for one in description.operations:
        args, kwargs = (_value(item, nodes, tensors, device) for item in (one.args, one.kwargs))
        target: Any = one.target
        if one.op == "placeholder":
            target, args, kwargs = "x", (), {}
        elif one.op in ("get_attr", "call_module"):
            if target not in parts:
                raise ModelError(f"operation {one.name}: the stage has no {target!r}")
        elif one.op != "output":
            target = operation(one.op, target)
        if one.name in nodes:
            raise ModelError(f"two operations are called {one.name!r}")
        nodes[one.name] = graph.create_node(one.op, target, tuple(args), dict(kwargs), re.sub(r"\W", "_", one.name))
    graph.lint()
    stage = fx.GraphModule(parts, graph, class_name="Stage")
    stage.training = False
    for name, (_, saved) in description.attributes.items():
        parent, _, own = name.rpartition(".")
        if not saved:
            stage.get_submodule(parent)._non_persistent_buffers_set.add(own)
    return stage


def _describe_layer(name: str, module: nn.Module, place: Callable[[torch.Tensor], int]) -> Layer:
    kind = layer_name(type(module))
    if kind is None:
        raise ModelError(f"{name}: {type(module).__qualname__} is no layer of torch.nn, and a device has no other")
    attributes = {}
    for key, value in vars(module).items():
        if key in _RESERVED or key in _DERIVED:
            continue
        try:
            attributes[key] = _plain(value, place)
        except TypeError as exc:
            raise ModelError(f"{name}: {type(module).__name__}: attribute {key!r}: {exc}") from exc
    return Layer(
        kind=kind,
        attributes=attributes,
        tensors={
            key: None if tensor is None else place(tensor)
            for table in (module._parameters, module._buffers)
            for key, tensor in table.items()
        },
        unsaved=tuple(sorted(module._non_persistent_buffers_set)),
        layers={
            key: None if child is None else _describe_layer(f"{name}.{key}", child, place)
            for key, child in module._modules.items()
        },
    )


def _build_layer(described: Layer, tensors: list[torch.Tensor], device: torch.device) -> nn.Module:
    kind = layer(described.kind)
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    for key, value in described.attributes.items():
        if key in _RESERVED or key.startswith("__") or callable(getattr(kind, key, None)):
            raise ModelError(f"{described.kind} cannot be given an attribute {key!r}")
        vars(module)[key] = _value(value, {}, tensors, device)
    for key, place in described.tensors.items():
        tensor = None if place is None else tensors[place]
        table = module._buffers if tensor is not None and not isinstance(tensor, nn.Parameter) else module._parameters
        table[_name(key)] = tensor  # type: ignore[assignment]
    module._non_persistent_buffers_set |= set(described.unsaved)
    for key, child in described.layers.items():
        module._modules[_name(key)] = None if child is None else _build_layer(child, tensors, device)
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
    module.training = False
    return module


def _empty(facts: TensorFacts) -> torch.Tensor:
    dtype = getattr(torch, facts.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise ModelError(f"{facts.dtype!r} is no dtype")
    tensor = torch.empty(facts.shape, dtype=dtype, device="meta")
    return nn.Parameter(tensor, requires_grad=False) if facts.parameter else tensor


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):  # it becomes part of the text of a function
        raise ModelError(f"{name[:80]!r} cannot be the name of a part of a model")
    return name


def _plain(value: Any, place: Callable[[torch.Tensor], int]) -> Any:
    """As what msgpack can carry: what is no number, string, None or truth is a dict of one key, its kind."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, torch.Tensor):
        return {"tensor": place(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_plain(item, place) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_plain(key, place), _plain(item, place)] for key, item in value.items()]}
    if isinstance(value, (slice, range)):
        parts = [_plain(item, place) for item in (value.start, value.stop, value.step)]
        return {type(value).__name__: parts}
    if isinstance(value, torch.device):
        return {"device": True}
    if value is ...:
        return {"ellipsis": True}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    if callable(value):
        return {"function": name_of("call_function", value)}
    raise TypeError(f"a {type(value).__qualname__} cannot be sent to a device")


def _value(plain: Any, nodes: dict[str, fx.Node], tensors: list[torch.Tensor], device: torch.device) -> Any:
    if not isinstance(plain, dict):
        if isinstance(plain, (bool, int, float, str)) or plain is None:
            return plain
        raise ModelError(f"a bare {type(plain).__name__} in the description of a stage")
    ((kind, content),) = plain.items()

    def parts() -> list[Any]:
        return [_value(item, nodes, tensors, device) for item in content]

    match kind:
        case "node":
            return nodes[content]
        case "tensor":
            return tensors[content]
        case "list":
            return parts()
        case "tuple":
            return tuple(parts())
        case "dict":
            return {_value(key, nodes, tensors, device): _value(item, nodes, tensors, device) for key, item in content}
        case "slice":
            return slice(*parts())
        case "range":
            return range(*parts())
        case "device":
            return device
        case "ellipsis":
            return ...
        case "complex":
            return complex(*content)
        case "function":
            return operation("call_function", content)
        case "dtype" | "memory_format" | "layout":
            found = getattr(torch, str(content), None)
            if isinstance(found, (torch.dtype, torch.memory_format, torch.layout)):
                return found
    raise ModelError(f"{str(plain)[:80]} is nothing that a stage can have")
