"""Weight files: one safetensors file per content, kept by its hash; a stage loads its own tensors only."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import nn

from pplib.errors import WeightsError


@dataclass(frozen=True)
class WeightsFile:
    """A model's tensors on disk. `sha256` is the hash of the file's content, and its name."""

    path: Path
    sha256: str
    num_bytes: int


def default_cache_dir() -> Path:
    """`$PARETOPIPE_CACHE`, or `~/.cache/paretopipe`."""
    return Path(os.environ.get("PARETOPIPE_CACHE") or "~/.cache/paretopipe").expanduser()


def save_weights(model: nn.Module, cache_dir: Path | None = None) -> WeightsFile:
    """Store a model's parameters and buffers under their content hash; the same content is stored once.

    Raises:
        WeightsError: the cache cannot be written.
    """
    folder = (cache_dir or default_cache_dir()) / "weights"
    state = {key: value.detach().to("cpu").contiguous().clone() for key, value in model.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".part-")
        os.close(handle)
        temporary = Path(name)
        try:
            save_file(state, temporary)
            digest = _hash(temporary)
            path = folder / f"{digest}.safetensors"
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise WeightsError(f"{folder}: cannot keep weights there: {exc}: set PARETOPIPE_CACHE to another folder") from exc
    return WeightsFile(path, digest, path.stat().st_size)


def find_weights(sha256: str, cache_dir: Path | None = None) -> WeightsFile:
    """The weights with this hash in the device's cache.

    Raises:
        WeightsError: they are not there.
    """
    path = (cache_dir or default_cache_dir()) / "weights" / f"{sha256}.safetensors"
    if not path.is_file():
        raise WeightsError(f"weights {sha256[:12]}: expected at {path}, not there: has the cache been cleared?")
    return WeightsFile(path, sha256, path.stat().st_size)


_verified: set[tuple[str, int, int]] = set()


def verify_weights(file: WeightsFile) -> None:
    """Make sure that the file's content is what its name says; a file that did not change is read once.

    Raises:
        WeightsError: the content has another hash.
    """
    status = file.path.stat()
    key = (str(file.path), status.st_size, status.st_mtime_ns)
    if key in _verified:
        return
    found = _hash(file.path)
    if found != file.sha256:
        raise WeightsError(
            f"{file.path}: its content has the hash {found[:12]}, expected {file.sha256[:12]}: the file is damaged; "
            "delete it and start again"
        )
    _verified.add(key)


def load_stage_weights(stage: nn.Module, file: WeightsFile) -> None:
    """Load the tensors that `stage` needs, and no others, into memory of their own.

    Args:
        stage: on the meta device; afterwards on the CPU, without gradients.
        file: the whole model's weights; tensors are read one by one.

    Raises:
        WeightsError: a tensor is missing there, or has another shape or dtype.
    """
    wanted = stage.state_dict()
    loaded: dict[str, torch.Tensor] = {}
    try:
        with safetensors.safe_open(file.path, framework="pt", device="cpu") as content:
            names = set(content.keys())
            for key, expected in wanted.items():
                if key not in names:
                    raise WeightsError(f"{file.path}: has no tensor {key!r}, which this stage needs")
                tensor = content.get_tensor(key)
                if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
                    raise WeightsError(
                        f"{file.path}: {key} is {tensor.dtype} {tuple(tensor.shape)}, "
                        f"expected {expected.dtype} {tuple(expected.shape)}"
                    )
                # A copy: a mapped file would be paged in from disk in the middle of a measurement.
                loaded[key] = tensor.clone()
    except (OSError, safetensors.SafetensorError) as exc:
        raise WeightsError(f"{file.path}: cannot be read: {exc}") from exc
    stage.load_state_dict(loaded, assign=True)
    left = [key for key, value in [*stage.named_parameters(), *stage.named_buffers()] if value.is_meta]
    if left:
        raise WeightsError(
            f"{', '.join(left[:3])}: not part of the model's state dict, so its value cannot be shipped: register it "
            "as a persistent buffer"
        )
    stage.requires_grad_(False)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
