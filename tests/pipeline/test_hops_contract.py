"""One contract, kept by every backend: order, exactness, refusal, limits."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pplib.errors import DeadlineError, TransportError
from pplib.pipeline.hops.gloo import GlooHops
from pplib.pipeline.hops.meeting import Meeting
from pplib.pipeline.hops.rpc import RpcHops, RpcSender
from pplib.pipeline.wire.connection import Deadline
from pplib.pipeline.wire.plan import TensorSpec
from pplib.pipeline.worker.data_port import DataPort
from tests.helpers.in_process_hops import in_process_ring

SPEC = TensorSpec((2, 3, 4, 5), "float32", "channels_last")
TOKEN = b"t" * 32


@contextlib.contextmanager
def in_process():
    ring = in_process_ring(2)
    yield ring[0], ring[1]
    ring[0].close(graceful=True)


def joined(join, count=2):
    """What members have that join at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(join, range(count)))


@contextlib.contextmanager
def socket():
    ports = [DataPort(f"w{i}", "127.0.0.1", 0, TOKEN) for i in range(2)]
    peers = [(f"w{i}", f"127.0.0.1:{port.port}") for i, port in enumerate(ports)]
    run = uuid.uuid4().hex
    hops = joined(lambda i: ports[i].join(i, peers, run, 5))
    yield hops[0], hops[1]
    for one in (*hops, *ports):
        one.close(graceful=True) if hasattr(one, "abort") else one.close()


@contextlib.contextmanager
def gloo(count=2):
    own = Meeting("127.0.0.1", 0)
    peers = [(f"w{i}", "127.0.0.1:0") for i in range(count)]
    hops = joined(lambda i: GlooHops(i, peers, f"127.0.0.1:{own.port}", 20, None if i else own), count)
    yield hops
    for one in hops:
        one.close(graceful=True)


@contextlib.contextmanager
def rpc():
    """A group of one: this process sends to itself, through the same calls."""
    own = Meeting("127.0.0.1", 0)
    hops = RpcHops(uuid.uuid4().hex, 0, [("self", "127.0.0.1:0")], f"127.0.0.1:{own.port}", 2, 20, own)
    yield hops, hops
    hops.close(graceful=True)


@pytest.fixture(params=[in_process, socket, rpc, gloo], ids=lambda f: f.__name__)
def hop(request):
    """The sender of one stage and the receiver of the next."""
    with request.param() as (before, after):
        yield before, after


def tensor(seed):
    return SPEC.laid_out(np.random.default_rng(seed).standard_normal(SPEC.shape, np.float32))


@contextlib.contextmanager
def sending(before, *microbatches, spec=SPEC):
    """Microbatches (number, tensor, last) of trial 1 are sent from another thread, as some backends send none before
    it is asked for; what comes of it.
    """
    before.sender.start(spec, 1)
    deadline = Deadline(10, "test")

    def send():
        for seq, content, last in microbatches:
            before.sender.send(seq, content, last, deadline)
        before.sender.flush(deadline)

    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        try:
            yield sent
        finally:
            before.abort()


def test_tensors_arrive_in_order_bit_for_bit_and_in_their_layout(hop):
    before, after = hop
    after.receiver.start(SPEC, 1)
    slot, latest = SPEC.allocate(), 0
    with sending(before, *[(seq, tensor(seq), seq == 4) for seq in range(5)]) as sent:
        for seq in range(5):
            got, received_ns, last = after.receiver.receive(seq, slot, Deadline(10, "test"))
            assert np.array_equal(got, tensor(seq))
            assert SPEC.is_laid_out(got)
            assert received_ns >= latest
            latest = received_ns
            assert last == (seq == 4)
        sent.result(10)
        assert before.sender.payload_bytes >= SPEC.num_bytes


def test_what_is_shorter_than_it_may_be_arrives_at_its_length(hop):
    before, after = hop
    spec, lengths = TensorSpec((100_000,), "uint8", exact=False), (100_000, 1, 77_777)
    contents = [np.random.default_rng(0).integers(0, 256, length, np.uint8) for length in lengths]
    after.receiver.start(spec, 1)
    with sending(before, *[(seq, contents[seq], seq == 2) for seq in range(3)], spec=spec) as sent:
        for seq in range(3):
            got, _, _ = after.receiver.receive(seq, spec.allocate(), Deadline(10, "test"))
            assert np.array_equal(got, contents[seq])
        sent.result(10)


