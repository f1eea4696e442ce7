"""Run inside a namespace by the tests: a device, that is, an SSH server and everything that is started through it.

Reads commands from its standard input, answers each with a line, and ends with all its descendants
when its input does. `on` starts the server; `off` kills everything, as pulling the plug does;
`freeze` and `thaw` stop and continue every process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
LIMIT_S = 20.0


def say(word):
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def signal_all(number):
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def reap():
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def off():
    end = time.monotonic() + LIMIT_S
    while psutil.Process().children(recursive=True):
        assert time.monotonic() < end, "some process does not die"
        signal_all(signal.SIGKILL)
        reap()
        select.select([], [], [], 0.01)


def on(config, address, port, log):
    with Path(log).open("ab") as said:
        # Its process object is of no use: `reap` takes the exit status, as an init does.
        server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=said, stdin=subprocess.DEVNULL)
    server.returncode = 0
    end = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=LIMIT_S) as connection:
            if connection.recv(4) == b"SSH-":
                return
        reap()
        assert time.monotonic() < end and psutil.pid_exists(server.pid), f"sshd did not start, see {log}"
        select.select([], [], [], 0.02)


def main(config, address, port, log):
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        while True:
            ready = select.select([sys.stdin], [], [], 0.2)[0]
            reap()
            if not ready:
                continue
            word = os.read(sys.stdin.fileno(), 100).decode().strip()
            if not word:
                return
            if word == "on":
                on(config, address, int(port), log)
            elif word == "off":
                off()
            else:
                signal_all({"freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}[word])
            say(word)
    finally:
        off()


if __name__ == "__main__":
    main(*sys.argv[1:])
