"""The bytes on our sockets: tensor frames on the data plane, messages on the control plane. No pickle."""

from __future__ import annotations

import struct

from pplib.errors import ProtocolError
from pplib.pipeline.wire.connection import Connection, Deadline
from pplib.pipeline.wire.plan import DTYPES, TensorSpec

VERSION = 2
MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # answers; they hold the model's outputs
MAX_REQUEST_BYTES = 8 * 1024 * 1024  # they hold the graphs of all stages
MAX_DIMENSIONS = 6
_TENSOR = struct.Struct("<4sHBBBB2xIIQ6I")  # magic, version, dtype, layout, ndim, last, trial, seq, bytes, dims
_MESSAGE = struct.Struct("<4sHxxI")
_TENSOR_MAGIC, _MESSAGE_MAGIC = b"PPTN", b"PPCT"
TENSOR_HEADER_BYTES = _TENSOR.size


def tensor_header(spec: TensorSpec, trial: int, seq: int, last: bool) -> bytes:
    """The header of one tensor frame; `spec.num_bytes` raw bytes follow it. `last`: the trial ends with it."""
    if len(spec.shape) > MAX_DIMENSIONS:
        raise ProtocolError(f"a tensor of {len(spec.shape)} dimensions cannot be sent; at most {MAX_DIMENSIONS} can")
    dims = spec.shape + (0,) * (MAX_DIMENSIONS - len(spec.shape))
    layout = int(spec.layout == "channels_last")
    return _TENSOR.pack(
        _TENSOR_MAGIC, VERSION, DTYPES.index(spec.dtype), layout, len(spec.shape), last, trial, seq,
        spec.num_bytes, *dims,
    )  # fmt: skip


def check_tensor_header(data: bytes, spec: TensorSpec, trial: int, seq: int, peer: str) -> tuple[bool, int]:
    """Refuse anything but the one frame that the plan expects next; whether it is the trial's last, and its bytes.

    Raises:
        ProtocolError: what was expected and what came.
    """
    if not spec.exact and 0 < (count := _TENSOR.unpack(data)[8]) <= spec.num_bytes:
        spec = TensorSpec((count,), spec.dtype)
    for last in (False, True):
        if data == tensor_header(spec, trial, seq, last):
            return last, spec.num_bytes
    magic, version, dtype, layout, ndim, _, got_trial, got_seq, count, *dims = _TENSOR.unpack(data)
    if magic != _TENSOR_MAGIC or version != VERSION or dtype >= len(DTYPES) or layout > 1 or ndim > MAX_DIMENSIONS:
        raise ProtocolError(f"{peer}: sent something that is no tensor frame (starts with {data[:6]!r})")
    kind = ("contiguous", "channels_last")[layout]
    raise ProtocolError(
        f"{peer}: sent microbatch {got_seq} of trial {got_trial} as {DTYPES[dtype]} {tuple(dims[:ndim])} {kind} "
        f"in {count} bytes, expected microbatch {seq} of trial {trial} as {spec} in {spec.num_bytes} bytes: "
        "both workers need the same partition point"
    )


def send_message(connection: Connection, content: bytes, deadline: Deadline) -> None:
    """Send one control message."""
    if len(content) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a control message of {len(content)} bytes; at most {MAX_MESSAGE_BYTES} can be sent")
    connection.send([_MESSAGE.pack(_MESSAGE_MAGIC, VERSION, len(content)), content], deadline)


def receive_message(
    connection: Connection, deadline: Deadline, limit: int = MAX_MESSAGE_BYTES, rest_s: float | None = None
) -> bytes:
    """Receive one control message; its length is bounded before memory is taken.

    Args:
        deadline: until when it has come; with `rest_s`, until when it begins.
        rest_s: seconds for the rest of a message that has begun.

    Raises:
        ProtocolError: not a message, or longer than `limit`.
        TransportError: it did not come in time, or the peer went away.
    """
    header = memoryview(bytearray(_MESSAGE.size))
    begun = connection.receive_some(header, deadline)
    rest = deadline if rest_s is None else Deadline(rest_s, "the rest of a message")
    connection.receive_into(header[begun:], rest)
    magic, version, count = _MESSAGE.unpack(header)
    if magic != _MESSAGE_MAGIC or version != VERSION:
        raise ProtocolError(f"{connection.peer}: sent something that is no control message")
    if count > limit:
        raise ProtocolError(f"{connection.peer}: announced a message of {count} bytes; at most {limit} are allowed")
    return connection.receive(count, rest)
