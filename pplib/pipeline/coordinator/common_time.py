"""The workers' traces on one time base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pplib.pipeline.coordinator.clock import Clock
from pplib.pipeline.wire.messages import Trace
from pplib.records import StageTimeline

_MOMENTS = ("ready", "received", "compute_start", "compute_end", "send_start")
_DURATIONS = ("copy", "encode", "decode")


def common_timelines(
    traces: Mapping[int, Trace], devices: Sequence[str], clocks: Sequence[Clock]
) -> tuple[list[StageTimeline], list[float]]:
    """Put every stage's ns on the coordinator's base, in seconds since the first admission.

    Args:
        traces: by stage. Where a run failed some stages may be missing; time then counts from the
            first moment that is known.
        devices, clocks: of all stages.

    Returns:
        One timeline per trace, in stage order, and when each output was back on stage 0.
    """
    seen = {i: trace.moments for i, trace in sorted(traces.items())}
    admitted = {i: moments.received_ns if i == 0 else moments.ready_ns for i, moments in seen.items()}
    known = [clocks[i].to_ours(moments[0]) for i, moments in admitted.items() if moments]
    origin_ns = known[0] if known and admitted.get(0) else min(known, default=0)

    def seconds(values: list[int], i: int) -> list[float]:
        return [round((clocks[i].to_ours(value) - origin_ns) * 1e-9, 9) for value in values]

    timelines = [
        StageTimeline(
            stage_index=i,
            device=devices[i],
            **{f"{name}_s": seconds(getattr(moments, f"{name}_ns"), i) for name in _MOMENTS},
            **{
                f"{name}_s": [round(value * 1e-9, 9) for value in getattr(moments, f"{name}_ns")] for name in _DURATIONS
            },
            clock_offset_s=clocks[i].before.offset_ns * 1e-9,
            clock_drift_s=clocks[i].drift_s,
            clock_error_s=clocks[i].error_s,
        )
        for i, moments in seen.items()
    ]
    return timelines, seconds(seen[0].returned_ns, 0) if 0 in seen else []
