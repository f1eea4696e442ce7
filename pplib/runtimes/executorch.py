"""ExecuTorch with its XNNPACK backend: on the CPU. It stands on PyTorch's libraries: a device needs torch, too."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pplib.errors import WorkerError
from pplib.runtimes import Array, Place, Precision, Stage, installed

PACKAGES = ("executorch",)
MODULES = ("torch", "executorch")
REQUIREMENTS = "requirements-executorch.txt"
ROOM_BYTES = 1e9
FORM: Literal["executorch"] = "executorch"
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
_FILE = re.compile(r"([0-9a-f]{64}\.safetensors)?")


TORCH = "2.14"
"""What release 1.5 was made with: its libraries call PyTorch's, and neither's metadata tells."""


def unfit(device: str) -> str:
    """See Runtime."""
    if device != "cpu":
        return f"executorch: expected `torch_device: cpu`, got {device}: XNNPACK knows no CUDA"
    has = installed().get("eager", "none")
    if has.split("+")[0].split(".")[:2] == TORCH.split("."):
        return ""
    return f"executorch 1.5 needs the torch that it was made with, {TORCH}, got {has}: `pip install 'torch=={TORCH}.*'`"


def open_stage(graph: bytes, folder: Path, place: Place) -> Stage:
    """See Runtime."""
    if why := unfit(place.device):
        raise WorkerError(why)
    import torch

    core = native()
    name, _, program = graph.partition(b"\n")
    file = name.decode("ascii", "replace")
    if not _FILE.fullmatch(file):
        raise WorkerError(
            f"executorch cannot open the stage: expected the name of a file of weights, got {file[:80]!r}"
        )
    if core._threadpool_get_thread_count() != place.threads:
        core._unsafe_reset_threadpool(place.threads)  # of this process; nothing runs in it while a stage is opened
    try:
        opened = core._load_program_from_buffer(
            program,
            program_verification=core.Verification.InternalConsistency,
            data_path=str(folder / file) if file else None,
        )
        method = opened.load_method("forward")
    except RuntimeError as exc:
        raise WorkerError(f"executorch cannot open the stage: {exc}") from exc
    held = program, opened  # it reads there for as long as it runs

    def run(array: Array, _held: object = held) -> Array:
        writable = np.require(array, requirements=["C", "W"])  # torch warns of others, although nothing is written
        found: Array = method.call([torch.from_numpy(writable)])[0].numpy()
        return np.ascontiguousarray(found)

    return run


def native() -> Any:
    """The part of it that executes programs, alone: its Python packages would import all that makes them.

    Raises:
        WorkerError: it cannot be loaded with the torch that is here.
    """
    try:
        import torch  # noqa: F401 (brings the libraries that it stands on)

        return importlib.import_module("executorch.extension.pybindings._C")
    except ImportError as exc:
        raise WorkerError(f"executorch cannot be loaded: {exc}") from exc
