"""The model room: the operations and layers that a stage may consist of, by name. Nothing else can be named."""

from __future__ import annotations

import functools
import importlib
import math
import operator
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import get_overridable_functions

from pplib.errors import ModelError
from pplib.model.tracing.autocast import enter_autocast, exit_autocast

# Not arithmetic on tensors: they read files or foreign memory, share it, or run what they are given.
_NOT_FUNCTIONS = frozenset(
    "from_file frombuffer from_numpy from_dlpack asarray as_tensor autocast sym_ite attrgetter itemgetter methodcaller "
    "call resize_as_ resize_as_sparse_".split()
)
_NOT_METHODS = frozenset(
    "apply_ map_ map2_ backward register_hook register_post_accumulate_grad_hook retain_grad requires_grad_ numpy "
    "share_memory_ set_ data_ptr storage storage_type untyped_storage module_load resize_ resize_as_ resize reinforce "
    "to_dense to_sparse rename rename_ align_to align_as refine_names dim_order".split()
)
# Of torch.nn.functional, but missing in torch's own list of what takes tensors.
_UNLISTED = frozenset("hardswish hardsigmoid elu_ hardtanh_ leaky_relu_".split())
_CUSTOM = "torchvision"  # the one library whose own operations (torch.ops) are known


def is_known(kind: str, target: Any) -> bool:
    """Whether a stage may have this operation; `kind` is fx's `call_function` or `call_method`."""
    try:
        name_of(kind, target)
    except ModelError:
        return False
    return True


def name_of(kind: str, target: Any) -> str:
    """The name that `operation` finds it by.

    Raises:
        ModelError: it is none that a stage may have.
    """
    if kind == "call_method":
        if target in _methods():
            return str(target)
        raise ModelError(f"{target}() is no operation on tensors that a stage can have")
    if isinstance(target, (torch._ops.OpOverloadPacket, torch._ops.OpOverload)):
        name = str(target)
        if name.startswith(f"{_CUSTOM}."):
            return f"torch.ops.{name}"
    try:
        return _functions()[1][target]
    except (KeyError, TypeError):
        name = f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"
        raise ModelError(f"{name}() is no operation on tensors that a stage can have") from None


def operation(kind: str, name: str) -> Any:
    """The function with this name, or a method's very name.

    Raises:
        ModelError: a stage may have none of this name.
    """
    if kind == "call_method" and name in _methods():
        return name
    if kind == "call_function":
        if name.startswith(f"torch.ops.{_CUSTOM}."):
            return _custom(name)
        if (function := _functions()[0].get(name)) is not None:
            return function
    raise ModelError(f"{name!r} is no operation that a stage can have")


def is_plain_layer(module: nn.Module) -> bool:
    """Whether a module and all in it are of torch.nn as it is: no hooks, no parametrisation, no other forward()."""
    return all(
        layer_name(type(one)) is not None
        and not (one._forward_hooks or one._forward_pre_hooks or "forward" in vars(one))
        for one in module.modules()
    )


def layer_name(kind: type[nn.Module]) -> str | None:
    """The name that `layer` finds a class by; None where it is none of torch.nn."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        return name if layer(name) is kind else None
    except ModelError:
        return None


def layer(name: str) -> type[nn.Module]:
    """The class of torch.nn with this qualified name.

    Raises:
        ModelError: there is none.
    """
    module, _, own = name.rpartition(".")
    found = getattr(sys.modules.get(module), own, None) if module.startswith("torch.nn.modules.") else None
    if isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == module:
        return found
    raise ModelError(f"{name!r} is no layer that a stage can have")


@functools.cache
def _functions() -> tuple[dict[str, Callable[..., Any]], dict[Callable[..., Any], str]]:
    overridable = {id(one) for place, ones in get_overridable_functions().items() if place in _PLACES for one in ones}
    native = torch._C._VariableFunctions
    found: dict[str, Callable[..., Any]] = {
        "getattr": public_attribute,
        "torch._assert": torch._assert,
        "enter_autocast": enter_autocast,
        "exit_autocast": exit_autocast,
    }
    for place, prefix in _PLACES.items():
        for own in dir(place):
            function = getattr(place, own)
            listed = id(function) in overridable or (place is functional and own in _UNLISTED)
            known = listed or (place is torch and hasattr(native, own))
            if callable(function) and known and own not in _NOT_FUNCTIONS and not own.startswith("__"):
                found[f"{prefix}.{own}"] = function
    for place, prefix in ((operator, "operator"), (math, "math")):
        for own in dir(place):
            if not own.startswith("_") and own not in _NOT_FUNCTIONS and callable(getattr(place, own)):
                found[f"{prefix}.{own}"] = getattr(place, own)
    names: dict[Callable[..., Any], str] = {}
    for name, function in found.items():
        names.setdefault(function, name)
    names[getattr] = "getattr"
    return found, names


def learn_operations() -> None:
    """Make the list now: while a model is traced, some functions are others'."""
    _functions()


_PLACES: dict[Any, str] = {
    torch: "torch",
    torch.functional: "torch.functional",
    functional: "torch.nn.functional",
    torch.linalg: "torch.linalg",
    torch.fft: "torch.fft",
    torch.special: "torch.special",
}


@functools.cache
def _methods() -> frozenset[str]:
    own = {name for name in dir(torch.Tensor) if not name.startswith("_") and callable(getattr(torch.Tensor, name))}
    arithmetic = {"__getitem__", "__setitem__", "__len__"} | {
        f"__{side}{name}__"
        for name in "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
        for side in ("", "r", "i")
    }
    compared = {f"__{name}__" for name in "eq ne lt le gt ge neg pos invert abs".split()}
    return frozenset((own | arithmetic | compared) - _NOT_METHODS)


def public_attribute(value: Any, name: str) -> Any:
    """What `getattr(tensor, name)` in a forward() becomes: `shape`, `T`, a field of a named result.

    Raises:
        ModelError: the name is private.
    """
    if not isinstance(name, str) or name.startswith("_"):
        raise ModelError(f"{name!r} is no attribute that a stage can read")
    return getattr(value, name)


def _custom(name: str) -> Any:
    try:
        importlib.import_module(_CUSTOM)
    except ImportError as exc:
        raise ModelError(f"{name}: needs {_CUSTOM} on this device: {exc}") from exc
    place: Any = torch
    for part in name.split(".")[1:]:
        place = getattr(place, part, None)
    if not isinstance(place, (torch._ops.OpOverloadPacket, torch._ops.OpOverload)):
        raise ModelError(f"{name!r} is no operation of {_CUSTOM}")
    return place


def works(module: nn.Module) -> bool:
    """Whether a module computes anything in eval mode; dropout does not."""
    return not isinstance(module, (_DropoutNd, nn.Identity))
