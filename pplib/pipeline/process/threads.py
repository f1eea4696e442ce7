"""Threads of a worker whose start and end are waited for within limits, whatever state the process is in."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from collections.abc import Callable

from pplib import limits
from pplib.pipeline.process.memory import memory_left

STUCK = 70  # the exit status of a worker that could not get out of something


class Companion:
    """Runs `job` in a thread of its own, which ends with the process at the latest.

    `threading.Thread.start` waits for ever where there is no memory for the first steps of the new
    thread: the worker would go on to answer pings, and do nothing else.
    """

    def __init__(self, job: Callable[[], None], name: str) -> None:
        self.name, self._job = name, job
        self._begun, self.ended = threading.Event(), threading.Event()

    def start(self) -> None:
        """Return when it runs.

        Raises:
            MemoryError: it does not come up.
        """
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as exc:
            raise MemoryError(f"thread {self.name}: {exc}") from exc
        end = time.monotonic() + limits.THREAD_START_S
        while not self._begun.wait(limits.THREAD_LOOK_S):
            if not memory_left():
                raise MemoryError(f"thread {self.name} has no memory to come up")
            if time.monotonic() > end:
                raise MemoryError(f"thread {self.name} did not come up within {limits.THREAD_START_S:.0f} s")

    def _run(self) -> None:
        self._begun.set()
        try:
            self._job()
        finally:
            self.ended.set()

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended, if it ever came up, but no longer than `timeout_s`."""
        if self._begun.is_set():
            self.ended.wait(timeout_s)

    def is_alive(self) -> bool:
        """Whether it came up and has not ended."""
        return self._begun.is_set() and not self.ended.is_set()


def end_unless(done: threading.Event, limit_s: float, what: str) -> None:
    """Wait for `done`, or end this process: whoever looks after this worker starts it again.

    Args:
        done: is set when all is well.
        limit_s: how long to wait.
        what: is to be done, for the log.
    """
    if not done.wait(limit_s):
        sys.stderr.write(f"{what}: not done within {limit_s:.0f} s: this worker ends\n")
        sys.stderr.flush()
        os._exit(STUCK)
