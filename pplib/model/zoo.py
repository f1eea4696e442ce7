"""The model room, zoo: from a name to a module, its input size and its preprocessing."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pplib.config import make_importable, search_folders
from pplib.errors import ModelError, WeightsError, nearest
from pplib.files.late_import import without_compiler
from pplib.model.weights.calibrate import calibrate_batch_norm, wake_silent_layers
from pplib.model.weights.checkpoint import apply_checkpoint, check_source, read_checkpoint
from pplib.model.wrapped import check_kind, initialise, unwrapped

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_DEFAULT_SHAPE = (3, 224, 224)
_INPUT_DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8")
# Heads that only training uses; their checkpoints carry them, our modules do not.
_AUXILIARY = {"inception_v3": ("AuxLogits.",), "googlenet": ("aux1.", "aux2.")}


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, and which entry of their file they are (`checkpoint.apply_checkpoint`)."""

    model: nn.Module
    taken: str


def load_model(name: str, weights: str = "random", num_classes: int | None = None, seed: int = 0) -> nn.Module:
    """The model of `load_from`, for those who do not ask which weights of a file were taken."""
    return load_from(name, weights, num_classes, seed).model


def load_from(name: str, weights: str = "random", num_classes: int | None = None, seed: int = 0) -> LoadedModel:
    """Build model `name` with its weights, in eval mode on the CPU.

    Random weights get batch-norm statistics of one seeded batch, so that activations have the scale
    of a trained network's: with untouched statistics they explode or vanish, and denormal numbers
    falsify timings.

    Args:
        name: a torchvision classification model, or `package.module:function` returning a module.
        weights: `random`, `DEFAULT` (torchvision's), or a file (`checkpoint.SUFFIXES`) with a state dict in it.
        num_classes: outputs of the head; None keeps the architecture's own. With `DEFAULT`, tensors
            whose shape follows the class count are random, all others pretrained.
        seed: same seed, same state dict; the global random state is left as it was.

    Raises:
        ModelError: unknown name, or the model cannot be built.
        WeightsError: weights missing, unreadable, or not of this model.
    """
    check_source(weights)
    model = build_model(name, num_classes, seed, weights)
    if weights == "random":
        calibrate_batch_norm(model, input_shape(name), seed, input_dtype(name, model))
        return LoadedModel(model, "")
    classes_before: int | None = None
    if weights == "DEFAULT":
        entry = _default_weights(name)
        if entry is None:
            raise WeightsError(f"{name}: weights: DEFAULT is for torchvision's models; give `random` or a file")
        classes_before = len(entry.meta["categories"])
        state = read_checkpoint(entry)
    else:
        state = read_checkpoint(weights)
    taken = apply_checkpoint(
        model,
        state,
        source=f"{name}: weights {weights}",
        ignored=_AUXILIARY.get(name, ()),
        old_densenet=name.startswith("densenet"),
        classes=None if classes_before is None or num_classes is None else (classes_before, num_classes),
    )
    return LoadedModel(model.eval().requires_grad_(False), taken)


def build_model(name: str, num_classes: int | None = None, seed: int = 0, weights: str = "random") -> nn.Module:
    """The module of `load_model` with the weights it was made with, which may be a user's own.

    Raises:
        ModelError: unknown name, or the model cannot be built.
    """
    with _seeded(seed):
        model = _construct(name, weights, num_classes)
        if ":" not in name:
            wake_silent_layers(model)
    return model.eval().requires_grad_(False)


def build_skeleton(name: str, weights: str = "random", num_classes: int | None = None) -> nn.Module:
    """The torchvision model of `load_model` with the same arguments, without its weights: on the meta device.

    Its graph, state-dict keys and shapes are those of the loaded model; no weights are made.

    Raises:
        ModelError: unknown name, or the model cannot be built.
    """
    check_source(weights)
    with _seeded(0), _EmptyOnMeta():
        model = _construct(name, weights, num_classes)
    for module in model.modules():
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor):  # a constant that was not registered as a buffer
                setattr(module, key, value.to("meta"))
    return model.to("meta").eval().requires_grad_(False)


def input_shape(name: str) -> tuple[int, int, int]:
    """(C, H, W) of one image for model `name`.

    torchvision's models: the crop size of their DEFAULT weights' transforms, which needs no download.
    A user's function: its attribute `input_shape`, else (3, 224, 224).

    >>> input_shape("inception_v3")
    (3, 299, 299)
    """
    entry = _default_weights(name)
    if entry is not None:
        (size,) = entry.transforms().crop_size
        return (3, size, size)
    shape = getattr(_user_function(name), "input_shape", _DEFAULT_SHAPE) if ":" in name else _DEFAULT_SHAPE
    three = isinstance(shape, (tuple, list)) and len(shape) == 3
    if not three or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ModelError(f"{name}: input_shape: expected three positive integers (C, H, W), got {shape!r}")
    return (shape[0], shape[1], shape[2])


