"""The model room: what counts as a block, for the architectures of the literature and for any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)


def unit_names(model: nn.Module) -> list[str]:
    """Qualified names of the modules that open a unit, in the order of the model's definition.

    Operations between two of them belong to the earlier one; those before the first, to the first.

    Source: arXiv 2601.08025 for the numbering of the six architectures it cuts; the rest is ours.

    >>> from torchvision.models import alexnet
    >>> unit_names(alexnet())[:2], len(unit_names(alexnet()))
    (['features.0', 'features.1'], 13)
    """
    for name, rule in _RULES.items():
        if _is_a(model, name):
            return rule(model)
    return _generic(model)


def _is_a(module: nn.Module, name: str) -> bool:
    """As isinstance, by the class's qualified name: the library of the class need not be there."""
    return any(f"{one.__module__}.{one.__qualname__}" == name for one in type(module).__mro__)


def _features(model: nn.Module) -> list[str]:
    """`features[:p]`: each child of `features`; pooling and classifier stay with the last."""
    return [f"features.{name}" for name, _ in model.features.named_children()]  # type: ignore[union-attr]


def _resnet(model: nn.Module) -> list[str]:
    """Each residual block; with basic blocks the stem is part of the first, with bottlenecks a unit of its own."""
    blocks = [
        f"{layer}.{name}"
        for layer in ("layer1", "layer2", "layer3", "layer4")
        for name, _ in getattr(model, layer).named_children()
    ]
    if _is_a(model.layer1[0], "torchvision.models.resnet.BasicBlock"):  # type: ignore[index, arg-type]
        return [*blocks, "avgpool"]
    return ["conv1", *blocks]


def _inception(model: nn.Module) -> list[str]:
    """Each child; dropout and the fully connected layer are one unit."""
    return [name for name, _ in model.named_children() if name not in ("AuxLogits", "fc")]


_RULES: dict[str, Callable[[nn.Module], list[str]]] = {
    "torchvision.models.mobilenetv2.MobileNetV2": _features,
    "torchvision.models.mobilenetv3.MobileNetV3": _features,
    "torchvision.models.vgg.VGG": _features,
    "torchvision.models.alexnet.AlexNet": _features,
    "torchvision.models.resnet.ResNet": _resnet,
    "torchvision.models.inception.Inception3": _inception,
}


def _generic(model: nn.Module) -> list[str]:
    """Open what only holds other modules; what is left are the blocks.

    A single layer is a block if it is pooling or has weights of its own and does not normalise;
    activations, dropout, reshaping and normalisation stay with what comes before.
    """
    kinds = Counter(type(module) for module in model.modules())
    names: list[str] = []

    def visit(module: nn.Module, name: str) -> None:
        if not name or _is_container(module, kinds):
            for child_name, child in module.named_children():
                visit(child, f"{name}.{child_name}".lstrip("."))
        elif _is_block(module):
            names.append(name)

    visit(model, "")
    return names


def _is_container(module: nn.Module, kinds: Counter[type[nn.Module]]) -> bool:
    """Plain sequences, sequences of composites, and one-of-a-kind wrappers around a sequence of composites."""
    children = list(module.children())
    if type(module) in (nn.Sequential, nn.ModuleList):
        return True
    if isinstance(module, nn.Sequential):
        return not all(_is_leaf(child) for child in children)
    return kinds[type(module)] == 1 and any(
        isinstance(child, (nn.Sequential, nn.ModuleList)) and any(not _is_leaf(part) for part in child.children())
        for child in children
    )


def _is_block(module: nn.Module) -> bool:
    if not _is_leaf(module):
        return True
    pools = type(module).__module__ == "torch.nn.modules.pooling"
    return pools or (any(True for _ in module.parameters()) and not isinstance(module, _NORMS))


def _is_leaf(module: nn.Module) -> bool:
    """A layer: of torch.nn itself, or without children."""
    own = type(module).__module__.startswith("torch.nn") and not isinstance(
        module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    )
    return own or not any(True for _ in module.children())
