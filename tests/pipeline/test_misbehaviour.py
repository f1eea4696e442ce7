"""What a peer that knows the token cannot do by what it says: bury a decoder, go on for ever, or end a trial."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from pplib import limits
from pplib.errors import ProtocolError, TransportError
from pplib.pipeline.coordinator.client import WorkerClient
from pplib.pipeline.hops.socket import SocketHops
from pplib.pipeline.stage.length import Length
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Connection, Deadline, listen
from pplib.pipeline.wire.frames import receive_message, send_message
from pplib.pipeline.wire.handshake import CONTROL, WATCH, Claim, admit, reach
from pplib.pipeline.wire.plan import TensorSpec
from pplib.testbed.workers import supervisor
from tests.helpers.in_process_hops import in_process_ring, one_of_two
from tests.pipeline.conftest import TOKEN

SMALL = TensorSpec((2, 3), "float32")


def soon():
    return Deadline(5, "test")


def nested(depth):
    """A map whose first key holds lists in lists: a decoder that looks for the kind of a message goes into them."""
    return b"\x82\xa1x" + b"\x91" * depth + b"\xc0" + b"\xa4type\xa4Ping"


@pytest.mark.parametrize("depth", [100, 5_000, 900_000])
@pytest.mark.parametrize("decode", [m.decode_request, m.decode_reply])
def test_deeply_nested_messages_are_refused_as_any_others_are(decode, depth):
    with pytest.raises(ProtocolError, match="cannot be read"):
        decode(nested(depth))


@pytest.mark.parametrize("purpose", [CONTROL, WATCH])
def test_a_worker_that_is_sent_one_goes_on_serving(running, purpose, capfd):
    with contextlib.closing(reach(running.control, "w", 5, TOKEN, Claim(purpose, "test", "w"))) as connection:
        send_message(connection, nested(900 if purpose == WATCH else 100_000), soon())
        with pytest.raises(TransportError):
            connection.receive(1, soon())
    client = WorkerClient("w", running.control, TOKEN)
    client.ping()
    client.close()
    assert "Traceback" not in capfd.readouterr().err


class Misbehaving:
    """A worker that knows the token, and answers everything with the same octets, once or for ever."""

    def __init__(self, answer, times):
        self._answer, self._times = answer, times
        self._server = listen(("127.0.0.1", 0), "test")
        self.control = self._server.getsockname()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        sock, _ = self._server.accept()
        with contextlib.closing(Connection(sock, "client")) as connection, contextlib.suppress(TransportError):
            admit(connection, TOKEN, (CONTROL, WATCH), "w")
            receive_message(connection, soon())
            for _ in range(self._times):
                send_message(connection, self._answer, soon())
            connection.receive(1, soon())

    def close(self):
        self._server.close()
        self._thread.join(10)


def test_a_coordinator_that_is_answered_deeply_nested_says_who_it_was():
    told = pytest.raises(ProtocolError, match="w: sent an answer that cannot be read")
    with contextlib.closing(Misbehaving(nested(100_000), 1)) as bad, told:
        WorkerClient("w", bad.control, TOKEN)


def test_a_supervisor_that_is_answered_deeply_nested_starts_the_worker_again(monkeypatch, tmp_path):
    monkeypatch.setattr(limits, "PING_S", 0.05)
    with contextlib.closing(Misbehaving(nested(900), 1)) as bad:
        told = []
        again = threading.Event()
        one = SimpleNamespace(
            device=SimpleNamespace(name="w"),
            control=f"127.0.0.1:{bad.control[1]}",
            log=tmp_path / "log",
            kill=told.append,
            start=lambda limit_s: again.set(),
            stop=lambda: None,
        )
        watching = supervisor.Supervisor(one, TOKEN, 1.0)
        assert again.wait(10)
    watching.close()
    assert told[0] is True


def endless(sender, spec, over, last=lambda seq: False):
    """Send what a plan allows, without end."""
    seq = 0
    with contextlib.suppress(TransportError):
        while not over.is_set():
            sender.send(seq, spec.allocate(), last(seq), soon())
            seq += 1


def sockets():
    """The hops of two stages over real sockets, in one process."""
    pairs = [socket.socketpair() for _ in range(2)]
    (a, b), (c, d) = ([Connection(end, name) for end, name in zip(pair, "ba", strict=True)] for pair in pairs)
    return SocketHops(incoming=c, outgoing=a), SocketHops(incoming=b, outgoing=d)


def loop(stage_index, runner=lambda tensor: (tensor, 0)):
    return one_of_two(runner, stage_index, SMALL, 2, [SMALL.allocate()] if stage_index == 0 else [])


@pytest.mark.alone
@pytest.mark.parametrize("kind", [sockets, lambda: in_process_ring(2)], ids=["socket", "in process"])
def test_a_neighbour_that_never_stops_sending_does_not_outlast_the_limit(kind):
    bad, good = kind()
    over = threading.Event()
    bad.sender.start(SMALL, 1)
    sending = threading.Thread(target=endless, args=(bad.sender, SMALL, over))
    sending.start()
    begun = time.monotonic()
    try:
        with pytest.raises(TransportError, match="not done within 1 s"):
            loop(1).run(good, 1, Length(2**31, 2**31), Deadline(1.0, "trial"))
    finally:
        over.set()
        bad.abort()
        sending.join(10)
    assert time.monotonic() - begun < 2.5


@pytest.mark.parametrize(
    ("length", "last_at", "said"),
    [
        (Length(9, 9), 2, "said that microbatch 2 is the last of the trial, expected 9 in all"),
        (Length(9, 5, 3.0), 2, r"said that microbatch 2 is the last .*expected 9, or at least 5 where 3.0 s are over,"),
        (Length(3, 3), 99, "did not say that microbatch 2 is the last of the trial, expected 3 in all"),
    ],
)
def test_a_trial_that_a_neighbour_ends_early_or_not_at_all_fails_at_once(length, last_at, said):
    bad, good = in_process_ring(2)
    bad.sender.start(SMALL, 1)
    for seq in range(4):
        bad.sender.send(seq, SMALL.allocate(), seq == last_at, soon())
    with pytest.raises(ProtocolError, match=f"stage 0: {said}"):
        loop(1).run(good, 1, length, Deadline(30.0, "trial"))


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (
            [(0, True)],
            r"sent result 0 as the last, expected one of \d .* the last of which is not decided",
        ),
        ([(0, False), (1, False), (2, False)], r"sent result 2, expected one of \d microbatches"),
    ],
)
def test_results_that_end_a_trial_early_or_that_nobody_asked_for_fail_it_at_once(results, said):
    """Stage 0 waits inside its second microbatch, so that it has admitted two and no more."""
    good, bad = in_process_ring(2)
    bad.sender.start(SMALL, 1)
    seen = []

    def runner(tensor):
        seen.append(tensor)
        if len(seen) == 2:
            for seq, last in results:
                bad.sender.send(seq, SMALL.allocate(), last, soon())
            one.halt._event.wait(10)
        return tensor, 0

    one = loop(0, runner)
    with pytest.raises(ProtocolError, match=f"stage 1: {said}"):
        one.run(good, 1, Length(9, 9), Deadline(30.0, "trial"))