def input_dtype(name: str, model: nn.Module | None = None) -> torch.dtype:
    """What model `name` takes: its function's attribute `input_dtype`, else the dtype of its weights, or float32."""
    own = getattr(_user_function(name), "input_dtype", None) if ":" in name else None
    if own is not None:
        found = getattr(torch, own, None) if isinstance(own, str) else own
        if not isinstance(found, torch.dtype) or str(found).removeprefix("torch.") not in _INPUT_DTYPES:
            raise ModelError(f"{name}: input_dtype: expected one of {', '.join(_INPUT_DTYPES)}, got {own!r}")
        return found
    floating = (tensor.dtype for tensor in (model.parameters() if model else ()) if tensor.is_floating_point())
    return next(floating, torch.float32)


def preprocessing(name: str) -> Callable[[Any], torch.Tensor]:
    """The function that makes of one PIL image a tensor of `input_shape(name)`.

    It is given mode `L` where the model takes one channel, else `RGB`. torchvision's models: the
    transforms of their DEFAULT weights. A user's function: its attribute `preprocessing`, else resize,
    centre crop and ImageNet's mean and standard deviation (of grey: 0.5 and 0.25; bytes stay as they are).

    Raises:
        ModelError: there is none for the model's number of channels.
    """
    entry = _default_weights(name)
    if entry is not None:
        return entry.transforms()  # type: ignore[no-any-return]
    own = own_preprocessing(name)
    if own is not None:
        return own
    channels, height, width = input_shape(name)
    if channels not in (1, 3):
        raise ModelError(
            f"{name}: takes {channels} channels, pictures have 1 or 3: give the function an attribute `preprocessing`, "
            f"a function from one RGB PIL image to a tensor of shape {(channels, height, width)}, or use "
            "dataset: synthetic"
        )
    with without_compiler():
        from torchvision import transforms

    scale = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.25,))
    normalise = [transforms.ToTensor(), transforms.Normalize(*scale)]
    return transforms.Compose(  # type: ignore[no-any-return]
        [
            transforms.Resize(round(max(height, width) * 256 / 224)),
            transforms.CenterCrop((height, width)),
            *([transforms.PILToTensor()] if input_dtype(name) == torch.uint8 else normalise),
        ]
    )


def own_preprocessing(name: str) -> Callable[[Any], torch.Tensor] | None:
    """The attribute `preprocessing` of a user's function; None where it has none."""
    return getattr(_user_function(name), "preprocessing", None) if ":" in name else None


def model_names() -> list[str]:
    """torchvision's classification models, sorted."""
    library = _torchvision_models()
    return sorted(library.list_models(module=library))


class _EmptyOnMeta(TorchFunctionMode):
    """Modules take their parameters from `torch.empty`: these get no memory; all else computes as usual."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _construct(name: str, weights: str, num_classes: int | None) -> nn.Module:
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"{name}: num_classes: expected an integer >= 1, got {num_classes}")
    if ":" in name:
        return _construct_users(name, options)
    if name in _AUXILIARY:
        # torchvision's weights of these two were trained on another normalisation, undone in forward().
        options |= {"init_weights": False, "aux_logits": False, "transform_input": weights == "DEFAULT"}
    if name.startswith("vit_"):
        options["image_size"] = input_shape(name)[1]
    if _default_weights(name) is None:
        raise ModelError(f"unknown model {name!r}; {nearest(name, model_names())}; or `package.module:function`")
    model: nn.Module = _torchvision_models().get_model(name, weights=None, **options)
    return model


def _construct_users(name: str, options: dict[str, Any]) -> nn.Module:
    function = _user_function(name)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        parameters = {}.values()
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    if options and not takes_any and "num_classes" not in [parameter.name for parameter in parameters]:
        raise ModelError(
            f"{name}: num_classes is {options['num_classes']}, but the function takes no `num_classes`: "
            "add the parameter, or leave num_classes out"
        )
    try:
        model = function(**options)
    except (Exception, SystemExit) as exc:
        raise ModelError(f"{name}: the function failed: {type(exc).__name__}: {exc}{_argparse(exc)}") from exc
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name}: expected the function to return a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    check_kind(name, model)
    model = model.cpu()
    initialise(name, model, torch.zeros(1, *input_shape(name), dtype=input_dtype(name, model)))
    return model


def _argparse(exc: BaseException) -> str:
    if not isinstance(exc, SystemExit):
        return ""
    return " (code that reads the command line ends the program: keep it under `if __name__ == '__main__':`)"


def _user_function(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    make_importable()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as exc:
        folders = " or ".join(f"in {folder}" for folder in search_folders())
        raise ModelError(
            f"{name}: cannot import {module_name!r}: {type(exc).__name__}: {exc}{_argparse(exc)}; "
            f"expected it {folders} or on PYTHONPATH"
        ) from exc
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ModelError(f"{name}: {module_name!r} has no function {attribute!r}; {nearest(attribute, known)}")
    return function  # type: ignore[no-any-return]


def _default_weights(name: str) -> Any:
    """The entry of torchvision's DEFAULT weights (an enum member), or None when it has no such model."""
    if ":" in name or name not in model_names():
        return None
    return _torchvision_models().get_model_weights(name).DEFAULT


def _torchvision_models() -> Any:
    """Imported where it is needed: it takes seconds and much memory, and a user's own model may do without."""
    with without_compiler():
        from torchvision import models

    return models
