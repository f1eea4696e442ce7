"""Run by a test that kills it: two devices, and on each a command and a detached process."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import psutil

from pplib.testbed.ssh.device import SshDevice
from tests.helpers.remote_devices import running

LIMIT_S = 30.0


def main(folder):
    with running(Path(folder)) as remote:
        for device in remote.testbed(Path(folder)).devices:
            ssh = SshDevice(device)
            ssh.run(["sh", "-c", "setsid -f sleep 54321 </dev/null >/dev/null 2>&1"], check=True)
            threading.Thread(target=ssh.run, args=(["sleep", "65432"],), kwargs={"timeout_s": 99}, daemon=True).start()
        end = time.monotonic() + LIMIT_S
        while sum(line == "sleep 65432" for one in remote.devices for _, line in one.processes()) < 2:
            assert time.monotonic() < end
            threading.Event().wait(0.05)
        sys.stdout.write(json.dumps([one.pid for one in psutil.Process(os.getpid()).children(recursive=True)]) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
