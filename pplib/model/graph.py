"""The model room: a model as a straight line of operations, and the places where one tensor is alive."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from pplib.errors import ModelError

_LIBRARIES = tuple(
    str(Path(spec.origin).parent) + os.sep
    for name in ("torch", "torchvision")
    if (spec := importlib.util.find_spec(name)) is not None and spec.origin
)


@dataclass(frozen=True)
class NodeFacts:
    """What one run showed of a node: its value, and what it does to the memory of others.

    `aliases` and `mutates` hold the names of input nodes whose memory the value shares, or whose
    memory the operation overwrites.
    """

    shape: tuple[int, ...] | None  # None: the value is no tensor
    dtype: torch.dtype | None
    num_bytes: int
    aliases: frozenset[str]
    mutates: frozenset[str]


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
    """Trace `model` with torch.fx and run it once on `example_input` to see shapes and memory use.

    Args:
        model: eval-mode module of one tensor; on the meta device nothing is computed.
        example_input: (B, C, H, W), on the model's device or on meta with it.

    Raises:
        ModelError: cannot be traced or run, names the operation and the line; or returns no single tensor.
    """
    name = type(model).__name__
    if model.training:
        raise ModelError(f"{name} is in training mode: call .eval() first; stages only infer")
    try:
        graph = _symbolic(model)
    except Exception as exc:
        raise ModelError(
            f"{name} cannot be traced: {type(exc).__name__}: {exc}{_user_line(exc)}; forward() must not branch or "
            "loop on tensor values, nor convert them to numbers: move such code out, or wrap it with torch.fx.wrap"
        ) from exc
    _drop_extra_inputs(graph)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ModelError(f"{name}: forward() must take one tensor, it takes {len(inputs)}: wrap it in a module")
    _views_to_reshapes(graph)
    with torch.inference_mode(False), torch.no_grad():
        # A view into a batch keeps nothing from being overwritten: the run gets its own copy.
        recorder = _Recorder(model, graph, example_input.clone())
        with _on_device(example_input.device):
            output = recorder.run_graph()
    if not isinstance(output, torch.Tensor) or len(list(graph.nodes)[-1].all_input_nodes) != 1:
        raise ModelError(
            f"{name}: forward() must return one tensor, it returns {_kind(output)}: wrap it in a module that picks one"
        )
    return TracedModel(model, tuple(graph.nodes), recorder.facts, _constants(graph, recorder.facts))


class _Recorder(fx.Interpreter):
    def __init__(self, model: nn.Module, graph: fx.Graph, example: torch.Tensor) -> None:
        super().__init__(model, garbage_collect_values=True, graph=graph)
        self.extra_traceback = False  # our message names the operation
        self._model_name, self._example = type(model).__name__, example
        self.facts: dict[str, NodeFacts] = {}

    def run_graph(self) -> Any:
        return self.run(self._example, enable_io_processing=False)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        # Constants made during tracing are real, even in a model without weights.
        return value.to("meta") if isinstance(value, torch.Tensor) and self._example.is_meta else value

    def run_node(self, n: fx.Node) -> Any:
        before = {node: _memory(self.env[node]) for node in n.all_input_nodes}
        try:
            value = super().run_node(n)
        except Exception as exc:
            shapes = [self.facts[node.name].shape for node in n.all_input_nodes if node.op != "get_attr"]
            shown = ", ".join(str(shape) for shape in shapes if shape is not None)
            raise ModelError(
                f"{self._model_name} does not run on a batch of shape {tuple(self._example.shape)}: "
                f"{describe_node(n)} on {shown or 'its input'}: {type(exc).__name__}: {str(exc).splitlines()[0]}"
            ) from exc
        places = _memory(value).keys()
        self.facts[n.name] = NodeFacts(
            shape=tuple(value.shape) if isinstance(value, torch.Tensor) else None,
            dtype=value.dtype if isinstance(value, torch.Tensor) else None,
            num_bytes=value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0,
            aliases=frozenset(node.name for node, memory in before.items() if places & memory.keys()),
            mutates=frozenset(node.name for node, memory in before.items() if memory != _memory(self.env[node])),
        )
        return value


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
    scope = scopes(node)
    return f"{scope[-1]}.{own}" if scope else own


def scopes(node: fx.Node) -> list[str]:
    """Qualified names of the modules a node lies in, outermost first; a module call's own comes last."""
    return [name for name, _ in node.meta.get("nn_module_stack", {}).values() if name]


def _memory(value: Any) -> dict[int, int]:
    """Storages that a value lies in, with the version that every in-place operation counts up."""
    found: dict[int, int] = {}

    def visit(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            found[item.untyped_storage()._cdata] = -1 if item.is_inference() else item._version
        elif isinstance(item, (list, tuple)):
            for part in item:
                visit(part)
        elif isinstance(item, dict):
            visit(list(item.values()))

    visit(value)
    return found


class _Tracer(fx.Tracer):
    # A table looked up by a buffer (maxvit) stays an operation on weights, not a value frozen at tracing.
    proxy_buffer_attributes = True


def _symbolic(model: nn.Module) -> fx.Graph:
    defaults = _defaults(model) or None
    try:
        return _Tracer().trace(model, concrete_args=defaults)
    except Exception:  # noqa: BLE001 - a buffer read as a number: take it as the constant it is
        return fx.Tracer().trace(model, concrete_args=defaults)


def _constants(graph: fx.Graph, facts: dict[str, NodeFacts]) -> frozenset[fx.Node]:
    found: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        computed = inputs and node.users and not facts[node.name].mutates and all(n in found for n in inputs)
        if node.op == "get_attr" or (computed and node.op != "output"):
            found.add(node)
    return frozenset(found)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Arguments of forward() after the first that have a default: tracing takes them as constants."""
    parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    return {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}


def _drop_extra_inputs(graph: fx.Graph) -> None:
    """Remove inputs that were given constants, and the assertions that fx made about them."""
    for extra in [node for node in graph.nodes if node.op == "placeholder"][1:]:
        reached, stack = {extra}, [extra]
        while stack:
            new = set(stack.pop().users) - reached
            reached |= new
            stack.extend(new)
        if all(node.op != "output" for node in reached):
            for node in [node for node in reversed(graph.nodes) if node in reached]:
                graph.erase_node(node)


def _views_to_reshapes(graph: fx.Graph) -> None:
    """`view` wants one memory layout and a stage may get another: `reshape` is the same on every layout."""
    for node in graph.nodes:
        if node.op == "call_method" and node.target == "view" and not isinstance(node.args[1], torch.dtype):
            node.target = "reshape"


@contextlib.contextmanager
def _on_device(device: torch.device) -> Iterator[None]:
    with torch.device(device) if device.type != "cpu" else contextlib.nullcontext():
        yield


def _user_line(exc: BaseException) -> str:
    """Where in the user's code an exception began."""
    frames = [frame for frame in traceback.extract_tb(exc.__traceback__) if Path(frame.filename).exists()]
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith(_LIBRARIES) and Path(frame.filename) != Path(__file__)
    ]
    return f" at {own[-1].filename}:{own[-1].lineno}: `{own[-1].line}`" if own else ""


def _kind(output: Any) -> str:
    if isinstance(output, dict):
        return f"a dict with the keys {', '.join(str(key) for key in output)}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"
