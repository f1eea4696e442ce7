"""What inference on a stage gains without changing its result: folded batch-norm, channels_last."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}


def optimise(stage: fx.GraphModule) -> fx.GraphModule:
    """Fold every batch-norm into the convolution before it, and lay weights out channels_last.

    A batch-norm is folded where the convolution's output goes nowhere else, so a cut between the two
    leaves both as they are. The stage given is not changed; tensors that need no change are shared.

    Args:
        stage: in eval mode, with its weights loaded.

    Source: `torch.nn.utils.fusion.fuse_conv_bn_eval`.
    """
    modules = dict(stage.named_modules())
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    targets: dict[str, object] = {}
    folded: dict[fx.Node, fx.Node] = {
        node.args[0]: node for node in stage.graph.nodes if _foldable(node, modules)
    }  # convolution -> its batch-norm
    norms = set(folded.values())
    for node in stage.graph.nodes:
        if node in norms:
            env[node] = env[node.args[0]]
            continue
        env[node] = graph.node_copy(node, lambda one: env[one])
        if node.op == "call_module":
            module = modules[str(node.target)]
            if node in folded:
                module = fuse_conv_bn_eval(module, modules[str(folded[node].target)])
            targets[str(node.target)] = module
        elif node.op == "get_attr":
            targets[str(node.target)] = _attribute(stage, str(node.target))
    result = fx.GraphModule(targets, graph, class_name="OptimisedStage")
    return result.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _foldable(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op != "call_module" or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    before = node.args[0]
    if before.op != "call_module" or len(before.users) != 1:
        return False
    convolution, norm = modules[str(before.target)], modules[str(node.target)]
    if type(convolution) not in _CONVOLUTIONS or type(norm) is not _NORMS[type(convolution)]:
        return False
    return not norm.training and norm.running_mean is not None


def _attribute(stage: fx.GraphModule, target: str) -> object:
    found: object = stage
    for part in target.split("."):
        found = getattr(found, part)
    return found
