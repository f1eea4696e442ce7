"""What makes a device slower than it usually is for a while: heat, swapping, suspension, other guests of its host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pplib.pipeline.monitor.sources import boot_ahead_s, swapped_bytes
from pplib.pipeline.monitor.usage import Usage

MOST_STEAL = 0.05
"""On a shared host a percent is usual; this much moves a latency further than its repeats usually lie apart."""

MOST_SWAPPED_BYTES = 1_000_000
"""What is read back once, and not again, is a page or two."""

MOST_SUSPENDED_S = 0.01
"""The two clocks are not read at the same moment."""


def disturbance(usage: Usage) -> str:
    """In words, what disturbed a device so that its times are not those it usually needs; empty where nothing did.

    >>> disturbance(Usage(throttled=True, steal_fraction=0.125, swapped_bytes=0))
    'throttled, 12 % of its time lost to other guests of its host'
    """
    told = ["throttled"] if usage.throttled else []
    steal, swapped, suspended_s = usage.steal_fraction or 0.0, usage.swapped_bytes or 0, usage.suspended_s or 0.0
    if steal > MOST_STEAL:
        told.append(f"{steal * 100:.0f} % of its time lost to other guests of its host")
    if swapped > MOST_SWAPPED_BYTES:
        told.append(f"{swapped / 1e6:.1f} MB swapped")
    if suspended_s > MOST_SUSPENDED_S:
        told.append(f"suspended for {suspended_s:.1f} s")
    return ", ".join(told)


class SwapGauge:
    """Bytes that the machine read from swap, or wrote to it, counted by the kernel."""

    name = "swap"

    def __init__(self, read: Callable[[], int] = swapped_bytes) -> None:
        self._read = read

    def start(self) -> None:
        """Read the counters."""
        self._before = self._read()

    def sample(self) -> None:
        """Nothing: the kernel counts."""

    def finish(self, duration_s: float) -> dict[str, Any]:
        """`swapped_bytes`."""
        return {"swapped_bytes": max(0, self._read() - self._before)}


class SuspendGauge:
    """How long the machine was suspended: one clock of Linux goes on then, the one that gives times does not."""

    name = "suspension"

    def __init__(self, ahead_s: Callable[[], float] | None = None) -> None:
        self._ahead_s = ahead_s or boot_ahead_s

    def start(self) -> None:
        """Read both clocks."""
        self._before_s = self._ahead_s()

    def sample(self) -> None:
        """Nothing: the clocks go on."""

    def finish(self, duration_s: float) -> dict[str, Any]:
        """`suspended_s`."""
        return {"suspended_s": max(0.0, self._ahead_s() - self._before_s)}
