"""A worker that speaks sockets only: no pickle is ever read by this process."""

from __future__ import annotations

import sys

from pplib.pipeline.worker.command_line import main

if __name__ == "__main__":
    sys.exit(main(("socket",)))
