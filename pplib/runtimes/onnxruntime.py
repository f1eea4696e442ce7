"""ONNX Runtime: on the CPU, or with its CUDA provider (package onnxruntime-gpu) on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from pplib.errors import WorkerError
from pplib.runtimes import Array, Place, Precision, Stage

PACKAGES = ("onnxruntime", "onnxruntime-gpu")
MODULES = ("onnxruntime",)
REQUIREMENTS = "requirements-onnxruntime.txt"
ROOM_BYTES = 4e8
FORM: Literal["onnx"] = "onnx"
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
_QUIET = 3  # errors only


def unfit(device: str) -> str:
    """See Runtime."""
    if device == "cpu":
        return ""
    import onnxruntime as ort

    has = ort.get_available_providers()
    if "CUDAExecutionProvider" in has:
        return ""
    return (
        f"onnxruntime has no CUDA provider for {device}, only {', '.join(has)}: `pip install onnxruntime-gpu` in place "
        "of onnxruntime, or `torch_device: cpu`"
    )


def open_stage(graph: bytes, folder: Path, place: Place) -> Stage:
    """See Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = place.threads, 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _QUIET
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    providers = _providers(place.device)
    try:
        session = ort.InferenceSession(graph, options, providers=providers)
    except Exception as exc:
        raise WorkerError(f"onnxruntime cannot open the stage: {type(exc).__name__}: {exc}") from exc
    (source,), (result,) = session.get_inputs(), session.get_outputs()

    def run(array: Array) -> Array:
        found: Array = session.run([result.name], {source.name: np.ascontiguousarray(array)})[0]
        return found

    return run


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if why := unfit(device):
        raise WorkerError(why)
    number = int(device.partition(":")[2] or 0)
    # What the other half of float32 sums would be is not float32: TF32 off, as in PyTorch.
    return [("CUDAExecutionProvider", {"device_id": number, "use_tf32": "0"}), "CPUExecutionProvider"]
