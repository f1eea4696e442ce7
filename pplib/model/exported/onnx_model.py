"""The model room: stages as ONNX graphs. The whole is exported once; a stage is cut out of that in milliseconds."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pplib.errors import ConfigError, ModelError
from pplib.model.exported.whole import Units, cause
from pplib.model.partition import PartitionedModel
from pplib.model.weights.files import save_tensors
from pplib.model.weights.stored import WeightsFile

if TYPE_CHECKING:
    import onnx

LEAST_EXTERNAL_BYTES = 256  # smaller tensors stay in the graph
NEEDED = ("onnx", "onnxscript")


def export(partitioned: PartitionedModel, batch: torch.Tensor, name: str) -> onnx.ModelProto:
    """A model as one ONNX graph, from the input `P0`, in which the value at every cut is an output: `P1`, `P2`, ...

    Args:
        partitioned: the model.
        batch: an input microbatch (B, C, H, W); the graph takes inputs of its shape.
        name: of the model, in messages.

    Raises:
        ModelError: the model cannot be exported; says which operation is not known, and how to go on.
        ConfigError: what exports is not installed.
    """
    try:
        import onnx  # noqa: F401 (the exporter needs it, and says so in a less helpful way)
        import onnxscript  # noqa: F401
    except ImportError as exc:
        raise ConfigError(
            f"runtime: {exc.name} is not installed here, where graphs are made for all devices: "
            f"`pip install {' '.join(NEEDED)}`"
        ) from exc
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own, on itself
            program: Any = torch.onnx.export(
                Units(partitioned).eval(),
                (batch,),
                dynamo=True,
                verbose=False,
                input_names=["P0"],
                output_names=[f"P{i}" for i in range(1, len(partitioned.points))],
            )
    except Exception as exc:
        raise ModelError(f"{name}: cannot be exported to ONNX: {cause(exc)}; `runtime: eager` needs no export") from exc
    model: onnx.ModelProto = program.model_proto
    return model


class OnnxModel:
    """An exported model of which stages are cut.

    Args:
        model: see `export`; its large tensors are moved to a file.
        known: a file of weights that devices may have anyway: where all are in it, it is that.

    Attributes:
        file: that holds its large tensors.
    """

    def __init__(self, model: onnx.ModelProto, known: WeightsFile | None = None) -> None:
        from onnx.numpy_helper import to_array

        self._model = model
        large = _large_tensors(model)
        places = _by_content(known.path) if known else {}
        if known and places.keys() >= large.keys():
            self.file = known
        else:
            self.file = save_tensors({key: torch.from_numpy(to_array(same[0]).copy()) for key, same in large.items()})
            places = _places(self.file.path)
        for key, same in large.items():
            for one in same:
                _refer(one, self.file.path.name, places[key])

    def stage(self, first: int, last: int) -> tuple[bytes, int, WeightsFile]:
        """The units after point `first` up to point `last`: an ONNX model, the bytes that its tensors take, their file.

        Empty where the stage is.
        """
        if first == last:
            return b"", 0, self.file
        from onnx.utils import Extractor

        cut = Extractor(self._model).extract_model([f"P{first}"], [f"P{last}"])
        num_bytes = sum(_num_bytes(one) for one in cut.graph.initializer)
        return cut.SerializeToString(deterministic=True), num_bytes, self.file


def _large_tensors(model: onnx.ModelProto) -> dict[str, list[onnx.TensorProto]]:
    """By a hash of their content; those that are the same together."""
    found: dict[str, list[onnx.TensorProto]] = {}
    for one in model.graph.initializer:
        if one.HasField("raw_data") and _num_bytes(one) >= LEAST_EXTERNAL_BYTES:
            found.setdefault(hashlib.sha256(one.raw_data).hexdigest(), []).append(one)
    return found


def _refer(tensor: onnx.TensorProto, name: str, place: tuple[int, int]) -> None:
    """Have a tensor be external data of a file called `name`, at an offset and of a length."""
    from onnx import TensorProto
    from onnx.external_data_helper import set_external_data

    set_external_data(tensor, name, *place)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Where in a safetensors file each tensor lies, by its name: offset and length."""
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
    ends = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (start + begin, end - begin) for name, (begin, end) in ends.items()}


def _by_content(path: Path) -> dict[str, tuple[int, int]]:
    """The same, by a hash of the content."""
    found = {}
    with path.open("rb") as file:
        for offset, length in _places(path).values():
            file.seek(offset)
            found[hashlib.sha256(file.read(length)).hexdigest()] = (offset, length)
    return found


def _num_bytes(tensor: onnx.TensorProto) -> int:
    from onnx.helper import tensor_dtype_to_np_dtype

    return int(math.prod(tensor.dims) * tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
