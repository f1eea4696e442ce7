"""OpenVINO: on the CPU."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from pplib.errors import WorkerError
from pplib.runtimes import Array, Place, Precision, Stage

PACKAGES = ("openvino",)
MODULES = ("openvino",)
REQUIREMENTS = "requirements-openvino.txt"
ROOM_BYTES = 5e8
FORM: Literal["onnx"] = "onnx"
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")


def unfit(device: str) -> str:
    """See Runtime."""
    return "" if device == "cpu" else f"openvino: expected `torch_device: cpu`, got {device}: it knows no CUDA"


def open_stage(graph: bytes, folder: Path, place: Place) -> Stage:
    """See Runtime."""
    import openvino as ov

    if why := unfit(place.device):
        raise WorkerError(why)
    properties = {
        "INFERENCE_NUM_THREADS": place.threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # the worker is on its cores already
        "INFERENCE_PRECISION_HINT": "bf16" if place.precision == "bfloat16" else "f32",
    }
    # It looks for external data beside the graph.
    handle, name = tempfile.mkstemp(dir=folder, prefix=".part-", suffix=".onnx")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(graph)
        core = ov.Core()
        request = core.compile_model(core.read_model(name), "CPU", properties).create_infer_request()
    except RuntimeError as exc:
        raise WorkerError(f"openvino cannot open the stage: {exc}") from exc
    finally:
        Path(name).unlink(missing_ok=True)

    def run(array: Array) -> Array:
        request.infer([np.ascontiguousarray(array)], share_inputs=True, share_outputs=True)
        found: Array = request.get_output_tensor().data.copy()  # the next call writes there again
        return found

    return run
