"""The model room: reading weights that others made, and fitting them to a module."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pplib.config import input_path, looked_in
from pplib.errors import WeightsError
from pplib.model.weights.checkpoint_file import read_file
from pplib.model.weights.checkpoint_fit import Fit, State, choose, find_states

SUFFIXES = (".pth", ".pt", ".pth.tar", ".tar", ".ckpt", ".bin", ".safetensors")
_SHOWN = 4
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


def check_source(weights: str) -> None:
    """Raise WeightsError unless `weights` is `random`, `DEFAULT`, or a file that is there.

    What a file holds, its content decides, whatever its name ends in.
    """
    if weights in ("random", "DEFAULT"):
        return
    if weights.startswith(("http://", "https://")):
        raise WeightsError(f"weights: {weights} is an address: download it, and give the file")
    path = input_path(weights)
    if path.exists():
        return
    if not path.name.lower().endswith(SUFFIXES):
        raise WeightsError(
            f"weights: expected `random`, `DEFAULT`, or a file ending in {', '.join(SUFFIXES)}, got {weights!r}"
        )
    raise WeightsError(f"weights: no such file: {weights}{looked_in(weights)}")


def read_checkpoint(source: Any) -> dict[str, State]:
    """The state dicts in a file, or of an entry of torchvision's weights (from its cache, or downloaded).

    No code that a file may carry is run; what is not tensors (an optimizer's state, arguments, numbers)
    is left out.

    Returns:
        Every dict with tensors by its path of keys in the file, as `state_dict` or `state.model`; the
        outermost is "". Which of them is meant, `apply_checkpoint` decides by the module.

    Raises:
        WeightsError: missing, unreadable, no state dict in it, or the download failed.
    """
    if not isinstance(source, str):
        return {"": _read_torchvision(source)}
    check_source(source)
    path = input_path(source)
    return find_states(read_file(path), f"weights: {path}")


def apply_checkpoint(
    model: nn.Module,
    states: dict[str, State],
    source: str,
    ignored: tuple[str, ...] = (),
    old_densenet: bool = False,
    classes: tuple[int, int] | None = None,
) -> str:
    """Copy tensors into `model`; every tensor of the model must be given, in its shape.

    Numbers of another precision are converted to the model's. Tied tensors may be given once. The entry
    and the prefix are those with which most tensors fit (`pplib.model.weights.checkpoint_fit.choose`).

    Args:
        model: on the CPU, not on meta.
        states: from `read_checkpoint`.
        source: opens the error message.
        ignored: prefixes of tensors to leave out.
        old_densenet: translate the names of torchvision's old densenet files.
        classes: (count in the file, count in the model): tensors that differ only so keep the model's values.

    Returns:
        Where in the file they were found, as "entry `model_ema`, prefix `module.` taken off"; empty for the
        plain case.

    Raises:
        WeightsError: lists the first missing, unexpected and mismatched tensors, or says that two sets of
            tensors fit equally well.
    """
    whole = model.state_dict()
    own: State = OrderedDict((key, value) for key, value in whole.items() if isinstance(value, torch.Tensor))
    own._metadata = whole._metadata  # type: ignore[attr-defined]

    def fits(given: torch.Tensor, mine: torch.Tensor) -> bool:
        return given.shape == mine.shape or (classes is not None and _differs_by_classes(given, mine, classes))

    def current(key: str) -> str:
        return _OLD_DENSENET.sub(r"\1\2", key) if old_densenet else key

    fit = choose(own, states, source, current, fits)
    given: State = OrderedDict()
    mismatched = []
    for key, value in fit.state.items():
        if key.startswith(ignored or ("\0",)):
            continue
        fault = _fault(value, own[key]) if key in own else ""
        if not fault and key in own and not fits(value, own[key]):
            fault = f"expected {tuple(own[key].shape)}, got {tuple(value.shape)}"
        if fault and key.endswith(".num_batches_tracked"):  # counts batches of training, whatever its kind is
            continue
        if fault:
            mismatched.append(f"{key}: {fault}")
        else:
            given[key] = own[key] if key in own and value.shape != own[key].shape else value
    # Modules read the version of their layout from here, to translate files of older releases.
    given._metadata = fit.state._metadata  # type: ignore[attr-defined]
    try:
        missing, unexpected = model.load_state_dict(given, strict=False)
    except RuntimeError as exc:
        raise WeightsError(f"{source}: do not fit {type(model).__name__}: {next(iter(str(exc).splitlines()))}") from exc
    places = {own[key].data_ptr() for key in given if key in own}
    wrong = {key.split(":")[0] for key in mismatched}
    missing = [
        key
        for key in missing
        if key not in wrong
        and not key.endswith(".num_batches_tracked")
        and not (key in own and own[key].numel() and own[key].data_ptr() in places)
    ]
    problems = [
        f"{len(keys)} {kind} ({'; '.join(keys[:_SHOWN])}{'; ...' if len(keys) > _SHOWN else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("not usable", mismatched))
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{source}: do not fit {type(model).__name__}: of {len(own)} tensors {', '.join(problems)}"
            f"{_found(fit, states)}; {_way(fit.state, own, wrong, not missing and not unexpected)}"
        )
    return fit.told


def _way(given: State, own: State, wrong: set[str], alone: bool) -> str:
    """What to do; where only the class count differs, which one the file has."""
    sizes = {
        pair for key in wrong for pair in zip(given[key].shape, own[key].shape, strict=False) if len(set(pair)) > 1
    }
    if alone and len(sizes) == 1 and all(given[key].dim() == own[key].dim() for key in wrong):
        ((theirs, ours),) = sizes
        return f"if {ours} is the number of classes here, set num_classes: {theirs}, as the file has it"
    return "give the weights of this architecture, and its num_classes"


def _found(fit: Fit, states: dict[str, State]) -> str:
    others = [f"`{entry}`" for entry in states if entry and entry != fit.entry]
    words = ([fit.told] if fit.told else []) + ([f"other entries: {', '.join(others[:_SHOWN])}"] if others else [])
    return f" ({'; '.join(words)})" if words else ""


def _fault(given: torch.Tensor, own: torch.Tensor) -> str:
    """Why a tensor's values cannot be copied into another as they are; empty where they can."""
    if given.is_meta:
        return "on the meta device, it has no values: write the weights after they are loaded"
    if given.is_quantized:
        return f"quantized ({given.dtype}): give the weights before quantization"
    if given.layout != torch.strided:
        return f"sparse ({given.layout}): write it dense, by `.to_dense()`"
    if type(given) not in (torch.Tensor, nn.Parameter):
        return f"a {type(given).__name__}, not an ordinary tensor"
    if given.is_complex() != own.is_complex() or given.is_floating_point() != own.is_floating_point():
        return f"expected {own.dtype}, got {given.dtype}"
    return ""


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
        line = next(iter(str(exc).splitlines()), type(exc).__name__).partition("weights_only")[0]
        raise WeightsError(
            f"weights DEFAULT: {entry.url}: damaged in the cache or on the way ({line}): delete it from "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'}"
        ) from exc
    return state


def _differs_by_classes(given: torch.Tensor, own: torch.Tensor, classes: tuple[int, int]) -> bool:
    pairs = list(zip(given.shape, own.shape, strict=False))
    return given.dim() == own.dim() and all(a == b or (a, b) == classes for a, b in pairs)
