"""Weights from here to a device that lacks them."""

from __future__ import annotations

from pplib import limits
from pplib.errors import WorkerError
from pplib.model.weights.stored import WeightsFile
from pplib.pipeline.coordinator.client import WorkerClient, WorkerLost
from pplib.pipeline.wire import messages as m


def send_weights(worker: WorkerClient, file: WeightsFile) -> int:
    """Have a device hold these weights; how many bytes were sent, 0 where it has them.

    Raises:
        WorkerError: the device cannot keep them, or they did not arrive as they were sent.
    """
    asked = m.HaveWeights(sha256=file.sha256, num_bytes=file.num_bytes)
    held = worker.expect(asked, m.Done, limits.WEIGHTS_CHECK_S).value
    if held == file.num_bytes:
        return 0
    try:
        return worker.put_weights(file, held)
    except WorkerLost:
        raise
    except WorkerError:
        if not held:
            raise
        return worker.put_weights(file, 0)  # the beginning that was there was damaged
