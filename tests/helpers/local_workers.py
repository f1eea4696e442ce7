"""Workers on this machine without a session around them: nobody looks after them, and nobody starts them again."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from pplib.devices import assign_cores
from pplib.testbed.ssh.parallel import all_or_error, for_each
from pplib.testbed.workers.local import LocalWorker, script_of


@contextlib.contextmanager
def local_workers(testbed, token, backends):
    """Start one worker per device, all at once; stop them on the way out. Yields pairs (worker, what it said)."""
    with tempfile.TemporaryDirectory(prefix="paretopipe-") as folder, contextlib.ExitStack() as stack:
        workers = [
            LocalWorker(device, cores, token, script_of(backends), Path(folder), None)
            for device, cores in zip(testbed.devices, assign_cores(testbed.devices), strict=True)
        ]
        for worker in workers:
            stack.callback(worker.stop)
        limit_s = testbed.ready_timeout_s
        started = for_each(workers, lambda worker: worker.start(limit_s), limit_s + 30)
        yield list(zip(workers, all_or_error(started), strict=True))
