"""From the workers' traces to one time base, and from there to every measured column."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pplib.links import UNSHAPED, LinkProfile
from pplib.records import StageTimeline
from pplib.runtime.clock import Clock
from pplib.runtime.messages import Ran

Array = NDArray[np.float64]
ALL = slice(None)


def common_timelines(
    traces: Sequence[Ran], devices: Sequence[str], clocks: Sequence[Clock]
) -> tuple[list[StageTimeline], list[float]]:
    """Put every stage's ns on the coordinator's base, in seconds since the first admission.

    Returns:
        One timeline per stage, and when each output was back on stage 0.
    """
    origin_ns = clocks[0].to_ours(traces[0].received_ns[0])

    def seconds(values: list[int], i: int) -> list[float]:
        return [round((clocks[i].to_ours(value) - origin_ns) * 1e-9, 9) for value in values]

    timelines = [
        StageTimeline(
            stage_index=i,
            device=devices[i],
            ready_s=seconds(trace.ready_ns, i),
            received_s=seconds(trace.received_ns, i),
            compute_start_s=seconds(trace.compute_start_ns, i),
            compute_end_s=seconds(trace.compute_end_ns, i),
            copy_s=[round(value * 1e-9, 9) for value in trace.copy_ns],
            send_start_s=seconds(trace.send_start_ns, i),
            clock_offset_s=clocks[i].before.offset_ns * 1e-9,
            clock_drift_s=clocks[i].drift_s,
            clock_error_s=clocks[i].error_s,
        )
        for i, trace in enumerate(traces)
    ]
    return timelines, seconds(traces[0].returned_ns, 0)


class Parts:
    """The intervals of each measured microbatch; arrays have shape (microbatches,), in seconds.

    For every microbatch the parts tile the time from its admission to the end of the last stage:
    `stage_queue[0] + compute[0] + hop_queue[0] + transfer[0] + stage_queue[1] + ...` is its latency.

    A hop carries one microbatch after the other: a transfer starts when the sender has taken the
    output up *and* the link has carried the previous microbatch *and* the receiver has room; waiting
    for any of these is queueing. The link has carried a microbatch `propagation_s` before it is there,
    and so long before the receiver has room the next one may leave; `busy` is the transfer without it,
    during which the hop can carry nothing else.
    """

    def __init__(self, timelines: Sequence[StageTimeline], measured: slice = ALL, propagation_s: float = 0.0) -> None:
        self.compute: list[Array] = []
        self.stage_queue: list[Array] = []
        self.hop_queue: list[Array] = []
        self.transfer: list[Array] = []
        self.transfer_start: list[Array] = []
        self.propagation_s = propagation_s
        for stage in timelines:
            received, start, end = _arrays(stage.received_s, stage.compute_start_s, stage.compute_end_s)
            self.stage_queue.append((start - received)[measured])
            self.compute.append((end - start)[measured])
        for before, after in itertools.pairwise(timelines):
            end, sent, ready, received = _arrays(
                before.compute_end_s, before.send_start_s, after.ready_s, after.received_s
            )
            previous = np.concatenate([[-np.inf], received[:-1]])
            free = np.maximum(previous, np.minimum(ready, received)) - propagation_s
            start = np.maximum(sent, free)
            self.transfer_start.append(start[measured])
            self.hop_queue.append((start - end)[measured])
            self.transfer.append((received - start)[measured])

    @property
    def busy(self) -> list[Array]:
        """How long each hop was taken by each microbatch."""
        return [np.maximum(one - self.propagation_s, 0.0) for one in self.transfer]

    @property
    def latency(self) -> Array:
        """The sum of all parts, shape (microbatches,)."""
        total: Array = np.sum([*self.compute, *self.stage_queue, *self.hop_queue, *self.transfer], axis=0)
        return total


def measure(
    timelines: Sequence[StageTimeline],
    returned_s: Sequence[float],
    measured: slice,
    batch_size: int,
    link: LinkProfile = UNSHAPED,
    return_hops: int = 1,
) -> dict[str, float | str | None]:
    """Every timing column of one trial, over the `measured` microbatches.

    `latency_s` is the median over microbatches, `*_p90_s` and `*_p99_s` its quantiles; the parts
    (`stage{i}_compute_s`, `stage{i}_queue_s`, `hop{i}_transfer_s`, `hop{i}_queue_s`) are means, and
    add up to `latency_mean_s`. `throughput_img_s` counts completions at the last stage;
    `bound_img_s` is what the busiest stage or hop allows, over the same microbatches.
    A hop's propagation delay, as its `link` profile has it, is part of a transfer but keeps nobody
    else waiting, so it is not in the bound. The result crosses `return_hops` links on its way back.
    `clock_error_s` bounds the error of latency; stage times and `response_s` need no common clock.
    """
    first, last = timelines[0], timelines[-1]
    parts = Parts(timelines, measured, link.forward.delay_s)
    (admitted, done, returned, sent_back) = (
        array[measured] for array in _arrays(first.received_s, last.compute_end_s, returned_s, last.send_start_s)
    )
    latency, response = done - admitted, returned - admitted
    carried = np.concatenate([[-np.inf], returned[:-1]]) - link.backward.delay_s * return_hops
    back_start = np.maximum(sent_back, carried)
    # Throughput spans the completions after the first, so the bound takes those microbatches too.
    busy = {f"stage {i}": float(one[1:].mean()) for i, one in enumerate(parts.compute)}
    busy |= {f"hop {i}": float(one[1:].mean()) for i, one in enumerate(parts.busy)}
    bottleneck = max(busy, key=lambda name: busy[name])
    throughput = (len(done) - 1) * batch_size / float(done[-1] - done[0])
    bound = batch_size / busy[bottleneck]
    metrics: dict[str, float | str | None] = {
        "latency_s": float(np.median(latency)),
        "latency_mean_s": float(latency.mean()),
        "latency_p90_s": float(np.quantile(latency, 0.9)),
        "latency_p99_s": float(np.quantile(latency, 0.99)),
        "response_s": float(np.median(response)),
        "response_p90_s": float(np.quantile(response, 0.9)),
        "throughput_img_s": throughput,
        "bound_img_s": bound,
        "efficiency": throughput / bound,
        "bottleneck": bottleneck,
        "num_microbatches": float(len(done)),
        "compute_s": float(sum(one.mean() for one in parts.compute)),
        "transfer_s": float(sum(one.mean() for one in parts.transfer)),
        "queue_s": float(sum(one.mean() for one in [*parts.stage_queue, *parts.hop_queue])),
    }
    for i, timeline in enumerate(timelines):
        metrics[f"stage{i}_compute_s"] = float(parts.compute[i].mean())
        metrics[f"stage{i}_queue_s"] = float(parts.stage_queue[i].mean())
        metrics[f"stage{i}_copy_s"] = float(np.mean(timeline.copy_s[measured]))
    for i in range(len(parts.transfer)):
        metrics[f"hop{i}_transfer_s"] = float(parts.transfer[i].mean())
        metrics[f"hop{i}_queue_s"] = float(parts.hop_queue[i].mean())
    metrics["return_transfer_s"] = float((returned - np.minimum(back_start, returned)).mean())
    metrics["clock_error_s"] = first.clock_error_s + last.clock_error_s
    return metrics


def _arrays(*values: Sequence[float]) -> tuple[Array, ...]:
    return tuple(np.asarray(one, dtype=np.float64) for one in values)
