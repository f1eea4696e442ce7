"""The model room: a model as a straight line of operations, and the places where one tensor is alive."""

from __future__ import annotations

import importlib.util
import operator
import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from pplib.errors import ModelError
from pplib.model.tracing.proxies import ValueReadError
from pplib.model.tracing.tracer import ConcreteTracer, NodeFacts

_IN_PLACE: dict[Any, str] = {getattr(operator, f"i{own}"): own for own in ("add", "sub", "mul", "truediv", "pow")}
_LIBRARIES = tuple(
    str(Path(spec.origin).parent) + os.sep
    for name in ("torch", "torchvision")
    if (spec := importlib.util.find_spec(name)) is not None and spec.origin
)


@dataclass(frozen=True)
class Cut:
    """A layer cut: only `node`'s value is alive. `positions` are node indices the cut may stand before."""

    node: fx.Node
    positions: tuple[int, ...]


@dataclass(frozen=True)
class TracedModel:
    """The operations of a model in order, from its one input to its one output, with what was seen of each."""

    model: nn.Module
    nodes: tuple[fx.Node, ...]
    facts: dict[str, NodeFacts]
    constants: frozenset[fx.Node]  # weights, and what is computed from weights only
    tensors: dict[str, torch.Tensor]  # constants that forward() makes, by their name in the graph
    fixed: bool  # whether the graph may be right for inputs of the example's shape only

    def layer_cuts(self) -> list[Cut]:
        """Every place where exactly one tensor is alive, in order; first the input, last the output.

        Counted once per tensor: weights and what is computed from them alone do not count, neither do
        operations whose value nobody uses.
        A number that lives on (a batch size taken from a shape) makes a place invalid.
        """
        order = {node: i for i, node in enumerate(self.nodes)}
        last_use = {node: max((order[user] for user in node.users), default=-1) for node in self.nodes}
        cuts: list[Cut] = []
        alive: set[fx.Node] = set()
        for i, node in enumerate(self.nodes[:-1]):
            if node not in self.constants:
                alive.add(node)
            alive = {value for value in alive if last_use[value] > i}
            if len(alive) != 1:
                continue
            (value,) = alive
            if self.facts[value.name].shape is None:
                continue
            if cuts and cuts[-1].node is value:
                cuts[-1] = Cut(value, (*cuts[-1].positions, i + 1))
            else:
                cuts.append(Cut(value, (i + 1,)))
        return cuts


def trace(model: nn.Module, example_input: torch.Tensor) -> TracedModel:
    """Trace `model` with torch.fx on `example_input`: what it asks of shapes gets the answers of this example.

    Args:
        model: eval-mode module of one tensor; on the meta device nothing is computed.
        example_input: (B, C, H, W), on the model's device or on meta with it.

    Raises:
        ModelError: cannot be traced or run, names the operation and the line; or returns no single tensor.
    """
    name = type(model).__name__
    if model.training:
        raise ModelError(f"{name} is in training mode: call .eval() first; stages only infer")
    # A view into a batch keeps nothing from being overwritten: the run gets its own copy.
    tracer = ConcreteTracer(example_input.clone())
    with torch.inference_mode(False), torch.no_grad():
        try:
            graph = tracer.trace(model)
        except ModelError as exc:
            raise ModelError(f"{exc}{_user_line(exc)}") from exc
        except ValueReadError as exc:
            raise ModelError(
                f"{name} cannot be traced{_user_line(exc)}: it branches or loops on what a tensor holds, or makes a "
                "number of it, and a stage does the same for every input: use tensor operations such as torch.where, "
                "or leave that part out of forward()"
            ) from exc
        except Exception as exc:
            raise _why(model, example_input, exc) from exc
    _views_to_reshapes(graph)
    facts = tracer.facts
    return TracedModel(model, tuple(graph.nodes), facts, _constants(graph, facts), tracer.tensors, tracer.fixed)


def _why(model: nn.Module, example: torch.Tensor, exc: Exception) -> ModelError:
    """Whether it is the model or the tracing that failed: the model alone tells."""
    name, shape = type(model).__name__, tuple(example.shape)
    said = f"{type(exc).__name__}: {next(iter(str(exc).splitlines()), '')}"
    node, inputs = getattr(exc, "paretopipe_node", (None, []))
    if node is not None:
        shapes = [str(tuple(one.shape)) for one in inputs if isinstance(one, torch.Tensor)]
        place = f": {describe_node(node)} on {', '.join(shapes) or 'its input'}"
    else:
        place = ""
    try:
        model(example.clone())
    except Exception:  # noqa: BLE001 (the same, said without the tracing)
        return ModelError(
            f"{name} does not run on a batch of shape {shape}{place}: {said}{_user_line(exc)}: if it takes "
            "another shape or type, its function says so by the attributes `input_shape` and `input_dtype`"
        )
    return ModelError(
        f"{name} cannot be traced{place}: {said}{_user_line(exc)}: what this line does to a tensor cannot be recorded; "
        "use operations of torch on tensors, or leave that part out of forward()"
    )


def describe_node(node: fx.Node) -> str:
    """An operation by the name a user knows: the module's qualified name, or the function and its module."""
    return node_name(node) if node.op == "call_module" else f"{node_name(node)}()"


def node_name(node: fx.Node) -> str:
    """Qualified name of a node: the module's own, or its scope and the function's name.

    An addition in the first block of ResNet18 is `layer1.0.add`.
    """
    if node.op == "call_module":
        return str(node.target)
    if node.op in ("placeholder", "output"):
        return node.op.replace("placeholder", "input")
    own = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    own = _IN_PLACE.get(node.target, own)
    scope = scopes(node)
    return f"{scope[-1]}.{own}" if scope else own


def scopes(node: fx.Node) -> list[str]:
    """Qualified names of the modules a node lies in, outermost first; a module call's own comes last."""
    return [name for name, _ in node.meta.get("nn_module_stack", {}).values() if name]


def _constants(graph: fx.Graph, facts: dict[str, NodeFacts]) -> frozenset[fx.Node]:
    found: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        computed = inputs and node.users and not facts[node.name].mutates and all(n in found for n in inputs)
        if node.op == "get_attr" or (computed and node.op != "output"):
            found.add(node)
    return frozenset(found)


def _views_to_reshapes(graph: fx.Graph) -> None:
    """`view` wants one memory layout and a stage may get another: `reshape` is the same on every layout."""
    for node in graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"


def _user_line(exc: BaseException) -> str:
    """Where in the user's code an exception began."""
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if Path(frame.filename).exists()]
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith(_LIBRARIES) and Path(__file__).parents[1] not in Path(frame.filename).parents
    ]
    return f" at {own[-1].filename}:{own[-1].lineno}: `{own[-1].line}`" if own else ""
