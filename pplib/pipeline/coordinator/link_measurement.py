"""Measure the hops of a pipeline over its own data plane, nothing else running."""

from __future__ import annotations

import itertools
import uuid
from typing import Literal

import numpy as np

from pplib import limits
from pplib.errors import WorkerError
from pplib.links import Direction, HopMeasurement, LinkProfile, queue_bytes
from pplib.pipeline.coordinator.client import WorkerLost
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.coordinator.link_judgement import deviations
from pplib.pipeline.wire.messages import Probe, Probed

ECHO_S, JITTER_ECHO_S = 2.0, 8.0
RESENT_S = 0.2  # TCP waits at least so long, beyond the round trip, before it sends a lone segment again
ATTEMPTS = 6  # half a minute in which the machine is busy with something else is no wrong link
SETTLE_S, WINDOW_S = 0.5, 1.5  # where a rate is to be verified
SETTLE_ROUND_TRIPS, WINDOW_ROUND_TRIPS = 8, 4  # TCP needs some to find its pace
LOSS_WINDOW_S = 4.0  # more where losses are to be counted
ENOUGH_BYTES = 1 << 28  # to tell a goodput from, where there is no rate to be verified and no loss to be counted


def measure_link(coordinator: Coordinator, profile: LinkProfile) -> list[HopMeasurement]:
    """Measure every hop of a pipeline; takes seconds per hop, more where round trips are long.

    Args:
        coordinator: of workers that run nothing now.
        profile: what the link is meant to be; where it names no rate, a short look is enough.

    Raises:
        WorkerError: two neighbours could not talk over the link.
    """
    return [_measure_hop(coordinator, hop, profile) for hop in itertools.pairwise(range(len(coordinator.workers)))]


def measure_until_right(coordinator: Coordinator, profile: LinkProfile) -> tuple[list[HopMeasurement], str]:
    """The hops as measured, and in what they are not as asked for, after some attempts.

    Raises:
        WorkerLost: a worker is gone; a link that is down is no error, but wrong.
    """
    hops, wrong = list[HopMeasurement](), ""
    for _ in range(ATTEMPTS):
        try:
            hops = measure_link(coordinator, profile)
        except WorkerLost:
            raise
        except WorkerError as exc:
            hops, wrong = [], f"the link could not be measured: {exc}"
            continue
        found = deviations(profile, hops)
        if not found:
            return hops, ""
        wrong = f"the link is not {profile.name}: {'; '.join(found)}"
    return hops, wrong


def _measure_hop(coordinator: Coordinator, hop: tuple[int, int], profile: LinkProfile) -> HopMeasurement:
    here, there = hop
    echo_s = JITTER_ECHO_S if profile.rtt_spread_s else ECHO_S
    asked, _ = _probe(coordinator, hop, "echo", leader=here, settle_s=0.0, window_s=echo_s)
    rtts = np.array(asked.rtts_s)
    rtt_s = float(np.median(rtts))

    def stream(leader: int, direction: Direction) -> tuple[Probed, Probed]:
        wait, look = (SETTLE_S, WINDOW_S) if direction.rate_bit_s is not None else (SETTLE_S / 5, WINDOW_S / 5)
        look += LOSS_WINDOW_S if direction.loss else 0.0
        settle_s, window_s = wait + SETTLE_ROUND_TRIPS * rtt_s, look + WINDOW_ROUND_TRIPS * rtt_s
        enough = None if direction.rate_bit_s is not None or direction.loss else ENOUGH_BYTES
        return _probe(coordinator, hop, "stream", leader, settle_s, window_s, _ahead_bytes(direction, rtt_s), enough)

    sent, received = stream(there, profile.forward)
    received_back, sent_back = stream(here, profile.backward)
    spread_s, low_spread_s = spreads(rtts, profile)
    return HopMeasurement(
        rtt_s=rtt_s,
        rtt_min_s=float(rtts.min()),
        rtt_p90_s=float(np.quantile(rtts, 0.9)),
        rtt_p99_s=float(np.quantile(rtts, 0.99)),
        exchanges=len(rtts),
        forward_bit_s=received.goodput_bit_s,
        backward_bit_s=received_back.goodput_bit_s,
        forward_resent=sent.resent,
        backward_resent=sent_back.resent,
        segment_bytes=sent.segment_bytes,
        rtt_spread_s=spread_s,
        rtt_low_spread_s=low_spread_s,
        forward_loss=sent.loss,
        backward_loss=sent_back.loss,
        forward_segments=sent.segments,
        backward_segments=sent_back.segments,
    )


def spreads(rtts: np.ndarray, profile: LinkProfile) -> tuple[float, float]:
    """`rtt_spread_s` and `rtt_low_spread_s` of round trips (s), without those in which TCP had to send again."""
    widest_s = 2 * (profile.forward.jitter_s + profile.backward.jitter_s)
    whole = rtts[rtts < rtts.min() + max(RESENT_S, 2 * widest_s)]
    low, middle, high = (float(one) for one in np.quantile(whole, (0.1, 0.5, 0.9)))
    return high - low, 2 * (middle - low)


def _ahead_bytes(direction: Direction, rtt_s: float) -> int | None:
    """Enough bytes under way to keep a link of this rate busy, and too few to overflow its queue.

    Where a queue overflows, TCP sends again, and what came out of order is handed over in lumps: no
    goodput of seconds could be told from that.
    """
    if direction.rate_bit_s is None:
        return None
    return round(direction.rate_bit_s / 8 * rtt_s + queue_bytes(direction) / 2)


def _probe(
    coordinator: Coordinator,
    hop: tuple[int, int],
    what: Literal["echo", "stream"],
    leader: int,
    settle_s: float,
    window_s: float,
    ahead_bytes: int | None = None,
    enough_bytes: int | None = None,
) -> tuple[Probed, Probed]:
    run = uuid.uuid4().hex
    requests = [
        Probe(
            what=what,
            leads=stage == leader,
            connects=stage == hop[0],
            run=run,
            stage_index=hop[0],
            peer=coordinator.peer(other),
            settle_s=settle_s,
            window_s=window_s,
            ahead_bytes=ahead_bytes,
            enough_bytes=enough_bytes,
            timeout_s=settle_s + window_s + limits.LINK_MEASUREMENT_S,
        )
        for stage, other in (hop, hop[::-1])
    ]
    first, second = coordinator.ask(requests, Probed, requests[0].timeout_s + 15, hop)
    return first, second
