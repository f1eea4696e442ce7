"""What a kernel is forked from: all that notebooks import which show what was measured, so no PyTorch, is loaded here.

Run as a script, it is the kernel.
"""

from __future__ import annotations

import atexit
import os
import sys

from ipykernel.kernelapp import IPKernelApp

import pplib.notebook
import pplib.sweep.closing
import pplib.sweep.job.notebook_steps
import pplib.sweep.report  # noqa: F401 (loaded before the fork, with what they import)


def main() -> None:
    """Be the kernel that the command line names, until it is told to end or its parent is gone."""
    os.dup2(2, 1)  # nobody reads the pipe
    try:
        IPKernelApp.launch_instance(
            [*sys.argv[1:], "--IPKernelApp.log_level=CRITICAL", f"--IPKernelApp.parent_handle={os.getppid()}"]
        )
    finally:
        atexit._run_exitfuncs()  # a process that was forked ends without them


if __name__ == "__main__":
    main()
