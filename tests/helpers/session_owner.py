"""Run by a test that ends it: holds a session whose workers are on remote devices.

Its workers are told to end after a shorter time without a word than a user's are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pplib import limits
from pplib.devices import load_testbed
from pplib.testbed.session import workers_up


def main(devices, forgotten_after_s):
    limits.FORGOTTEN_AFTER_S = float(forgotten_after_s)
    with workers_up(load_testbed(Path(devices)), ["socket"]):
        sys.stdout.write("up\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
