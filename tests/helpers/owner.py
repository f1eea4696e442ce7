"""Run by a test that kills it: owns a shaped chain with a polite and a stubborn process in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pplib.links import Direction, LinkProfile
from pplib.testbed.emulation.namespaces import namespaces


def main(engine, how):
    way = Direction(rate_bit_s=1e6)
    with namespaces(2, LinkProfile(name="slow", forward=way, backward=way), engine=engine) as net:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        polite = net.popen(0, ["sh", "-c", "echo in; exec cat"], **pipes)
        stubborn = net.popen(1, ["sh", "-c", "echo in; exec sleep 1000"], **pipes)
        for process in (polite, stubborn):
            process.stdout.readline()  # from here on it is in its namespace
        inodes = [str(Path(f"/proc/{process.pid}/ns/net").readlink()) for process in (polite, stubborn)]
        sys.stdout.write(json.dumps({"pids": [net.pid, polite.pid, stubborn.pid], "namespaces": inodes}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        if how == "raise":
            raise SystemExit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