def test_a_tensor_without_elements_arrives_too(hop):
    before, after = hop
    spec = TensorSpec((2, 0), "float32")
    after.receiver.start(spec, 1)
    with sending(before, (0, spec.allocate(), True), spec=spec) as sent:
        got, _, last = after.receiver.receive(0, spec.allocate(), Deadline(10, "test"))
        assert (got.shape, last) == ((2, 0), True)
        sent.result(10)


@pytest.mark.parametrize("channels", [4, 2, 5])
def test_a_tensor_of_another_shape_is_refused_with_both_shapes(hop, channels):
    """Of as many bytes, of fewer, and of more than there is memory for."""
    before, after = hop
    other = TensorSpec((2, channels, 3, 5), "float32", "channels_last")
    after.receiver.start(SPEC, 1)
    refused = pytest.raises(
        TransportError, match=rf"\(2, {channels}, 3, 5\).*expected microbatch 0 of trial 1.*\(2, 3, 4, 5\)"
    )
    with sending(before, (0, other.allocate(), False), spec=other), refused:
        after.receiver.receive(0, SPEC.allocate(), Deadline(10, "test"))


def test_a_tensor_of_another_trial_is_refused(hop):
    before, after = hop
    after.receiver.start(SPEC, 2)
    refused = pytest.raises(TransportError, match=r"of trial 1 .*expected microbatch 0 of trial 2")
    with sending(before, (0, tensor(0), False)), refused:
        after.receiver.receive(0, SPEC.allocate(), Deadline(10, "test"))


def test_a_microbatch_that_was_there_already_is_refused(hop):
    before, after = hop
    after.receiver.start(SPEC, 1)
    with sending(before, (0, tensor(0), False), (0, tensor(0), False)):
        after.receiver.receive(0, SPEC.allocate(), Deadline(10, "test"))
        with pytest.raises(TransportError, match=r"sent microbatch 0 .*expected microbatch 1"):
            after.receiver.receive(1, SPEC.allocate(), Deadline(10, "test"))


def test_a_silent_peer_is_an_error_after_the_deadline(hop):
    _, after = hop
    after.receiver.start(SPEC, 1)
    with pytest.raises(TransportError, match="not done within 0 s"):
        after.receiver.receive(0, SPEC.allocate(), Deadline(0.3, "test"))


@contextlib.contextmanager
def soon(call):
    """`call` happens in another thread while the context is open."""
    timer = threading.Timer(0.2, call)
    timer.start()
    yield
    timer.join()


def test_abort_wakes_a_blocked_receiver(hop):
    _, after = hop
    after.receiver.start(SPEC, 1)
    with soon(after.abort), pytest.raises(TransportError):
        after.receiver.receive(0, SPEC.allocate(), Deadline(30, "test"))


def test_a_sender_waits_for_room_until_it_is_granted_once_for_each(hop):
    before, after = hop
    before.sender.start(SPEC, 1)
    after.receiver.start(SPEC, 1)
    for _ in range(2):
        after.receiver.grant(Deadline(10, "test"))
    for _ in range(2):
        before.sender.wait_for_room(Deadline(10, "test"))
    with pytest.raises(TransportError, match="not done within 0 s"):
        before.sender.wait_for_room(Deadline(0.3, "test"))


def test_abort_wakes_a_sender_that_waits_for_room(hop):
    before, _ = hop
    before.sender.start(SPEC, 1)
    with soon(before.abort), pytest.raises(TransportError):
        before.sender.wait_for_room(Deadline(30, "test"))


