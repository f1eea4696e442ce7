"""The images of the first stage, on their way to the first device; and what a device takes tensors for at all."""

from __future__ import annotations

import psutil

from pplib import limits
from pplib.errors import ProtocolError
from pplib.pipeline.wire.connection import Connection, Deadline
from pplib.pipeline.wire.frames import MAX_DIMENSIONS
from pplib.pipeline.wire.messages import PutInputs
from pplib.pipeline.wire.plan import TensorSpec
from pplib.pipeline.wire.slow_peers import fill_steadily
from pplib.runtimes import Array

TENSOR_BYTES = 1024  # what a tensor object takes, at most, besides its content


def check_fits(count: int, spec: TensorSpec) -> None:
    """Refuse tensors that would take more than half of the memory that is free now, or are none.

    Raises:
        ProtocolError: they do not fit; or the spec says nothing that could be allocated.
    """
    dense = spec.layout == "contiguous" or len(spec.shape) == 4
    if len(spec.shape) > MAX_DIMENSIONS or not dense or 0 in spec.shape:
        raise ProtocolError(f"no tensor is {spec.dtype} {spec.shape[: MAX_DIMENSIONS + 1]} {spec.layout}")
    available = psutil.virtual_memory().available
    if count < 1 or count * (spec.num_bytes + TENSOR_BYTES) > available // 2:
        raise ProtocolError(f"{count} tensors of {spec} do not fit in {available} bytes of memory")


def receive_inputs(connection: Connection, request: PutInputs) -> list[Array]:
    """Receive the images of the first stage into memory of their own, taken as they come.

    Raises:
        ProtocolError: they would not fit in this device's memory.
        TransportError: the sender went away, or is too slow.
    """
    check_fits(request.count, request.spec)
    deadline = Deadline(limits.INPUTS_S, "inputs")
    inputs = []
    for _ in range(request.count):
        inputs.append(request.spec.allocate())
        fill_steadily(connection, request.spec.bytes_of(inputs[-1]), deadline)
    return inputs
