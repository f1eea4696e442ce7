"""The images of the first stage, on their way to the first device."""

from __future__ import annotations

import psutil
import torch

from pplib.errors import ProtocolError
from pplib.runtime.connection import Connection, Deadline
from pplib.runtime.messages import PutInputs


def receive_inputs(connection: Connection, request: PutInputs) -> list[torch.Tensor]:
    """Receive the images of the first stage into memory of their own.

    Raises:
        ProtocolError: they would not fit in this device's memory.
        TransportError: the sender went away.
    """
    available = psutil.virtual_memory().available
    if request.count * request.spec.num_bytes > available // 2:
        raise ProtocolError(f"{request.count} inputs of {request.spec} do not fit in {available} bytes of memory")
    deadline = Deadline(600, "inputs")
    inputs = [request.spec.allocate() for _ in range(request.count)]
    for tensor in inputs:
        connection.receive_into(request.spec.bytes_of(tensor), deadline)
    return inputs
