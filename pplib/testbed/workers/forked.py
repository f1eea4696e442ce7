"""A process that a fork server has made, for the one that asked for it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from typing import IO


class Forked:
    """A process, as `subprocess.Popen` would show it.

    Attributes:
        pid: its process id.
        stdin, stdout: the pipes to it and from it; `stderr` is none.
        returncode: how it ended, a signal as a negative number; None while it has not, as far as is known.
    """

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes], ending: int) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, None
        self.returncode: int | None = None
        self._ending, self._lock = ending, threading.Lock()

    def __del__(self) -> None:
        os.close(self._ending)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end; None: however long that takes.

        Raises:
            subprocess.TimeoutExpired: it goes on.
        """
        if self.returncode is None and not select.select([self._ending], [], [], timeout_s)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout_s or 0.0)
        with self._lock:
            if self.returncode is None:
                told = os.read(self._ending, 64)
                if not told:  # the server was killed: nobody would know of this one any more
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.pid, signal.SIGKILL)
                self.returncode = int(told) if told else -int(signal.SIGKILL)
            return self.returncode

    def poll(self) -> int | None:
        """How it ended, if it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
