"""Whether a link is what was asked for: every measured figure against its own tolerance."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from pplib.links import HEADER_BYTES, SEGMENT_BYTES, TOLERANCE, Direction, HopMeasurement, LinkProfile, loss_range

RTT_SLACK_S = 0.001
JITTER_SLACK_S = 0.0005  # what a host's scheduler adds to the spread of round trips; it takes nothing away
CALM = 0.25  # the share of its round trip by which a link without jitter may spread, and a millisecond
SIMULATIONS, MISSED = 20_000, 1e-4
LEAST_RATED_LOSS = 0.005  # a direction without loss may lose so much: TCP does not count exactly


def deviations(profile: LinkProfile, hops: Sequence[HopMeasurement]) -> list[str]:
    """In what a measured link is not what was asked for, in words; empty if it is.

    The median round trip may be off by 10 % and a millisecond, goodput by 10 % of what the rate leaves
    for payload. The spread of round trips (`rtt_spread_s`) and the losses may be as far off as chance
    brings a right link once in ten thousand measurements, and a margin; with few exchanges or segments that
    is far. What a profile does not name is not judged: the delay and jitter of one without delay, the
    goodput of one without rate, the loss of one without loss and rate. Where packets are lost, TCP cannot
    fill the rate, and only more than the rate is wrong. What was not measured is not judged.

    >>> slow = LinkProfile(name="slow", forward=Direction(delay_s=0.1), backward=Direction(delay_s=0.1))
    >>> hop = HopMeasurement(rtt_s=0.25, rtt_min_s=0.2, rtt_p90_s=0.3, rtt_p99_s=0.3, exchanges=9,
    ...                      forward_bit_s=1e6, backward_bit_s=1e6)
    >>> deviations(slow, [hop])
    ['hop 0: round trip 250.000 ms, requested 200.000 ms']
    """
    found = []
    for i, hop in enumerate(hops):
        asked_s = profile.rtt_s
        if asked_s and abs(hop.rtt_s - asked_s) > TOLERANCE * asked_s + RTT_SLACK_S:
            found.append(f"hop {i}: round trip {hop.rtt_s * 1e3:.3f} ms, requested {asked_s * 1e3:.3f} ms")
        found += [f"hop {i}: {words}" for words in _jitter(profile, hop)]
        ways = (
            ("forward", profile.forward, hop.forward_bit_s, hop.forward_loss, hop.forward_segments),
            ("backward", profile.backward, hop.backward_bit_s, hop.backward_loss, hop.backward_segments),
        )
        for way, direction, goodput, loss, segments in ways:
            found += [f"hop {i} {way}: {words}" for words in _goodput(direction, goodput, hop.segment_bytes)]
            found += [f"hop {i} {way}: {words}" for words in _loss(direction, loss, segments)]
    return found


def _goodput(direction: Direction, goodput: float, segment_bytes: int | None) -> list[str]:
    if direction.rate_bit_s is None:
        return []
    segment = segment_bytes or SEGMENT_BYTES
    possible = direction.rate_bit_s * segment / (segment + HEADER_BYTES)
    short = goodput < (1 - TOLERANCE) * possible and not direction.loss
    if not short and goodput <= (1 + TOLERANCE) * possible:
        return []
    return [
        f"goodput {goodput / 1e6:.3f} Mbit/s, possible {possible / 1e6:.3f} Mbit/s at the "
        f"requested rate of {direction.rate_bit_s / 1e6:.3f} Mbit/s"
    ]


def _jitter(profile: LinkProfile, hop: HopMeasurement) -> list[str]:
    spread_s, low_spread_s, asked_s = hop.rtt_spread_s, hop.rtt_low_spread_s, profile.rtt_spread_s
    if spread_s is None or low_spread_s is None or not profile.rtt_s:
        return []
    words = f"round trips spread over {spread_s * 1e3:.3f} ms (10th to 90th percentile of {hop.exchanges}), requested "
    if not asked_s:
        most_s = CALM * profile.rtt_s + RTT_SLACK_S
        if min(spread_s, low_spread_s) <= most_s:
            return []
        return [f"{words}no jitter, at most {most_s * 1e3:.3f} ms: name the link's jitter in its profile"]
    jitters = (profile.forward.jitter_s, profile.backward.jitter_s)
    least, most, low_most = _spread_range(min(jitters) / max(jitters), _undisturbed(profile, hop.exchanges))
    least_s = least * max(jitters) * (1 - TOLERANCE)
    most_s, low_most_s = (one * max(jitters) * (1 + TOLERANCE) + JITTER_SLACK_S for one in (most, low_most))
    # A host that is late now and then widens the spread above the median only, and never makes it less.
    if least_s <= spread_s and (spread_s <= most_s or low_spread_s <= low_most_s):
        return []
    return [
        f"{words}jitter gives {asked_s * 1e3:.3f} ms, and from so few exchanges "
        f"{least_s * 1e3:.3f} to {most_s * 1e3:.3f} ms"
    ]


def _undisturbed(profile: LinkProfile, exchanges: int) -> int:
    """How many exchanges are left, of so many, in which nothing was lost."""
    return max(2, round(exchanges * (1 - profile.forward.loss) * (1 - profile.backward.loss)))


@functools.lru_cache(maxsize=64)
def _spread_range(ratio: float, exchanges: int) -> tuple[float, float, float]:
    """Least and most that a right link spreads so many round trips over, and most for the low spread, by simulation:
    evenly drawn jitter of +- 1 one way and of +- `ratio` the other.
    """
    rng = np.random.default_rng(0)
    rtts = rng.uniform(-1, 1, (SIMULATIONS, exchanges)) + rng.uniform(-ratio, ratio, (SIMULATIONS, exchanges))
    low, middle, high = np.quantile(rtts, (0.1, 0.5, 0.9), axis=1)
    least, most = np.quantile(high - low, (MISSED, 1 - MISSED))
    return float(least), float(most), float(np.quantile(2 * (middle - low), 1 - 10 * MISSED))


def _loss(direction: Direction, loss: float | None, segments: int | None) -> list[str]:
    if loss is None or not segments:
        return []
    if not direction.loss and direction.rate_bit_s is None:
        return []  # whoever sends as fast as he can fills queues until they overflow
    least, most = loss_range(direction.loss or LEAST_RATED_LOSS, segments)
    least = least if direction.loss else 0.0
    if least <= loss <= most:
        return []
    return [
        f"loss {loss * 100:.3f} % of {segments} segments, requested {direction.loss * 100:.3f} %, "
        f"which gives {least * 100:.3f} to {most * 100:.3f} % of so many"
    ]
