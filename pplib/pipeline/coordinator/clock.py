"""Another process's monotonic clock against ours, over the length of a trial, with a bound on the error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pplib.errors import TrialError

EXCHANGES = 32
MAX_DRIFT = 1e-3  # NTP slews a clock by 500 ppm at most, and quartz adds 100 ppm; beyond is no drift


@dataclass(frozen=True)
class ClockOffset:
    """`offset_ns` is the other clock minus ours when the other one showed `at_ns`; the truth lies within `error_ns`.

    The bound is half of the shortest round trip seen: the answer was stamped somewhere inside it,
    however unequal the two directions are.
    """

    offset_ns: int
    error_ns: int
    at_ns: int


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
        error_ns = (received - sent + 1) // 2
        if best is None or error_ns < best.error_ns:
            best = ClockOffset(theirs - (sent + received) // 2, error_ns, theirs)
    if best is None:
        raise ValueError(f"expected at least one exchange, got {exchanges}")
    return best


@dataclass(frozen=True)
class Clock:
    """Another clock during one trial: its offset measured before and after, taken as changing evenly in between.

    `error_s` bounds what is wrong with a converted time: that of the two measurements, and all of the
    change between them, for a clock need not drift evenly.
    """

    before: ClockOffset
    after: ClockOffset

    @property
    def drift_s(self) -> float:
        """How much the offset changed from one measurement to the other."""
        return (self.after.offset_ns - self.before.offset_ns) * 1e-9

    @property
    def error_s(self) -> float:
        """The bound on the error of a converted time."""
        return max(self.before.error_ns, self.after.error_ns) * 1e-9 + abs(self.drift_s)

    def to_ours(self, theirs_ns: int) -> int:
        """A time on the other clock as a time on ours, ns."""
        span = self.after.at_ns - self.before.at_ns
        if span <= 0:
            return theirs_ns - self.before.offset_ns
        change = self.after.offset_ns - self.before.offset_ns
        return theirs_ns - self.before.offset_ns - change * (theirs_ns - self.before.at_ns) // span

    def check(self, device: str) -> None:
        """Make sure that the change is one that clocks make.

        Raises:
            TrialError: it is not: the device's clock was set, or the device slept.
        """
        span_s = (self.after.at_ns - self.before.at_ns) * 1e-9
        known = (self.before.error_ns + self.after.error_ns) * 1e-9
        if abs(self.drift_s) > known + MAX_DRIFT * max(span_s, 0.0):
            raise TrialError(
                f"{device}: its clock moved by {self.drift_s:.6f} s against ours within {span_s:.3f} s, expected at "
                f"most {MAX_DRIFT:.1%} and the measurement's error of {known:.6f} s: was the device suspended?"
            )


_EXACT = ClockOffset(0, 0, 0)
SAME_CLOCK = Clock(_EXACT, _EXACT)
