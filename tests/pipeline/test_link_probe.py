"""When a stream over a link has told its goodput: after its time, or where enough has come before."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from pplib.errors import TransportError
from pplib.pipeline.wire.connection import Connection, Deadline
from pplib.pipeline.wire.messages import Probe
from pplib.pipeline.worker import link_probe


def streamed(settle_s, window_s, pause_s=0.0, enough_bytes=None):
    """The goodput that is told of a stream within this machine, how long it took, and how many bytes were sent."""
    ends, sent = [Connection(one, "peer") for one in socket.socketpair()], []

    def send():
        with contextlib.suppress(TransportError):  # the receiver ends it
            while True:
                ends[1].send([bytes(link_probe.BLOCK_BYTES)], Deadline(60, "sending"))
                sent.append(link_probe.BLOCK_BYTES)
                time.sleep(pause_s)

    sender = threading.Thread(target=send)
    sender.start()
    request = Probe(
        what="stream", leads=True, connects=True, run="r", stage_index=0, peer=("a", "1"), settle_s=settle_s,
        window_s=window_s, ahead_bytes=None, timeout_s=60, enough_bytes=enough_bytes,
    )  # fmt: skip
    begun = time.monotonic()
    goodput_bit_s = link_probe._receive_stream(ends[0], request, Deadline(60, "stream"))
    took_s = time.monotonic() - begun
    ends[0].close()
    sender.join(60)
    ends[1].close()
    return goodput_bit_s, took_s, sum(sent)


def test_a_fast_stream_ends_when_enough_has_come_but_not_before_it_has_settled():
    goodput_bit_s, took_s, sent = streamed(settle_s=0.3, window_s=50, enough_bytes=1 << 22)
    assert 0.3 <= took_s < 50
    assert sent >= 1 << 22
    assert goodput_bit_s >= (1 << 22) * 8 / took_s


def test_a_slow_one_after_its_time():
    goodput_bit_s, took_s, sent = streamed(settle_s=0.2, window_s=0.5, pause_s=0.02, enough_bytes=1 << 30)
    assert took_s >= 0.7
    assert goodput_bit_s == pytest.approx(sent * 8 / took_s, rel=0.3)
