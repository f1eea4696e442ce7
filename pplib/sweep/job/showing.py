"""The notebooks that show what was measured: several at a time, each kernel with a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

from nbclient.util import run_sync

from pplib import limits
from pplib.errors import ParetoPipeError
from pplib.sweep.job.kernel import execute, kernel
from pplib.testbed.workers.fork_server import KERNEL_SERVER

MOST_KERNELS = 4  # at a time


class Job(NamedTuple):
    """A notebook to execute, and in words what it shows."""

    what: str
    notebook: Path
    output: Path
    parameters: Mapping[str, object]


class Showing(contextlib.AbstractContextManager["Showing"]):
    """Executes notebooks; an error in its context ends them.

    The first kernel starts with the context, before anything is measured, and waits: that takes more than a second.

    Args:
        kernels: at most so many at a time.
    """

    def __init__(self, kernels: int = min(MOST_KERNELS, os.cpu_count() or 1)) -> None:
        self._most, self._ready = kernels, threading.Event()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(kernels)
        self._at_work = [self._threads.submit(self._work, self._ready)]

    def __enter__(self) -> Self:
        return self

    def wait_ready(self) -> None:
        """Wait until the first kernel has started: so long it keeps a core busy, and is to be beside no trial."""
        self._ready.wait(limits.KERNEL_START_S)

    def begin(self, jobs: Sequence[Job]) -> None:
        """Execute these, the first first."""
        for job in jobs:
            self._jobs.put(job)
        self._at_work += [self._threads.submit(self._work) for _ in range(min(self._most, len(jobs)) - 1)]
        self._let_go()

    def wait(self) -> dict[str, ParetoPipeError]:
        """Wait for them; what failed, the others went on."""
        return {what: error for one in self._at_work for what, error in one.result().items()}

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._jobs.get_nowait()
            KERNEL_SERVER.close()  # and with it the kernels
        self._let_go()
        self._threads.shutdown()

    def _let_go(self) -> None:
        for _ in self._at_work:
            self._jobs.put(None)

    def _work(self, ready: threading.Event | None = None) -> dict[str, ParetoPipeError]:
        failed: dict[str, ParetoPipeError] = {}
        try:
            while True:  # what follows a failure gets another kernel
                with kernel(measured=True) as one:
                    if ready is not None and not ready.is_set():
                        try:
                            run_sync(one.get_ready)()
                        except (ParetoPipeError, RuntimeError, TimeoutError):
                            continue  # what does not start now will say so when a notebook is to be executed
                        finally:
                            ready.set()
                    for job in iter(self._jobs.get, None):
                        try:
                            execute(job.notebook, job.output, job.parameters, one)
                        except ParetoPipeError as exc:
                            failed[job.what] = exc
                            break
                    else:
                        return failed
        finally:
            if ready is not None:
                ready.set()
            with contextlib.suppress(RuntimeError):  # it stopped before there was one
                asyncio.get_event_loop().close()  # each thread gets one
