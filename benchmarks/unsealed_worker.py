"""A socket worker whose frames carry no proof, for `benchmarks/seal.py`: nothing else starts it."""

from __future__ import annotations

import sys

from pplib.pipeline.worker import data_port
from pplib.pipeline.worker.command_line import main

if __name__ == "__main__":
    data_port.SEALED = False
    sys.exit(main(("socket",)))
