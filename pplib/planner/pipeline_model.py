"""What a pipeline makes of the times of its parts: the stage loop as a recursion over microbatches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pplib.analysis.trials.timeline import counted
from pplib.errors import FrameError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PipelineTimes:
    """What each part of each candidate takes for one microbatch, in seconds. What is not given is 0.

    Arrays have the shape (candidates, parts), or (candidates, parts, microbatches) where a time varies from one
    microbatch to the next; parts are the k stages, or the k - 1 hops between them, or one: the way back, or admission.

    Attributes:
        compute_s: of k >= 2 stages.
        busy_s: of hops: how long one carries a microbatch, during which it can carry no other.
        propagation_s: of hops: the delay on top, which keeps no other microbatch waiting.
        encode_s, decode_s: of hops: in the thread that sends, and in the one that receives.
        return_busy_s, return_propagation_s: of the way back of a result to the first device, over all its links.
        admit_s: from the first stage being free, and a credit there, until it takes a microbatch up.
        start_s: of stages: what passes to the thread that computes, in addition.
        send_s: of stages: what passes from there to the thread that sends, in addition; the last one sends results.
        grant_s: of hops: from there being room until the sender knows; counts only where `rooms` says less.
        in_flight: microbatches admitted whose result is not back at the first device.
        batch_size: images per microbatch.
        rooms: microbatches that each stage has room for; `in_flight` if not given. The first one's is not used.
    """

    compute_s: Array
    busy_s: Array
    propagation_s: Array | None = None
    encode_s: Array | None = None
    decode_s: Array | None = None
    return_busy_s: Array | None = None
    return_propagation_s: Array | None = None
    admit_s: Array | None = None
    start_s: Array | None = None
    send_s: Array | None = None
    grant_s: Array | None = None
    in_flight: int
    batch_size: int
    rooms: tuple[int, ...] | None = None


class Passage(NamedTuple):
    """When each microbatch was admitted, done at the last stage, and back; shape (candidates, microbatches)."""

    admitted_s: Array
    done_s: Array
    returned_s: Array


class Performance(NamedTuple):
    """As `pplib.analysis.trials.timeline.measure` has it, but for `bottleneck`, a place in `part_names`; shape
    (candidates,).
    """

    latency_s: Array
    response_s: Array
    throughput_img_s: Array
    bound_img_s: Array
    bottleneck: NDArray[np.intp]


def part_names(num_stages: int) -> list[str]:
    """What can be the bottleneck.

    >>> part_names(2)
    ['stage 0', 'stage 1', 'hop 0', 'encode 0', 'decode 0', 'return']
    """
    hops = [f"{name} {i}" for name in ("hop", "encode", "decode") for i in range(num_stages - 1)]
    return [*(f"stage {i}" for i in range(num_stages)), *hops, "return"]


def predict(
    times: PipelineTimes, num_microbatches: int = 32, warmup: int = 3, cooldown: int | None = None
) -> Performance:
    """Latency and response (medians), throughput over completions at the last stage, its bound, and what bounds it.

    Args:
        times: of the candidates.
        num_microbatches: how many are measured, 2 or more.
        warmup, cooldown: how many pass before and after those; as many as a trial has, if not given.

    Raises:
        FrameError: see `pass_through`; or too few microbatches.
    """
    if num_microbatches < 2 or warmup < 0:
        raise FrameError(
            f"expected 2 or more measured microbatches after 0 or more, got {num_microbatches} after {warmup}"
        )
    after = times.in_flight - 1 if cooldown is None else cooldown
    part = _arrays(times, warmup + num_microbatches + after)
    end = warmup + num_microbatches
    count = counted(num_microbatches, times.in_flight)
    admitted, done, returned = (moments[:, warmup:end] for moments in _passed(times, part))
    names = ("compute_s", "busy_s", "encode_s", "decode_s", "return_busy_s")
    busy = np.concatenate([part[name] for name in names])[:, end - count : end].mean(axis=1)
    with np.errstate(divide="ignore"):
        return Performance(
            latency_s=np.median(done - admitted, axis=1),
            response_s=np.median(returned - admitted, axis=1),
            throughput_img_s=count * times.batch_size / (done[:, -1] - done[:, -1 - count]),
            bound_img_s=times.batch_size / busy.max(axis=0),
            bottleneck=busy.argmax(axis=0),
        )


def periodic(in_flight: int) -> tuple[int, int]:
    """How many microbatches to measure, and how many to let pass before, for the throughput of a long run.

    What bounds it may let microbatches pass in bunches of `in_flight`: whole bunches are counted.

    >>> periodic(2)
    (17, 8)
    """
    return in_flight * max(4, 16 // in_flight) + 1, 4 * in_flight


def pass_through(times: PipelineTimes, num_microbatches: int) -> Passage:
    """When microbatches pass, as `pplib.pipeline.stage.loop` lets them: all candidates at once.

    A stage computes one microbatch after the other, in a thread of its own. Another encodes them and hands them to the
    hop, which buffers them (measured over 5 Mbit/s: 0.3 MB), and carries one after the other, without waiting for the
    delay of the one before. A third one receives and decodes, where there is room; a microbatch makes room when the
    hop has its output. The first stage takes one up when fewer than `in_flight` are not back.

    Source: a timed event graph without choice, whose moments are maxima of sums of earlier ones: Baccelli, Cohen,
    Olsder, Quadrat, "Synchronization and Linearity", Wiley 1992, chapter 2. So where times do not vary and there is
    room everywhere, a microbatch takes, in the long run, the largest of: what one part is busy, and what one takes that
    waits for nothing, until it is back, over `in_flight`.

    Args:
        times: of the candidates.
        num_microbatches: how many pass.

    Raises:
        FrameError: arrays whose shapes do not fit, times below 0 or no numbers, nothing in flight, no room.
    """
    return _passed(times, _arrays(times, num_microbatches))


def _passed(times: PipelineTimes, part: Mapping[str, Array]) -> Passage:
    num_stages, num_microbatches, num_candidates = part["compute_s"].shape
    last = num_stages - 1
    in_flight = min(times.in_flight, num_microbatches)
    rooms = [min(room, in_flight) for room in times.rooms or (in_flight,) * num_stages]

    def moments(count: int) -> Array:
        """Of so many parts, and of all microbatches: one that is still to come never was. So those before the first,
        at negative places, never were either.
        """
        return np.full((count, num_microbatches, num_candidates), -np.inf)

    end, sent, carried, decoded, admitted, returned = (moments(n) for n in (*(num_stages,) * 4, 1, 1))
    for m in range(num_microbatches):
        free = np.maximum(end[0, m - 1], returned[0, m - in_flight])
        there = admitted[0, m] = np.maximum(free, 0.0) + part["admit_s"][0, m]
        for i in range(num_stages):
            started = np.maximum(there, end[i, m - 1]) + part["start_s"][i, m]
            end[i, m] = started + part["compute_s"][i, m]
            leaves = np.maximum(end[i, m], sent[i, m - 1]) + part["send_s"][i, m]
            if i == last:
                sent[i, m] = leaves
                carried[i, m] = np.maximum(leaves, carried[i, m - 1]) + part["return_busy_s"][0, m]
                returned[0, m] = carried[i, m] + part["return_propagation_s"][0, m]
                break
            leaves += part["encode_s"][i, m]
            ready = np.maximum(decoded[i + 1, m - 1], sent[i + 1, m - rooms[i + 1]])
            if rooms[i + 1] < in_flight:
                leaves = np.maximum(leaves, ready + part["grant_s"][i, m])
            sent[i, m] = leaves
            carried[i, m] = np.maximum(leaves, carried[i, m - 1]) + part["busy_s"][i, m]
            received = np.maximum(carried[i, m] + part["propagation_s"][i, m], ready)
            there = decoded[i + 1, m] = received + part["decode_s"][i, m]
    return Passage(admitted[0].T, end[last].T, returned[0].T)


_OF_STAGES = ("compute_s", "start_s", "send_s")
_OF_HOPS = ("busy_s", "propagation_s", "encode_s", "decode_s", "grant_s")
_OF_ALL = ("return_busy_s", "return_propagation_s", "admit_s")


def _arrays(times: PipelineTimes, num_microbatches: int) -> dict[str, Array]:
    """Every time, checked, as (parts, microbatches, candidates)."""
    shape = np.shape(times.compute_s)
    if len(shape) not in (2, 3) or shape[1] < 2 or not shape[0]:
        raise FrameError(f"compute_s: expected the shape (candidates, 2 or more stages), got {shape}")
    num_candidates, num_stages = int(shape[0]), int(shape[1])
    if times.in_flight < 1 or times.batch_size < 1:
        raise FrameError(f"in_flight, batch_size: expected 1 or more, got {times.in_flight}, {times.batch_size}")
    if times.rooms is not None and (len(times.rooms) != num_stages or min(times.rooms) < 1):
        raise FrameError(f"rooms: expected 1 or more for each of {num_stages} stages, got {times.rooms}")
    counts = dict.fromkeys(_OF_STAGES, num_stages) | dict.fromkeys(_OF_HOPS, num_stages - 1) | dict.fromkeys(_OF_ALL, 1)
    arrays = {}
    for name, count in counts.items():
        given = getattr(times, name)
        values: Array = np.zeros((num_candidates, count)) if given is None else np.asarray(given, dtype=np.float64)
        if values.ndim == 2:
            values = np.broadcast_to(values[:, :, None], (*values.shape, num_microbatches))
        if values.shape != (num_candidates, count, num_microbatches):
            raise FrameError(
                f"{name}: expected the shape ({num_candidates}, {count}), or ({num_candidates}, {count}, "
                f"{num_microbatches}) of microbatches, got {np.shape(given)}"
            )
        if not (np.isfinite(values) & (values >= 0)).all():
            raise FrameError(f"{name}: expected seconds, 0 or more, got {values.min()} to {values.max()}")
        arrays[name] = values.transpose(1, 2, 0)
    return arrays
