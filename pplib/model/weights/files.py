"""Tensors written into files of weights, and read from them: a stage loads its own and no others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pplib.cache import cache_dir as cache_folder
from pplib.cache import put, use, weights_dir, writing
from pplib.errors import WeightsError
from pplib.model.weights.stored import WeightsFile, digest_of, is_intact

_SHOWN = 4


def save_weights(
    model: nn.Module, cache_dir: Path | None = None, constants: Mapping[str, torch.Tensor] | None = None
) -> WeightsFile:
    """Store every tensor of `model` under its content hash; the same content is stored once.

    Parameters and buffers, also those that are not part of the state dict, and tensors kept as plain
    attributes: a stage built without weights needs them all. Tied tensors are stored under each name.
    `constants` are those that forward() makes (`PartitionedModel.constants`).

    Raises:
        WeightsError: the cache cannot be written, the model has no weights (meta device), or has tensors that
            are sparse, quantized or of a type the format does not know.
    """
    tensors: dict[str, torch.Tensor] = {}
    places: set[int] = set()
    for name, tensor in [*_named_tensors(model), *(constants or {}).items()]:
        if tensor.is_meta:
            raise WeightsError(f"{type(model).__name__}: {name} has no value (meta device): nothing to save")
        if tensor.layout != torch.strided or str(tensor.dtype).removeprefix("torch.") not in _TYPES.values():
            raise WeightsError(
                f"{type(model).__name__}: {name} is {tensor.dtype}, {tensor.layout}: weights travel as dense tensors "
                f"of {', '.join(_TYPES.values())}; keep it as one of these"
            )
        kept = tensor.detach().cpu().contiguous()
        place = kept.untyped_storage().data_ptr()
        # The format wants tensors that share no memory.
        tensors[name] = kept.clone() if place in places or kept.untyped_storage().nbytes() != kept.nbytes else kept
        places.add(place)
    return save_tensors(tensors, cache_dir)


def save_tensors(tensors: dict[str, torch.Tensor], cache_dir: Path | None = None) -> WeightsFile:
    """Store tensors that share no memory under the hash of their content; the same content is stored once.

    Raises:
        WeightsError: the cache cannot be written.
    """
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    return save_content(lambda path: save_file(tensors, path), num_bytes, cache_dir)


def save_content(write: Callable[[Path], None], num_bytes: int, cache_dir: Path | None = None) -> WeightsFile:
    """Store what `write` writes into a file, in whatever format; see `save_tensors`."""
    cache = cache_dir or cache_folder()
    folder = weights_dir(cache)
    try:
        with writing(cache, num_bytes):
            handle, name = tempfile.mkstemp(dir=folder, prefix=".part-")
            os.close(handle)
            temporary = Path(name)
            try:
                write(temporary)
                temporary.chmod(0o644)
                digest = digest_of(temporary)
                file = WeightsFile(folder / f"{digest}.safetensors", digest, temporary.stat().st_size)
                if not is_intact(file):
                    put(temporary, file.path)
            finally:
                temporary.unlink(missing_ok=True)
            use(file.path)
        return file
    except (OSError, SafetensorError) as exc:
        raise WeightsError(
            f"{folder}: cannot keep weights there: {exc}; set PARETOPIPE_CACHE to another folder, or make room"
        ) from exc


def load_stage_weights(stage: nn.Module, file: WeightsFile) -> None:
    """Give `stage` its own tensors, and no others, in memory of their own.

    Args:
        stage: on the meta device; afterwards on the CPU, without gradients.
        file: the whole model's weights; read tensor by tensor.

    Raises:
        WeightsError: the file cannot be read, or lacks a tensor, or has it in another shape or type.
    """
    wanted = {name: tensor for name, tensor in _named_tensors(stage) if tensor.is_meta}
    loaded: dict[int, torch.Tensor] = {}  # by identity: what is tied in the stage is loaded once
    try:
        with safe_open(file.path, framework="pt", device="cpu") as content:
            _check_fit(file, wanted, content)
            for name, tensor in wanted.items():
                if id(tensor) not in loaded:
                    # A copy: a mapped file would be paged in from disk in the middle of a measurement.
                    loaded[id(tensor)] = content.get_tensor(name).clone()
    except (OSError, SafetensorError) as exc:
        raise WeightsError(f"{file.path}: cannot be read: {exc}") from exc
    parameters: dict[int, nn.Parameter] = {}
    for name, tensor in wanted.items():
        parent, _, own = name.rpartition(".")
        value = loaded[id(tensor)]
        if isinstance(tensor, nn.Parameter):
            value = parameters.setdefault(id(tensor), nn.Parameter(value, requires_grad=False))
        setattr(stage.get_submodule(parent), own, value)
    stage.requires_grad_(False)


def _check_fit(file: WeightsFile, wanted: dict[str, torch.Tensor], content: Any) -> None:
    present = set(content.keys())
    missing = [name for name in wanted if name not in present]
    if missing:
        raise WeightsError(
            f"{file.path}: lacks {len(missing)} tensors of the stage: {', '.join(missing[:_SHOWN])}"
            f"{', ...' if len(missing) > _SHOWN else ''}; are these the weights of this model?"
        )
    for name, tensor in wanted.items():
        entry = content.get_slice(name)
        found, kind = tuple(entry.get_shape()), _TYPES.get(entry.get_dtype(), "")
        if found != tuple(tensor.shape) or kind != str(tensor.dtype).removeprefix("torch."):
            raise WeightsError(
                f"{file.path}: {name}: expected {tuple(tensor.shape)} {tensor.dtype}, got {found} {entry.get_dtype()}; "
                "are these the weights of this model, with this num_classes?"
            )


_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a model by qualified name: parameters, all buffers, plain attributes."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for table in (module._parameters, module._buffers, vars(module)):
            for name, value in table.items():
                if isinstance(value, torch.Tensor):
                    yield f"{prefix}.{name}".lstrip("."), value
