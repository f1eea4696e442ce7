"""What a peer that knows the token cannot do: hold a worker by being slow, fill it with itself, or keep others out."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import pytest

from pplib import limits
from pplib.errors import ParetoPipeError, ProtocolError, TransportError, WorkerError
from pplib.pipeline.coordinator.client import WorkerClient
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Connection, Deadline, connect
from pplib.pipeline.wire.frames import VERSION, receive_message, send_message
from pplib.pipeline.wire.handshake import CONTROL, WATCH, Claim, greet, reach
from pplib.pipeline.wire.plan import TensorSpec
from pplib.pipeline.wire.unauthenticated import MOST, Strangers
from pplib.pipeline.worker import control_port, inputs
from tests.pipeline.conftest import TOKEN

SPEC = TensorSpec((1 << 20,), "float32")


def known(one, purpose=CONTROL):
    connection = connect(one.control, "w", 5)
    greet(connection, TOKEN, Claim(purpose, "test", "w"))
    return contextlib.closing(connection)


def soon():
    return Deadline(5, "test")


def framed(message):
    content = m.encode(message)
    return struct.pack("<4sHxxI", b"PPCT", VERSION, len(content)) + content


BEGUN = {
    "no first request": b"",
    "half a header, after a whole request": framed(m.Ping()) + framed(m.Describe())[:6],
    "half a request, after a whole one": framed(m.Ping()) + framed(m.Describe())[:-3],
    "no inputs": framed(m.PutInputs(spec=SPEC, count=2)),
    "half the inputs": framed(m.PutInputs(spec=SPEC, count=2)) + bytes(SPEC.num_bytes),
    "no weights": framed(m.PutWeights(sha256="0" * 64, offset=0, count=1 << 22)),
}


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "dripping"])
@pytest.mark.parametrize("begun", BEGUN.values(), ids=BEGUN.keys())
def test_a_coordinator_that_stops_halfway_makes_room_for_the_next(running, begun, drips):
    """The dripping one sends an octet every 0.1 s: something always comes, and the limit holds all the same."""
    with known(running) as slow:
        slow.send([begun or b"P" * drips], soon())
        over = threading.Event()

        def drip():
            with contextlib.suppress(TransportError):
                while not over.wait(0.1):
                    slow.send([b"\0"], soon())

        thread = threading.Thread(target=drip)
        if drips:
            thread.start()
        try:
            client = WorkerClient("w", running.control, TOKEN)
            client.ping()
            client.close()
        finally:
            over.set()
            if drips:
                thread.join(10)


def test_a_coordinator_may_be_silent_between_requests(running):
    client = WorkerClient("w", running.control, TOKEN)
    with pytest.raises(WorkerError, match="w: another coordinator is using this worker"):
        WorkerClient("w", running.control, TOKEN)  # told after WAIT_S, longer than the limits for what has begun
    client.ping()
    client.close()


def test_a_crowd_that_knows_the_token_is_refused_at_once_and_keeps_no_watcher_out(running):
    before = threading.active_count()
    first = WorkerClient("w", running.control, TOKEN)
    with contextlib.ExitStack() as stack:
        for _ in range(control_port.MOST_WAITING + 40):
            with contextlib.suppress(TransportError):
                stack.enter_context(known(running))
        assert threading.active_count() - before <= 1 + control_port.MOST_WAITING + MOST
        with pytest.raises(WorkerError, match="another coordinator is using this worker"):
            WorkerClient("w", running.control, TOKEN)
        for _ in range(3 * control_port.MOST_WATCHERS):
            watcher = stack.enter_context(known(running, WATCH))
            send_message(watcher, m.encode(m.Ping()), soon())
            assert isinstance(m.decode_reply(receive_message(watcher, soon())), m.Pong)
        bound = 1 + control_port.MOST_WAITING + MOST + control_port.MOST_WATCHERS
        end = time.monotonic() + 5
        while threading.active_count() - before > bound:  # those that had to make room are on their way out
            assert time.monotonic() < end
            time.sleep(0.02)
        first.ping()
    first.close()


def test_a_coordinator_that_asks_without_listening_is_thrown_out(running):
    with known(running) as connection, pytest.raises(TransportError):
        for _ in range(100_000):
            connection.send([framed(m.Describe())], soon())
    client = WorkerClient("w", running.control, TOKEN)
    client.close()


def admitted(sources, most):
    """Which of some silent strangers, admitted one after the other, were not shut for another."""
    strangers, pairs = Strangers(most=most), [socket.socketpair() for _ in sources]

    def converse(sock, peer, known):
        with sock:
            if said := sock.recv(1):  # nothing, when it is shut
                sock.sendall(said)

    for source, (ours, _) in zip(sources, pairs, strict=True):
        strangers.admit(ours, converse, source)
    answered = []
    for i, (_, theirs) in enumerate(pairs):
        with theirs, contextlib.suppress(BrokenPipeError):
            theirs.settimeout(5)
            theirs.sendall(b"!")
            if theirs.recv(1) == b"!":
                answered.append(i)
    return answered


def test_a_crowd_makes_room_for_one_more_out_of_its_own_midst():
    left = admitted(["crowd", "far away", *["crowd"] * 20, "late"], most=4)
    assert len(left) == 4
    assert {1, 22} <= set(left)


def test_who_makes_room_is_drawn_by_lot_so_that_one_who_is_slow_gets_through_now_and_then(monkeypatch):
    drawn = []
    monkeypatch.setattr("random.choice", lambda choices: drawn.append(len(choices)) or choices[-1])
    assert 0 in admitted(["here"] * 6, most=3)  # the oldest is still there
    assert drawn == [3, 3, 3]


def test_a_client_that_is_thrown_out_by_a_crowd_tries_again():
    port = control_port.ControlPort("w", ("127.0.0.1", 0), TOKEN, lambda connection: None, lambda: None)
    thrown_out = []

    def admit(*arguments):
        if len(thrown_out) < 3:
            thrown_out.append(arguments[0])
            raise TransportError("made room")
        return original_admit(*arguments)

    original_admit = control_port.admit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control_port, "admit", admit)
        port.start()
        reach(port.endpoint, "w", 5, TOKEN, Claim(WATCH, "test", "w")).close()
    port.close()
    assert len(thrown_out) == 3


def test_silent_strangers_keep_nobody_out(running):
    with contextlib.ExitStack() as crowd:
        for where in (running.control, ("127.0.0.1", running.data_port)):
            for _ in range(MOST + 8):
                crowd.enter_context(socket.create_connection(where, 5))
        client = WorkerClient("w", running.control, TOKEN)
        client.ping()
        client.close()


@pytest.mark.parametrize("timeout_s", [1e9, float("nan"), -1.0])
def test_a_worker_is_not_made_to_wait_for_ever_for_a_neighbour(running, timeout_s):
    client = WorkerClient("w", running.control, TOKEN)
    peers = (("w", "127.0.0.1:1"),) * 2
    with pytest.raises(WorkerError, match=r"asked to wait for .* s, expected at most 600 s"):
        client.request(
            m.OpenHops(backend="socket", stage_index=0, peers=peers, run="r", meeting=None, timeout_s=timeout_s), 10
        )
    client.close()


@pytest.mark.parametrize(
    ("count", "spec"),
    [
        (2**30, TensorSpec((2**20, 2**20, 64), "float64")),
        (2**40, TensorSpec((1,), "uint8")),
        (2**30, TensorSpec((0, 3), "float32")),
        (-1, SPEC),
        (1, TensorSpec((1,) * 7, "uint8")),
        (1, TensorSpec((2, 3), "float32", "channels_last")),
    ],
)
def test_tensors_that_are_too_many_too_large_or_none_are_refused_before_memory_is_taken(count, spec):
    with pytest.raises(ProtocolError, match=r"do not fit in|no tensor is"):
        inputs.check_fits(count, spec)


def test_a_tensor_is_allocated_when_its_turn_comes_not_when_it_is_announced(monkeypatch):
    """A thousand inputs of 4 MB are announced, and the first never comes whole."""
    allocated = []
    monkeypatch.setattr(TensorSpec, "allocate", lambda spec: allocated.append(spec) or original(spec))
    here, there = socket.socketpair()
    receiver = Connection(here, "peer")
    there.sendall(bytes(1000))
    there.close()
    with contextlib.closing(receiver), pytest.raises(ParetoPipeError, match="after 1000 of"):
        inputs.receive_inputs(receiver, m.PutInputs(spec=SPEC, count=1000))
    assert len(allocated) == 1


original = TensorSpec.allocate


def test_a_coordinator_whose_turn_comes_when_the_worker_ends_does_not_end_the_process(monkeypatch):
    monkeypatch.setattr(limits, "LEAVE_SESSION_S", 0.5)
    monkeypatch.setattr(control_port, "end_unless", lambda done, limit_s, what: ended.append(not done.wait(limit_s)))
    ended, begun = [], threading.Event()
    port = control_port.ControlPort("w", ("127.0.0.1", 0), TOKEN, lambda connection: begun.set(), lambda: None)
    port.close()
    ours, theirs = socket.socketpair()
    with contextlib.closing(theirs):
        thread = threading.Thread(target=port._converse, args=(ours, "late", lambda: None))
        thread.start()
        greet(Connection(theirs, "w"), TOKEN, Claim(CONTROL, "test", "w"))
        thread.join(10)
    assert begun.is_set()
    assert ended == []
