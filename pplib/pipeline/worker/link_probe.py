"""Measure a link from inside the data plane: round trips, and goodput, over a connection of its own."""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
import time

import msgspec

from pplib.errors import TransportError
from pplib.pipeline.wire.connection import Connection, Deadline
from pplib.pipeline.wire.messages import Probe, Probed
from pplib.pipeline.worker.data_port import DataPort

MOST_EXCHANGES, LEAST_EXCHANGES = 400, 9
ECHO_BYTES = 64
BLOCK_BYTES = 1 << 14
_LAST = b"\1"


def probe(port: DataPort, request: Probe) -> Probed:
    """Take part in one measurement, as the request says.

    Raises:
        TransportError: the peer did not come, or the link is too slow for the time given.
    """
    deadline = Deadline(request.timeout_s, "link probe")
    if request.connects:
        connection = port.reach(request.peer, request.run, request.stage_index, request.timeout_s)
    else:
        connection = port.expect(request.peer[0], request.run, request.stage_index, request.timeout_s)
    with contextlib.closing(connection):
        if request.what == "echo" and request.leads:
            return Probed(rtts_s=_ask(connection, request.window_s, deadline))
        if request.what == "echo":
            _answer(connection, deadline)
            return Probed()
        if request.leads:
            return Probed(goodput_bit_s=_receive_stream(connection, request, deadline))
        return _send_stream(connection, request.ahead_bytes, deadline)


def _ask(connection: Connection, budget_s: float, deadline: Deadline) -> list[float]:
    """Round-trip times of small messages, in s, at least LEAST_EXCHANGES of them even where they exceed `budget_s`.

    The first exchange, in which both ends wake up, is not among them.
    """
    rtts: list[float] = []
    begun = time.monotonic()
    while True:
        enough = len(rtts) >= LEAST_EXCHANGES and time.monotonic() - begun > budget_s
        last = enough or len(rtts) >= MOST_EXCHANGES
        message = (_LAST if last else b"\0") + bytes(ECHO_BYTES - 1)
        sent = time.monotonic_ns()
        connection.send([message], deadline)
        connection.receive(ECHO_BYTES, deadline)
        rtts.append((time.monotonic_ns() - sent) * 1e-9)
        if last:
            return rtts[1:]


def _answer(connection: Connection, deadline: Deadline) -> None:
    while True:
        message = connection.receive(ECHO_BYTES, deadline)
        connection.send([message], deadline)
        if message[:1] == _LAST:
            return


def _send_stream(connection: Connection, ahead_bytes: int | None, deadline: Deadline) -> Probed:
    """Send until the receiver has enough and closes: as fast as the link takes it, or with no more than
    `ahead_bytes` that the receiver has not confirmed.
    """
    block = memoryview(bytes(BLOCK_BYTES if ahead_bytes is not None else 16 * BLOCK_BYTES))
    credits = None if ahead_bytes is None else max(2, ahead_bytes // BLOCK_BYTES)
    with contextlib.suppress(TransportError):  # its end is the receiver's to decide, and to judge
        for sent in itertools.count():
            if credits is not None and sent >= credits:
                connection.receive(1, deadline)
            deadline.check()
            connection.send([block], deadline)
    return _segments(connection.tcp_info())


def _receive_stream(connection: Connection, request: Probe, deadline: Deadline) -> float:
    """Goodput in bit/s: payload that came within `window_s`, after the `settle_s` in which TCP finds its pace.

    Where a link is so fast that there are `enough_bytes` before, that is it.
    """
    buffer = memoryview(bytearray(16 * BLOCK_BYTES))
    total, begun, marked = 0, 0, (0, 0)
    while True:
        deadline.check()
        got = connection.receive_some(buffer, deadline)
        now = time.monotonic_ns()
        if request.ahead_bytes is not None:
            connection.send([bytes((total + got) // BLOCK_BYTES - total // BLOCK_BYTES)], deadline)
        total += got
        begun = begun or now
        seen = total - marked[0]
        if not marked[1] and now - begun >= request.settle_s * 1e9:
            marked = (total, now)
        elif marked[1] and (now - marked[1] >= request.window_s * 1e9 or seen >= (request.enough_bytes or math.inf)):
            return seen * 8 / ((now - marked[1]) * 1e-9)


def _segments(info: bytes) -> Probed:
    """What the sender's TCP counted, from Linux's `struct tcp_info`: 8 octets, 24 words, 4 long words, segs_out.

    Then, since Linux 4.6, data_segs_out at 156, those sent again among them, and since 4.18 dsack_dups at 216:
    what the receiver had twice, and so was sent again for nothing.
    """
    if len(info) < 140:
        return Probed()
    words = struct.unpack_from("=24I", info, 8)
    again, (sent,) = words[23], struct.unpack_from("=I", info, 136)
    probed = Probed(segment_bytes=words[2] or None, resent=again / sent if sent else None)
    if len(info) < 220:
        return probed
    (segments,), (twice,) = struct.unpack_from("=I", info, 156), struct.unpack_from("=I", info, 216)
    if not segments:
        return probed
    return msgspec.structs.replace(probed, segments=segments, loss=max(0, again - twice) / segments)
