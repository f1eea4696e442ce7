"""The model room: reading weights that others made, and fitting them to a module."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from pplib.errors import WeightsError

SUFFIXES = (".pth", ".pt", ".safetensors")
_SHOWN = 4
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")
State = dict[str, torch.Tensor]


def check_source(weights: str) -> None:
    """Raise WeightsError unless `weights` is `random`, `DEFAULT`, or a file of a known kind that is there."""
    if weights in ("random", "DEFAULT"):
        return
    path = Path(weights).expanduser()
    if path.suffix not in SUFFIXES:
        raise WeightsError(
            f"weights: expected `random`, `DEFAULT`, or a file ending in {', '.join(SUFFIXES)}, got {weights!r}"
        )
    if not path.is_file():
        raise WeightsError(f"weights: no such file: {path} (looked from {Path.cwd()})")


def read_checkpoint(source: Any) -> State:
    """The state dict in a file, or of an entry of torchvision's weights (from its cache, or downloaded).

    Accepts a plain state dict or {"state_dict": ...}; strips the prefix `module.` of DataParallel.

    Raises:
        WeightsError: missing, unreadable, not a state dict, or the download failed.
    """
    if not isinstance(source, str):
        return _read_torchvision(source)
    check_source(source)
    path = Path(source).expanduser()
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError, ValueError) as exc:
        raise WeightsError(
            f"{path}: not readable as {path.suffix}: {exc}; expected a state dict, saved by "
            "`torch.save(model.state_dict(), path)` or as safetensors"
        ) from exc
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(
            f"{path}: expected a state dict of tensors, or one under the key `state_dict`, got {_describe(content)}"
        )
    return _without_prefix(content)


def apply_checkpoint(
    model: nn.Module,
    state: State,
    source: str,
    ignored: tuple[str, ...] = (),
    old_densenet: bool = False,
    classes: tuple[int, int] | None = None,
) -> None:
    """Copy `state` into `model`; every tensor of the model must be given, in its shape.

    Args:
        model: on the CPU, not on meta.
        state: the tensors.
        source: opens the error message.
        ignored: prefixes of tensors to leave out.
        old_densenet: translate the names of torchvision's old densenet files.
        classes: (count in the file, count in the model): tensors that differ only so keep the model's values.

    Raises:
        WeightsError: lists the first missing, unexpected and mismatched tensors.
    """
    own = model.state_dict()
    given: State = OrderedDict()
    for key, value in state.items():
        if not key.startswith(ignored or ("\0",)):
            given[_OLD_DENSENET.sub(r"\1\2", key) if old_densenet else key] = value
    mismatched = []
    for key in [key for key in given if key in own and given[key].shape != own[key].shape]:
        if classes is not None and _differs_by_classes(given[key], own[key], classes):
            given[key] = own[key]
        else:
            mismatched.append(f"{key}: expected {tuple(own[key].shape)}, got {tuple(given[key].shape)}")
            del given[key]
    # Modules read the version of their layout from here, to translate files of older releases.
    given._metadata = getattr(state, "_metadata", getattr(own, "_metadata", None))  # type: ignore[attr-defined]
    try:
        missing, unexpected = model.load_state_dict(given, strict=False)
    except RuntimeError as exc:
        raise WeightsError(f"{source}: do not fit {type(model).__name__}: {exc}") from exc
    wrong = {key.split(":")[0] for key in mismatched}
    missing = [key for key in missing if key not in wrong and not key.endswith(".num_batches_tracked")]
    problems = [
        f"{len(keys)} {kind} ({'; '.join(keys[:_SHOWN])}{'; ...' if len(keys) > _SHOWN else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched))
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{source}: do not fit {type(model).__name__}: of {len(own)} tensors {', '.join(problems)}; "
            "give the weights of this architecture, and its num_classes"
        )


def _read_torchvision(entry: Any) -> State:
    try:
        state: State = entry.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as exc:  # URLError is one
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"weights DEFAULT: {entry.url} could not be downloaded: {exc}; offline, put that file into {folder}, "
            "or use weights: random"
        ) from exc
    except (RuntimeError, EOFError, pickle.UnpicklingError) as exc:
        raise WeightsError(f"weights DEFAULT: {entry.url}: damaged in the cache or on the way: {exc}") from exc
    return state


def _without_prefix(state: State) -> State:
    prefix = "module."
    if not state or not all(key.startswith(prefix) for key in state):
        return state
    stripped = OrderedDict((key.removeprefix(prefix), value) for key, value in state.items())
    if (metadata := getattr(state, "_metadata", None)) is not None:
        stripped._metadata = OrderedDict(  # type: ignore[attr-defined]
            (key.removeprefix("module").removeprefix("."), value) for key, value in metadata.items()
        )
    return stripped


def _differs_by_classes(given: torch.Tensor, own: torch.Tensor, classes: tuple[int, int]) -> bool:
    pairs = list(zip(given.shape, own.shape, strict=False))
    return given.dim() == own.dim() and all(a == b or (a, b) == classes for a, b in pairs)


def _describe(content: Any) -> str:
    if isinstance(content, dict):
        return f"a dict with the keys {', '.join(str(key) for key in list(content)[:_SHOWN])}"
    return f"a {type(content).__name__}"
