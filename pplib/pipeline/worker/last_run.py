"""What a run left behind on one worker, whole or as far as it came, until the coordinator has taken it."""

from __future__ import annotations

from pplib.pipeline.monitor.monitor import Monitor
from pplib.pipeline.process.standstill import Standstill
from pplib.pipeline.stage.loop import StageLoop
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.plan import TensorSpec


def trace_of(
    seen: m.Moments, monitor: Monitor, standstill: Standstill, payload_bytes: int = 0, num_outputs: int = 0
) -> m.Trace:
    """What one stage saw and used, both of which have ended."""
    pairs = zip(seen.compute_start_ns, seen.compute_end_ns, strict=False)
    busy_s = sum(end - start for start, end in pairs) * 1e-9
    return m.Trace(
        moments=seen,
        payload_bytes=payload_bytes,
        num_outputs=num_outputs,
        usage=monitor.usage(busy_s),
        stood_still_s=standstill.longest_s,
    )


class LastRun:
    """The trace, the usage, and on the last stage every output of one run that has ended."""

    def __init__(
        self, loop: StageLoop, payload_bytes: int, monitor: Monitor, standstill: Standstill, result: TensorSpec
    ) -> None:
        self._loop, self._payload_bytes, self._result = loop, payload_bytes, result
        self._monitor, self._standstill = monitor, standstill

    def trace(self) -> m.Trace:
        """What the stage saw."""
        payload_bytes = self._loop.payload_bytes(self._payload_bytes)
        return trace_of(self._loop.trace, self._monitor, self._standstill, payload_bytes, len(self._loop.outputs))

    def outputs(self, offset: int, count: int) -> m.Content:
        """`count` bytes of all outputs back to back, from `offset` on; fewer where they end."""
        outputs, size, found = self._loop.outputs, self._result.num_bytes, bytearray()
        end = min(offset + count, size * len(outputs))
        while offset < end:
            within = offset % size
            piece = self._result.bytes_of(outputs[offset // size])[within : within + end - offset]
            found += piece
            offset += len(piece)
        return m.Content(content=bytes(found))
