"""What the workers of one trial must agree on: the model, the cuts, and every tensor that crosses them."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Literal

import msgspec
import torch

from pplib.links import Compression, WireKind
from pplib.model.stages.description import StageDescription
from pplib.runtimes import Precision

Layout = Literal["contiguous", "channels_last"]
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


class TensorSpec(msgspec.Struct, frozen=True):
    """The exact tensor to expect: shape, dtype, and the order of its bytes on the wire.

    Where it is not `exact` it is a row of bytes, and may be shorter.
    """

    shape: tuple[Annotated[int, msgspec.Meta(ge=0, lt=2**32)], ...]
    dtype: str
    layout: Layout = "contiguous"
    exact: bool = True

    @property
    def num_bytes(self) -> int:
        """numel x itemsize."""
        return math.prod(self.shape) * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch has it."""
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} cannot cross a cut; known: {', '.join(DTYPES)}")
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as torch has it."""
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    def allocate(self, pin: bool = False) -> torch.Tensor:
        """Uninitialised memory for one such tensor."""
        return torch.empty(self.shape, dtype=self.torch_dtype, memory_format=self.memory_format, pin_memory=pin)

    def bytes_of(self, tensor: torch.Tensor) -> memoryview:
        """The tensor's own memory in wire order, no copy; `tensor` has this spec's layout."""
        dense = tensor.permute(0, 2, 3, 1) if self.layout == "channels_last" else tensor
        return dense.reshape(-1).view(torch.uint8).numpy().data

    def laid_out(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same values in this spec's layout; `tensor` itself where it has it."""
        return tensor.contiguous(memory_format=self.memory_format)

    def as_long_as(self, tensor: torch.Tensor) -> TensorSpec:
        """The spec of what is there of one that is not exact; itself of all others."""
        return self if self.exact else TensorSpec(tuple(tensor.shape), self.dtype)

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape} {self.layout}" if self.exact else f"at most {self.num_bytes} bytes"


class Encoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the activations of a hop cross it: as `kind`, then compressed; `low` and `step` are of int8, per channel."""

    kind: WireKind = "float32"
    compression: Compression = ""
    low: tuple[float, ...] = ()
    step: tuple[Annotated[float, msgspec.Meta(gt=0)], ...] = ()


class ExportedStage(msgspec.Struct, frozen=True, tag="exported", forbid_unknown_fields=True):
    """A stage as a graph that a runtime other than eager PyTorch executes.

    `graph` is an ONNX model whose large tensors are in the file of weights with that hash; empty where the stage is: it
    then gives back its input. `precision` is of its arithmetic, `param_bytes` what its tensors take, wherever they are.
    """

    runtime: str
    precision: Precision
    graph: bytes
    weights_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    param_bytes: Annotated[int, msgspec.Meta(ge=0)]


StageForm = StageDescription | ExportedStage


class PipelinePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One partition of one model over `num_stages` devices, the same on every worker.

    `tensors[i]` is the input of stage i; the last entry is the model's output. `stages` are what the devices
    compute, `weights_sha256` the file with their tensors. `encodings` are of the hops; none where nothing changes.
    """

    model: str
    weights_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    granularity: str
    points: tuple[int, ...]
    precision: Precision = "float32"
    optimize: bool
    in_flight: int
    tensors: tuple[TensorSpec, ...]
    stages: tuple[StageForm, ...]
    encodings: tuple[Encoding, ...] = ()

    @property
    def num_stages(self) -> int:
        """Devices in the pipeline, counting the empty stage of a baseline."""
        return len(self.points) + 1

    @property
    def digest(self) -> str:
        """Equal on two workers exactly when they would run the same partition with the same weights."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).hexdigest()


def tensor_spec(shape: tuple[int, ...], dtype: str, channels_last: bool) -> TensorSpec:
    """The spec of an activation; of images and feature maps the channels may be last."""
    return TensorSpec(tuple(shape), dtype, "channels_last" if channels_last and len(shape) == 4 else "contiguous")