@pytest.mark.parametrize("ring", [socket, gloo])
def test_a_receiver_learns_at_once_that_the_sender_has_left(ring):
    with ring() as (before, after):
        after.receiver.start(SPEC, 1)
        begun = time.monotonic()
        with soon(lambda: before.close(graceful=False)), pytest.raises(TransportError, match=r"w0: .*[Cc]losed"):
            after.receiver.receive(0, SPEC.allocate(), Deadline(30, "test"))
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize("ring", [socket, gloo])
def test_both_ways_are_used_at_once_and_nothing_is_mixed_up(ring):
    """In either direction tensors and grants of room, from four threads, over the one connection that gloo has."""
    spec, count, deadline = TensorSpec((300_000,), "uint8"), 200, Deadline(60, "test")

    def content(way, seq):
        return np.full(spec.shape, (7 * seq + 100 * way) % 251, np.uint8)

    def send(way, sender):
        for seq in range(count):
            sender.wait_for_room(deadline)
            sender.send(seq, content(way, seq), seq == count - 1, deadline)

    def receive(way, receiver):
        slot = spec.allocate()
        for seq in range(count):
            receiver.grant(deadline)
            assert np.array_equal(receiver.receive(seq, slot, deadline).array, content(way, seq))

    with ring() as hops, ThreadPoolExecutor(4) as pool:
        for one in hops:
            one.sender.start(spec, 1)
            one.receiver.start(spec, 1)
        ends = [pool.submit(send, way, hops[way].sender) for way in (0, 1)]
        ends += [pool.submit(receive, way, hops[1 - way].receiver) for way in (0, 1)]
        for end in ends:
            end.result(60)


@pytest.mark.parametrize("gone", [0, 2])
def test_abort_wakes_a_wait_for_one_neighbour_when_the_other_is_lost(gone):
    """Gloo refuses to wait for a member that is lost, and so does not end the waits for others by that."""
    with gloo(3) as hops, ThreadPoolExecutor(1) as pool:
        one, ends = (
            hops[1],
            (hops[1].sender.wait_for_room, lambda limit: one.receiver.receive(0, SPEC.allocate(), limit)),
        )
        one.sender.start(SPEC, 1)
        one.receiver.start(SPEC, 1)
        lost, waits = ends if gone == 2 else ends[::-1]
        blocked = pool.submit(waits, Deadline(30, "test"))
        hops[gone].close(graceful=False)
        with pytest.raises(TransportError, match=rf"w{gone}: gloo failed: Connection closed by peer"):
            lost(Deadline(30, "test"))
        begun = time.monotonic()
        one.abort()
        with pytest.raises(TransportError, match=rf"w{2 - gone}: the hop was closed"):
            blocked.result(10)
        assert time.monotonic() - begun < 5


def test_a_gloo_group_whose_members_do_not_come_is_given_up_in_time(tmp_path):
    own = Meeting("127.0.0.1", 0)
    peers = [("w0", "127.0.0.1:0"), ("w1", "127.0.0.1:0")]
    for place, meeting in ((str(tmp_path / "meeting"), None), (f"127.0.0.1:{own.port}", own)):
        with pytest.raises(TransportError, match=r"gloo group at .*[Tt]ime"):
            GlooHops(0, peers, place, 1.0, meeting)


def test_a_wait_that_is_over_closes_a_gloo_hop_and_only_the_thread_that_waited_tells_of_it():
    """Gloo ends the others' waits, too, a moment before it says so to the one whose it was."""
    with gloo() as (before, after), ThreadPoolExecutor(1) as pool:
        before.receiver.start(SPEC, 1)
        before.sender.start(SPEC, 1)
        blocked = pool.submit(before.sender.wait_for_room, Deadline(30, "test"))
        with pytest.raises(DeadlineError, match="w1: test: not done within 0 s"):
            before.receiver.receive(0, SPEC.allocate(), Deadline(0.3, "test"))
        before.abort()
        with pytest.raises(TransportError, match="w1: the hop was closed"):
            blocked.result(10)
        after.receiver.start(SPEC, 1)
        with pytest.raises(TransportError, match="w0: gloo failed"):
            after.receiver.receive(0, SPEC.allocate(), Deadline(10, "test"))


def test_abort_wakes_a_sender_whose_calls_are_not_answered():
    """A call that the peer never answers stands for a peer that has stopped."""
    closed = threading.Event()
    sender = RpcSender("run", "stage1", "pi-2", [], closed)
    sender._pending = [torch.futures.Future()]
    with soon(closed.set), pytest.raises(TransportError, match="pi-2: the hop was closed"):
        sender.flush(Deadline(30, "test"))
