"""A fuzzed worker goes on serving, and its memory does not grow; a crowd of silent strangers changes nothing."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from pplib.errors import ParetoPipeError
from tests.runtime.fuzz import Fuzzer, fuzz


@pytest.mark.timeout(250)
def test_malformed_input_never_ends_a_worker_and_never_makes_it_large():
    outcome = fuzz(inputs=400, seed=7)
    assert outcome.inputs == 400
    assert outcome.crashes == 0
    assert outcome.memory_peak_bytes - outcome.memory_before_bytes < 40e6, str(outcome)


def test_silent_strangers_do_not_keep_a_coordinator_out(tmp_path):
    fuzzer = Fuzzer(1, tmp_path)
    try:
        with contextlib.ExitStack() as stack:
            for where in (fuzzer.control, fuzzer.data):
                for _ in range(200):
                    stack.enter_context(socket.create_connection(where, 5))
            begun = time.monotonic()
            end = begun + 15
            while True:
                try:
                    with fuzzer.client() as client:
                        client.ping()
                    break
                except (ParetoPipeError, OSError):
                    assert time.monotonic() < end, "kept out for longer than a stranger may be silent"
                    time.sleep(0.2)
        fuzzer._look()
        assert fuzzer.outcome.memory_peak_bytes - fuzzer.outcome.memory_before_bytes < 40e6
    finally:
        fuzzer.close()
