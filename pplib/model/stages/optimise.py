"""The model room: what inference on a stage gains without changing its result."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pplib.model.tracing.operations import works

_NORM_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
}


def optimise(stage: fx.GraphModule) -> nn.Module:
    """Fold every batch-norm into the convolution before it, lay weights out channels_last, drop dropout.

    A batch-norm is folded where the convolution's output goes nowhere else; a cut between the two
    leaves both as they are. `stage` is not changed: weights that need no change are shared with it.

    Args:
        stage: in eval mode, with its weights loaded.

    Returns:
        A module for inference only, equal to `stage` up to rounding.

    Source: `torch.nn.utils.fusion`.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    calls = Counter(node.target for node in stage.graph.nodes if node.op == "call_module")
    folded = {node.args[0]: node for node in stage.graph.nodes if _is_foldable(stage, node, calls)}
    norms = set(folded.values())
    for node in stage.graph.nodes:
        if node in norms or (node.op == "call_module" and not works(_module(stage, node))):
            copies[node] = copies[node.all_input_nodes[0]]
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    result = fx.GraphModule(stage, graph, class_name="OptimisedStage")
    with torch.no_grad():
        for node, norm in folded.items():
            _replace(result, str(node.target), _fold(_module(stage, node), _module(stage, norm)))
        for name, module in list(result.named_modules()):
            if name and any(_is_image_weight(weight) for weight in module._parameters.values()):
                _replace(result, name, _channels_last(module))
    return result.eval()


def _is_foldable(stage: fx.GraphModule, node: fx.Node, calls: Counter[Any]) -> bool:
    if node.op != "call_module" or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
        return False
    before = node.args[0]
    if before.op != "call_module" or len(before.users) != 1:
        return False
    convolution, norm = _module(stage, before), _module(stage, node)
    return (
        _NORM_OF.get(type(convolution)) is type(norm)
        and not norm.training
        and isinstance(norm.running_mean, torch.Tensor)
        and calls[before.target] == 1  # a convolution used twice has only one of its outputs normalised here
    )


def _fold(convolution: Any, norm: Any) -> nn.Module:
    weight, bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    return _with_parameters(convolution, {"weight": weight, "bias": bias})


def _channels_last(module: nn.Module) -> nn.Module:
    return _with_parameters(
        module,
        {
            name: weight.contiguous(memory_format=torch.channels_last)
            for name, weight in module._parameters.items()
            if weight is not None and _is_image_weight(weight)
        },
    )


def _is_image_weight(weight: torch.Tensor | None) -> bool:
    return weight is not None and weight.dim() == 4


def _with_parameters(module: nn.Module, changed: dict[str, torch.Tensor]) -> nn.Module:
    own = copy.copy(module)
    own._parameters = dict(module._parameters)
    for name, tensor in changed.items():
        own._parameters[name] = nn.Parameter(tensor.detach(), requires_grad=False)
    return own


def _module(stage: fx.GraphModule, node: fx.Node) -> Any:
    return stage.get_submodule(str(node.target))


def _replace(stage: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(stage.get_submodule(parent), own, module)
