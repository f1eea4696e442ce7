"""Where weights come from: a seed, torchvision's store, or a local file."""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.error import URLError

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import nn

from pplib.errors import WeightsError

State = dict[str, torch.Tensor]


def apply_weights(model: nn.Module, name: str, weights: str, batch_shape: tuple[int, ...], seed: int) -> None:
    """Fill `model`, which holds freshly initialised tensors, from this source.

    Raises:
        WeightsError: missing, unreadable, or not of this model; the first tensors that differ are listed.
    """
    if weights == "random":
        settle_batch_norm(model, batch_shape, seed)
    elif weights == "DEFAULT":
        _fill(model, _pretrained(name), weights, replace_head=True)
    else:
        _fill(model, read_state(Path(weights).expanduser()), weights, replace_head=False)


def settle_batch_norm(model: nn.Module, batch_shape: tuple[int, ...], seed: int) -> None:
    """Give random weights activations of a trained network's scale.

    Freshly initialised batch-norm layers do not normalise in eval mode: activations then explode or
    vanish from layer to layer, and denormal numbers slow a CPU down and falsify every time. One
    seeded batch sets the running statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    if not norms:
        return
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over the batches seen: one
        norm.train()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model(torch.randn(batch_shape, generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def read_state(path: Path) -> State:
    """Read a state dict from a `.safetensors` or `.pth`/`.pt` file; nothing in the file is executed.

    Raises:
        WeightsError: missing, of another kind, damaged, or no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"weights: {path}: no such file: expected random, DEFAULT, or a .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        if path.suffix not in (".pth", ".pt"):
            raise WeightsError(f"weights: {path}: expected a .pth, .pt or .safetensors file, got {path.suffix!r}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as exc:
        first = str(exc).strip().partition("\n")[0]
        raise WeightsError(f"weights: {path}: cannot be read as plain tensors: {first}") from exc
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"weights: {path}: expected a state dict (name to tensor), got {type(state).__name__}")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _pretrained(name: str) -> State:
    if ":" in name:
        raise WeightsError(f"weights: DEFAULT: {name} is not torchvision's: give a .pth or .safetensors file")
    source = torchvision.models.get_model_weights(name).DEFAULT
    try:
        state: State = source.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as exc:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise WeightsError(
            f"weights: DEFAULT: cannot download {source.url}: {exc}: without internet, put that file into {folder}"
        ) from exc
    # Auxiliary heads take part in training only; the model is built without them.
    return {key: value for key, value in state.items() if not key.startswith(("AuxLogits.", "aux1.", "aux2."))}


def _fill(model: nn.Module, state: State, source: str, replace_head: bool) -> None:
    own = model.state_dict()
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state and key not in optional]
    unexpected = [key for key in state if key not in own]
    differing = [key for key in own if key in state and own[key].shape != state[key].shape]
    if replace_head and not missing and not unexpected:
        # With another number of classes the head alone differs, in its first dimension: it stays random.
        head = [key for key in differing if own[key].shape[1:] == state[key].shape[1:]]
        if len(head) == len(differing) <= 2:
            state = {key: value for key, value in state.items() if key not in head} | {key: own[key] for key in head}
            differing = []
    if missing or unexpected or differing:
        lines = [f"{len(missing)} tensors are missing ({', '.join(missing[:3])})"] if missing else []
        lines += [f"{len(unexpected)} are not the model's ({', '.join(unexpected[:3])})"] if unexpected else []
        lines += [
            f"{key} has shape {tuple(state[key].shape)}, expected {tuple(own[key].shape)}" for key in differing[:3]
        ]
        raise WeightsError(
            f"weights: {source}: do not fit {type(model).__name__}: {'; '.join(lines)}: is it the right model, "
            "and the right num_classes?"
        )
    model.load_state_dict({key: state.get(key, own[key]) for key in own})
