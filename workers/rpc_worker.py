"""A worker that speaks sockets and PyTorch RPC. RPC unpickles what it receives: trusted networks only."""

from __future__ import annotations

import sys

from pplib.pipeline.worker.command_line import main

if __name__ == "__main__":
    sys.exit(main(("socket", "rpc")))
