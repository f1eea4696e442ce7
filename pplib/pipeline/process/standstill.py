"""Whether this process, or its whole machine, stood still for a while: then nothing measured meanwhile is true."""

from __future__ import annotations

import threading
import time
from typing import Self

from pplib import limits
from pplib.errors import TrialError
from pplib.pipeline.process.threads import Companion


def check_moving(device: str, stood_still_s: float) -> None:
    """Make sure that a worker did not stand still for long.

    Raises:
        TrialError: it did; no time of that trial says anything about the device.
    """
    if stood_still_s > limits.STANDSTILL_S:
        raise TrialError(
            f"{device}: its worker stood still for {stood_still_s:.1f} s of the trial: it was stopped or swapped out, "
            "or the device slept or had no time for it: keep it awake, and end what else runs there"
        )


class Watch:
    """The longest time in which this process got nothing done, by three clocks, over calls of `look`.

    A process that is stopped, frozen or swapped out misses ticks and uses no processor meanwhile; one that misses
    them because it computes does use it. A machine that sleeps stops CLOCK_MONOTONIC, but not CLOCK_BOOTTIME.
    """

    def __init__(self, monotonic_s: float, cpu_s: float, boot_s: float | None) -> None:
        self._monotonic_s, self._cpu_s = monotonic_s, cpu_s
        self._asleep_s = None if boot_s is None else boot_s - monotonic_s
        self.longest_s = 0.0

    def look(
        self, monotonic_s: float, cpu_s: float, boot_s: float | None, tick_s: float = limits.STANDSTILL_TICK_S
    ) -> None:
        """Take the clocks, `tick_s` after the last time if all is well.

        >>> watch = Watch(100.0, 7.0, 300.0)
        >>> watch.look(105.1, 7.0, 305.1)  # stopped for 5 s
        >>> round(watch.longest_s, 3)
        5.0
        >>> watch = Watch(100.0, 7.0, 300.0)
        >>> watch.look(105.1, 12.1, 305.1)  # busy for as long
        >>> round(watch.longest_s, 3)
        0.0
        >>> watch.look(105.2, 12.2, 365.2)  # the machine slept for a minute
        >>> round(watch.longest_s, 3)
        60.0
        """
        still_s = max(0.0, (monotonic_s - self._monotonic_s) - tick_s - (cpu_s - self._cpu_s))
        self._monotonic_s, self._cpu_s = monotonic_s, cpu_s
        if boot_s is not None and self._asleep_s is not None:
            asleep_s = boot_s - monotonic_s
            still_s += asleep_s - self._asleep_s
            self._asleep_s = asleep_s
        self.longest_s = max(self.longest_s, still_s)


def _clocks() -> tuple[float, float, float | None]:
    boot = getattr(time, "CLOCK_BOOTTIME", None)  # Linux only
    return time.monotonic(), time.process_time(), None if boot is None else time.clock_gettime(boot)


class Standstill:
    """Watches this process from entering to leaving a `with` block; `longest_s` is known afterwards."""

    def __init__(self) -> None:
        self._ended, self._watch = threading.Event(), Watch(*_clocks())
        self._thread = Companion(self._run, "standstill")

    def __enter__(self) -> Self:
        self._watch = Watch(*_clocks())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(limits.THREAD_JOIN_S)

    @property
    def longest_s(self) -> float:
        """The longest time in which nothing was done, in s."""
        return self._watch.longest_s

    def _run(self) -> None:
        while not self._ended.wait(limits.STANDSTILL_TICK_S):
            self._watch.look(*_clocks())
        self._watch.look(*_clocks())
