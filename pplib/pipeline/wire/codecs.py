"""What an activation becomes on its way over a hop: fewer bits, fewer bytes, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pplib.errors import ProtocolError, WorkerError
from pplib.links import INT8_STEPS
from pplib.pipeline.wire.plan import FLOATS, Encoding, PipelinePlan, TensorSpec
from pplib.runtimes import Array

ZSTD_LEVEL = 1  # the quickest but for the negative ones: activations hold little that more time would find
LARGEST_FLOAT16 = 65504.0
_ROOM = 1024  # what a compressor may add to what it cannot compress, and a 128th of it


class Codec:
    """Encodes the activations of one hop on the device that sends them, and decodes them on the next.

    float16 rounds to nearest, and takes what is beyond its range to its largest value; int8 is affine and per channel:
    of 256 steps the nearest, and the first or last beyond the range. Integers and truth values cross as they are.

    Args:
        spec: of the activation.
        encoding: how it crosses.

    Attributes:
        carried: the spec of what crosses; where it is compressed, of the largest that may.

    Raises:
        WorkerError: the compressor's package is not installed here.
    """

    def __init__(self, spec: TensorSpec, encoding: Encoding) -> None:
        self._spec, self._encoding = spec, encoding
        kind = encoding.kind if spec.dtype in FLOATS else "float32"
        packed = {"float32": spec.dtype, "float16": "float16", "int8": "uint8"}[kind]
        self._packed = TensorSpec(spec.shape, packed, spec.layout)
        self._int8, self._float16 = kind == "int8", packed == "float16" != spec.dtype
        self.carried = self._packed
        if encoding.compression:
            self._compress, self._restore = _compressor(encoding.compression)
            most = self._packed.num_bytes + self._packed.num_bytes // 128 + _ROOM
            self.carried = TensorSpec((most,), "uint8", exact=False)
        wide = [1] * len(spec.shape)
        wide[1 if len(spec.shape) == 4 else -1] = -1
        self._low, self._step = (
            np.asarray(one, dtype=np.float32).reshape(wide) for one in (encoding.low, encoding.step)
        )

    def encode(self, array: Array) -> Array:
        """An activation as it crosses, in memory of its own, or in the activation's where nothing changes."""
        packed = array
        if self._float16:
            values = _floats(array, self._spec)
            packed = np.clip(values, -LARGEST_FLOAT16, LARGEST_FLOAT16).astype(np.float16)
        elif self._int8:
            values = _floats(array, self._spec).astype(np.float32, copy=False) - self._low
            values /= self._step
            np.rint(values, out=values)
            np.clip(values, 0, INT8_STEPS, out=values)
            packed = values.astype(np.uint8)  # in the same order of memory
        if not self._encoding.compression:
            return packed
        return np.frombuffer(bytearray(self._compress(self._packed.bytes_of(packed))), dtype=np.uint8)

    def decode(self, carried: Array) -> Array:
        """The activation of what came.

        Raises:
            ProtocolError: it cannot be decompressed to what the plan says.
        """
        packed = carried
        if self._encoding.compression:
            content = self._restore(carried.data, self._packed.num_bytes)
            packed = self._packed.allocate()
            self._packed.bytes_of(packed)[:] = content
        if self._int8:
            values: NDArray[np.float32] = packed * self._step
            values += self._low
            return _of_floats(values, self._spec)
        return _of_floats(packed, self._spec) if self._float16 else packed


def _floats(array: Array, spec: TensorSpec) -> Array:
    """Numbers that numpy computes with: bfloat16 as what float32 begins with."""
    return (array.astype(np.uint32) << 16).view(np.float32) if spec.dtype == "bfloat16" else array


def _of_floats(values: Array, spec: TensorSpec) -> Array:
    """As the spec has them; in bfloat16 rounded to nearest, of two the even one."""
    if spec.dtype != "bfloat16":
        return values.astype(spec.array_dtype, copy=False)
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def codec_of(plan: PipelinePlan, hop: int) -> Codec | None:
    """What the activations of a hop cross as; None where that is as they are, or there is no such hop.

    Raises:
        WorkerError: the compressor's package is not installed here.
    """
    if not 0 <= hop < len(plan.encodings):
        return None
    return Codec(plan.tensors[hop + 1], plan.encodings[hop])


def _compressor(name: str) -> tuple[Callable[[Any], bytes], Callable[[memoryview, int], bytes]]:
    """What compresses, and what restores so many bytes and no others."""
    try:
        if name == "zstd":
            import zstandard

            compressor, restorer = zstandard.ZstdCompressor(level=ZSTD_LEVEL), zstandard.ZstdDecompressor()

            def restore(content: memoryview, count: int) -> bytes:
                try:
                    told = zstandard.get_frame_parameters(content).content_size
                    if told != count:  # it would be believed
                        raise ProtocolError(f"a frame of zstd that tells {told} bytes, expected {count}")
                    return _whole(restorer.decompress(content), count)
                except zstandard.ZstdError as exc:
                    raise ProtocolError(f"no frame of zstd: {exc}") from exc

            return compressor.compress, restore
        import lz4.block

        def expand(content: memoryview, count: int) -> bytes:
            try:
                return _whole(lz4.block.decompress(content, uncompressed_size=count), count)
            except (lz4.block.LZ4BlockError, ValueError) as exc:
                raise ProtocolError(f"no block of lz4: {exc}") from exc

        return lambda content: bytes(lz4.block.compress(content, store_size=False)), expand
    except ImportError as exc:
        raise WorkerError(
            f"wire: {exc.name} is not installed here: `pip install {'zstandard' if name == 'zstd' else 'lz4'}` in the "
            "environment of this worker, or `paretopipe setup`"
        ) from exc


def _whole(content: bytes, count: int) -> bytes:
    if len(content) != count:
        raise ProtocolError(f"decompressed to {len(content)} bytes, expected {count}")
    return content
