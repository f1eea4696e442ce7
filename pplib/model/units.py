"""What a block is: the units between which an architecture is cut, numbered as the literature does."""

from __future__ import annotations

from collections import Counter

from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock


def unit_names(model: nn.Module) -> list[str]:
    """Names of the modules after which a block cut lies, in the order they are defined.

    MobileNetV2, AlexNet, VGG, ResNet and InceptionV3 are numbered as in arXiv 2601.08025. For any
    other model its containers are opened, and what is inside are the blocks: plain Sequentials and
    ModuleLists, other Sequentials that hold more than single operations, and wrappers that occur
    once and hold such a container.

    >>> unit_names(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    ['0', '1']
    """
    if isinstance(model, models.MobileNetV2 | models.AlexNet | models.VGG):
        return [f"features.{i}" for i in range(len(model.features) - 1)]
    if isinstance(model, models.ResNet):
        groups = [("layer1", model.layer1), ("layer2", model.layer2), ("layer3", model.layer3), ("layer4", model.layer4)]
        blocks = [f"{name}.{i}" for name, group in groups for i in range(len(group))]
        # With basic blocks the stem belongs to the first block; with bottlenecks it is a unit of its own.
        return blocks if isinstance(model.layer1[0], BasicBlock) else ["maxpool", *blocks[:-1]]
    if isinstance(model, models.Inception3):
        children = [name for name, child in model.named_children() if not name.startswith("AuxLogits")]
        return children[: children.index("avgpool") + 1]
    counts = Counter(type(module) for module in model.modules())
    return [name for child in _opened("", model, counts) for name in child]


def _opened(name: str, module: nn.Module, counts: Counter[type[nn.Module]]) -> list[list[str]]:
    found = []
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        if _is_container(child, counts):
            found.append([one for inner in _opened(path, child, counts) for one in inner])
        else:
            found.append([path])
    return found


def _is_container(module: nn.Module, counts: Counter[type[nn.Module]]) -> bool:
    children = list(module.children())
    if not children:
        return False
    if type(module) in (nn.Sequential, nn.ModuleList):
        return True
    composite = any(list(child.children()) for child in children)
    if isinstance(module, nn.Sequential):
        return composite
    holds_list = any(type(child) in (nn.Sequential, nn.ModuleList) and len(child) > 1 for child in children)
    return composite and holds_list and counts[type(module)] == 1
