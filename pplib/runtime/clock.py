"""The offset between two processes' monotonic clocks, with a bound on its error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

EXCHANGES = 32


@dataclass(frozen=True)
class ClockOffset:
    """`offset_s` is the other clock minus ours; the truth lies within `error_s` of it.

    The bound is half of the shortest round trip seen: the answer was stamped somewhere inside it,
    however unequal the two directions are.
    """

    offset_s: float
    error_s: float


SAME_CLOCK = ClockOffset(0.0, 0.0)


def measure_offset(ask: Callable[[], int], exchanges: int = EXCHANGES) -> ClockOffset:
    """Estimate a clock's offset from timed exchanges, by the one with the shortest round trip.

    Args:
        ask: returns the other side's monotonic clock, in ns.
        exchanges: how many times to ask.

    Source: minimum-RTT filter as in NTP's clock filter (RFC 5905, section 10).
    """
    best: ClockOffset | None = None
    for _ in range(exchanges):
        sent = time.monotonic_ns()
        theirs = ask()
        received = time.monotonic_ns()
        error_s = (received - sent) / 2 * 1e-9
        if best is None or error_s < best.error_s:
            best = ClockOffset((theirs - (sent + received) / 2) * 1e-9, error_s)
    if best is None:
        raise ValueError(f"expected at least one exchange, got {exchanges}")
    return best
