"""A process that stood still knows it afterwards, and a trial in it is not taken for one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from pplib import limits
from pplib.errors import TrialError
from pplib.pipeline.process.standstill import check_moving

WATCHED = """
import sys
from pplib.pipeline.process.standstill import Standstill

with Standstill() as standstill:
    print("watching", flush=True)
    busy = 0
    while sys.argv[1] == "busy" and busy < 20_000_000:
        busy += 1
    sys.stdin.readline()
print(standstill.longest_s)
"""


def watched(what, stopped_s):
    """The longest standstill that a process tells of itself which is stopped for some seconds, once."""
    words = [sys.executable, "-c", WATCHED, what]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "watching\n"
            if stopped_s:
                process.send_signal(signal.SIGSTOP)
                threading.Event().wait(stopped_s)
                process.send_signal(signal.SIGCONT)
            return float(process.communicate("\n", timeout=60)[0])
        finally:
            process.kill()


@pytest.mark.alone
def test_a_process_that_was_stopped_says_for_how_long():
    assert 2 * limits.STANDSTILL_S - 0.5 < watched("idle", 2 * limits.STANDSTILL_S) < 2 * limits.STANDSTILL_S + 1


@pytest.mark.alone
@pytest.mark.parametrize("what", ["idle", "busy"])
def test_one_that_waits_or_computes_did_not_stand_still(what):
    assert watched(what, 0) < limits.STANDSTILL_S


def test_a_trial_bears_what_a_busy_machine_does_and_no_more():
    check_moving("pi-2", limits.STANDSTILL_S)
    with pytest.raises(TrialError, match=r"pi-2: its worker stood still for 4\.9 s of the trial"):
        check_moving("pi-2", 4.9)
