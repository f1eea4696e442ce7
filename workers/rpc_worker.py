"""A worker that speaks sockets, PyTorch RPC and gloo: trusted networks only. RPC unpickles what it receives."""

from __future__ import annotations

import sys

from pplib.pipeline.worker.command_line import main

if __name__ == "__main__":
    sys.exit(main(("socket", "rpc", "gloo")))
