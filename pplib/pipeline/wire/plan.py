"""What the workers of one trial must agree on: the model, the cuts, and every tensor that crosses them."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from pplib.links import Compression, WireKind
from pplib.model.stages.description import StageDescription
from pplib.runtimes import Array, Precision

Layout = Literal["contiguous", "channels_last"]
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
FLOATS = ("float32", "float16", "bfloat16", "float64")
_BITS = {"bfloat16": "uint16"}  # numpy has no such numbers


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
        return math.prod(self.shape) * self.array_dtype.itemsize

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """The dtype of its array; of bfloat16, that of its bits."""
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} cannot cross a cut; known: {', '.join(DTYPES)}")
        return np.dtype(_BITS.get(self.dtype, self.dtype))

    def allocate(self) -> Array:
        """Uninitialised memory for one such tensor: an array of its shape, its axes in the order of its layout."""
        if self.layout == "channels_last":
            batch, channels, height, width = self.shape
            return np.empty((batch, height, width, channels), self.array_dtype).transpose(0, 3, 1, 2)
        return np.empty(self.shape, self.array_dtype)

    def bytes_of(self, array: Array) -> memoryview:
        """The array's own memory in wire order, no copy; `array` has this spec's layout."""
        return self._in_wire_order(array).reshape(-1).view(np.uint8).data

    def is_laid_out(self, array: Array) -> bool:
        """Whether an array has this spec's layout, without gaps."""
        fits = self.layout == "contiguous" or array.ndim == 4
        return fits and self._in_wire_order(array).flags.c_contiguous

    def laid_out(self, array: Array) -> Array:
        """The same values in this spec's layout; `array` itself where it has it."""
        if self.is_laid_out(array) or (self.layout == "channels_last" and array.ndim != 4):
            return array
        ordered = self._in_wire_order(array).copy()
        return ordered.transpose(0, 3, 1, 2) if self.layout == "channels_last" else ordered

    def _in_wire_order(self, array: Array) -> Array:
        return array.transpose(0, 2, 3, 1) if self.layout == "channels_last" else array

    def as_long_as(self, array: Array) -> TensorSpec:
        """The spec of what is there of one that is not exact; itself of all others."""
        return self if self.exact else TensorSpec(array.shape, self.dtype)

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

    `graph` is in the form of its runtime, with large tensors in the file of weights with that hash; empty where the
    stage is: it then gives back its input, or, `pause_s` after it came, a copy. `precision` is of its arithmetic,
    `param_bytes` what its tensors take, wherever they are.
    """

    runtime: str
    precision: Precision
    graph: bytes
    weights_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    param_bytes: Annotated[int, msgspec.Meta(ge=0)]
    pause_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.0


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
