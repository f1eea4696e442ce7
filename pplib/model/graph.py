"""Tracing a model, and finding every place where exactly one tensor is alive."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from pplib.errors import ModelError


@dataclass(frozen=True)
class Cut:
    """A place in the graph: `value` is the one tensor alive after `position` nodes have run."""

    position: int
    value: fx.Node

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor that crosses the cut, for the example batch."""
        return tuple(self.value.meta["tensor_meta"].shape)

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""
        dtype: torch.dtype = self.value.meta["tensor_meta"].dtype
        return dtype


def trace(model: nn.Module, example_input: torch.Tensor) -> fx.GraphModule:
    """Trace `model` with torch.fx and note the shape of every value, for this batch.

    Args:
        model: in eval mode; on the meta device nothing is computed.
        example_input: shape (B, C, H, W), on the model's device.

    Raises:
        ModelError: the operation that cannot be traced, and what to do.
    """
    if model.training:
        raise ModelError("expected a model in eval mode, got one in training mode: call model.eval() first")
    try:
        traced = fx.symbolic_trace(model)
    except (TypeError, ValueError, RuntimeError, AttributeError, NameError, fx.proxy.TraceError) as exc:
        raise ModelError(
            f"{type(model).__name__} cannot be traced: {exc} ({_where(exc)}). torch.fx needs a forward whose control "
            "flow does not depend on tensor values: move such code into a submodule's leaf function wrapped with "
            "torch.fx.wrap, or replace the `if`, `len` or `int` there by tensor operations"
        ) from exc
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ShapeProp(traced).propagate(example_input)
    except (RuntimeError, TypeError, ValueError) as exc:
        first = str(exc).strip().partition("\n")[0]
        raise ModelError(
            f"{type(model).__name__} does not run on an input of shape {tuple(example_input.shape)}: {first}"
        ) from exc
    result = output_value(traced)
    if not isinstance(result, fx.Node) or not is_tensor(result):
        raise ModelError(
            f"{type(model).__name__} returns {type(result).__name__}, expected one tensor: wrap the model so that its "
            "forward returns the logits alone"
        )
    return traced


def output_value(traced: fx.GraphModule) -> object:
    """What the graph returns: a node, or a structure of nodes."""
    return next(node for node in reversed(traced.graph.nodes) if node.op == "output").args[0]


def is_tensor(node: fx.Node) -> bool:
    """Whether the node's value is one tensor (not a size, not a tuple)."""
    return isinstance(node.meta.get("tensor_meta"), TensorMetadata)


def single_tensor_cuts(traced: fx.GraphModule) -> list[Cut]:
    """Every cut that one tensor crosses, in order, from the input to the output, both included.

    Parameters are not counted: each stage has its own. Two places with the same tensor alive are one
    cut, the earlier. A size or any other non-tensor that is alive across a place rules it out.
    """
    nodes = [node for node in traced.graph.nodes if node.op != "output"]
    order = {node: i for i, node in enumerate(nodes)}
    last_use = {
        node: max((order.get(user, len(nodes)) for user in node.users), default=-1)
        for node in nodes
        if node.op != "get_attr"
    }
    alive: set[fx.Node] = set()
    cuts: list[Cut] = []
    for i, node in enumerate(nodes):
        alive = {one for one in alive if last_use[one] > i}
        if last_use.get(node, -1) > i:
            alive.add(node)
        if len(alive) == 1:
            (value,) = alive
            if is_tensor(value) and (not cuts or cuts[-1].value is not value):
                cuts.append(Cut(i + 1, value))
    return cuts


def module_path(node: fx.Node) -> tuple[str, ...]:
    """Qualified names of the modules the node was called in, outermost first, itself included."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [entry[0] if isinstance(entry, tuple) else str(entry) for entry in stack.values()]
    if node.op == "call_module" and str(node.target) not in names:
        names.append(str(node.target))
    return tuple(name for name in names if name)


def value_name(node: fx.Node) -> str:
    """The name of a value: its module's, or where it is computed and by what."""
    if node.op == "placeholder":
        return "input"
    if node.op == "call_module":
        return str(node.target)
    return ".".join([*module_path(node)[-1:], node.name])


def _where(exc: BaseException) -> str:
    """The deepest place outside torch itself where tracing stopped."""
    torch_root = str(torch.__path__[0])
    place, step = "in its forward", exc.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if not file.startswith((torch_root, "<")) and file != __file__:
            place = f"at {file}:{step.tb_lineno}"
        step = step.tb_next
    return place


def example_device(model: nn.Module) -> torch.device:
    """Where the model's tensors are."""
    tensors: Sequence[torch.Tensor] = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")
