"""From the workers' traces to one time base, and from there to every measured column."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pplib.links import UNSHAPED, LinkProfile
from pplib.records import StageTimeline

Array = NDArray[np.float64]
ALL = slice(None)


class Parts:
    """The intervals of each measured microbatch; arrays have shape (microbatches,), in seconds.

    For every microbatch the parts tile the time from its admission to the end of the last stage:
    `stage_queue[0] + compute[0] + encode[0] + hop_queue[0] + transfer[0] + decode[0] + stage_queue[1] + ...` is its
    latency.

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
        self.encode: list[Array] = []
        self.decode: list[Array] = []
        self.propagation_s = propagation_s
        for stage in timelines:
            received, start, end = _arrays(stage.received_s, stage.compute_start_s, stage.compute_end_s)
            self.stage_queue.append((start - received - _durations(stage.decode_s, len(start)))[measured])
            self.compute.append((end - start)[measured])
        for before, after in itertools.pairwise(timelines):
            end, sent, ready, received = _arrays(
                before.compute_end_s, before.send_start_s, after.ready_s, after.received_s
            )
            previous = np.concatenate([[-np.inf], received[:-1]])
            free = np.maximum(previous, np.minimum(ready, received)) - propagation_s
            start = np.maximum(sent, free)
            self.transfer_start.append(start[measured])
            encode, decode = _durations(before.encode_s, len(end)), _durations(after.decode_s, len(end))
            self.encode.append(encode[measured])
            self.decode.append(decode[measured])
            self.hop_queue.append((start - end - encode)[measured])
            self.transfer.append((received - start)[measured])

    @property
    def busy(self) -> list[Array]:
        """How long each hop was taken by each microbatch. Where the delay varies from one to the next so does
        this, below 0 too: only its mean says something.
        """
        return [one - self.propagation_s for one in self.transfer]

    @property
    def latency(self) -> Array:
        """The sum of all parts, shape (microbatches,)."""
        waits, encoded = [*self.stage_queue, *self.hop_queue], [*self.encode, *self.decode]
        total: Array = np.sum([*self.compute, *waits, *encoded, *self.transfer], axis=0)
        return total


def measure(
    timelines: Sequence[StageTimeline],
    returned_s: Sequence[float],
    measured: slice,
    batch_size: int,
    link: LinkProfile = UNSHAPED,
    return_hops: int = 1,
    in_flight: int = 1,
) -> dict[str, float | str | None]:
    """Every timing column of one trial, over the `measured` microbatches.

    `latency_s` is the median over microbatches, `latency_max_s` the largest, `*_p90_s` and `*_p99_s` quantiles (None
    where the microbatches are too few, see `microbatches_needed`); the parts
    (`stage{i}_compute_s`, `stage{i}_queue_s`, `hop{i}_encode_s`, `hop{i}_queue_s`, `hop{i}_transfer_s`,
    `hop{i}_decode_s`) are means, and add up to `latency_mean_s`. `throughput_img_s` counts completions at the last
    stage, see `counted`; `bound_img_s` is what the busiest stage or hop allows, over the same microbatches.
    A hop's propagation delay, as its `link` profile has it, is part of a transfer but keeps nobody
    else waiting, so it is not in the bound. The result crosses `return_hops` links on its way back, one
    after the other; a microbatch is in flight until it has, so the "return" bounds throughput as a hop does.
    `clock_error_s` bounds the error of latency, `hop{i}_clock_error_s` that of `hop{i}_transfer_s`, and
    `return_clock_error_s` that of `return_transfer_s`; stage times and `response_s` need no common clock.
    """
    first, last = timelines[0], timelines[-1]
    parts = Parts(timelines, measured, link.forward.delay_s)
    admitted, done, returned, sent_back = _arrays(first.received_s, last.compute_end_s, returned_s, last.send_start_s)
    carried = np.concatenate([[-np.inf], returned[:-1]]) - link.backward.delay_s * return_hops
    way_back = (returned - np.minimum(np.maximum(sent_back, carried), returned))[measured]
    begin, end, _ = measured.indices(len(done))
    count = counted(end - begin, in_flight)
    throughput = count * batch_size / float(done[end - 1] - done[end - 1 - count])
    admitted, done, returned = admitted[measured], done[measured], returned[measured]
    latency, response = done - admitted, returned - admitted
    busy = {f"stage {i}": float(one[-count:].mean()) for i, one in enumerate(parts.compute)}
    busy |= {f"hop {i}": float(one[-count:].mean()) for i, one in enumerate(parts.busy)}
    busy |= {f"encode {i}": float(one[-count:].mean()) for i, one in enumerate(parts.encode)}
    busy |= {f"decode {i}": float(one[-count:].mean()) for i, one in enumerate(parts.decode)}
    busy["return"] = float((way_back - link.backward.delay_s * return_hops)[-count:].mean())
    bottleneck = max(busy, key=lambda name: busy[name])
    bound = batch_size / busy[bottleneck]
    metrics: dict[str, float | str | None] = {
        "latency_s": float(np.median(latency)),
        "latency_mean_s": float(latency.mean()),
        "latency_max_s": float(latency.max()),
        "latency_p90_s": _quantile(latency, 0.9),
        "latency_p99_s": _quantile(latency, 0.99),
        "response_s": float(np.median(response)),
        "response_p90_s": _quantile(response, 0.9),
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
        metrics[f"hop{i}_encode_s"] = float(parts.encode[i].mean())
        metrics[f"hop{i}_decode_s"] = float(parts.decode[i].mean())
        metrics[f"hop{i}_clock_error_s"] = timelines[i].clock_error_s + timelines[i + 1].clock_error_s
    metrics["return_transfer_s"] = float(way_back.mean())
    metrics["return_clock_error_s"] = metrics["clock_error_s"] = first.clock_error_s + last.clock_error_s
    return metrics


def counted(num_microbatches: int, in_flight: int) -> int:
    """Of how many microbatches, the last ones of those that are measured, the time between completions is taken.

    What bounds a pipeline may let microbatches pass in bunches of `in_flight`, the first of a bunch late and the others
    close behind it, as over a link where TCP waits for what was lost: after the first one that is measured, whole
    bunches are counted, where there is one.

    >>> counted(32, 1), counted(32, 3), counted(4, 3), counted(3, 3), counted(2, 3)
    (31, 30, 3, 2, 1)
    """
    most = num_microbatches - 1
    return most - most % in_flight if most >= in_flight else most


def microbatches_needed(share: float) -> int:
    """How many microbatches a quantile takes: of so many, two lie above it in 99 of 100 trials.

    Args:
        share: of microbatches that are not slower than the quantile.

    Source: the early-stopping criterion of MLPerf Inference (its rules, "Early Stopping"), one over the quantile more
    than none.

    >>> microbatches_needed(0.9), microbatches_needed(0.99)
    (64, 662)
    """
    return next(n for n in itertools.count(2) if share**n + n * (1 - share) * share ** (n - 1) <= 0.01)


def _quantile(values: Array, share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) >= microbatches_needed(share) else None


def _durations(seconds: Sequence[float], count: int) -> Array:
    """One for each microbatch; zeros where there are none."""
    return np.asarray(seconds[:count], dtype=np.float64) if seconds else np.zeros(count)


def _arrays(*values: Sequence[float]) -> tuple[Array, ...]:
    return tuple(np.asarray(one, dtype=np.float64) for one in values)
