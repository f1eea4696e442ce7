"""One contract, kept by every backend: order, exactness, refusal, limits."""

from __future__ import annotations

import contextlib
import threading
import uuid

import numpy as np
import pytest
import torch

from pplib.errors import TransportError
from pplib.pipeline.hops.rpc import RpcHops, RpcSender
from pplib.pipeline.hops.rpc_meeting import Meeting
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


@contextlib.contextmanager
def socket():
    ports = [DataPort(f"w{i}", "127.0.0.1", 0, TOKEN) for i in range(2)]
    peers = [(f"w{i}", f"127.0.0.1:{port.port}") for i, port in enumerate(ports)]
    run, hops = uuid.uuid4().hex, [None, None]

    def join(i):
        hops[i] = ports[i].join(i, peers, run, 5)

    threads = [threading.Thread(target=join, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    yield hops[0], hops[1]
    for one in (*hops, *ports):
        one.close(graceful=True) if hasattr(one, "abort") else one.close()


@contextlib.contextmanager
def rpc():
    """A group of one: this process sends to itself, through the same calls."""
    own = Meeting("127.0.0.1", 0)
    hops = RpcHops(uuid.uuid4().hex, 0, [("self", "127.0.0.1:0")], f"127.0.0.1:{own.port}", 2, 20, own)
    yield hops, hops
    hops.close(graceful=True)


@pytest.fixture(params=[in_process, socket, rpc], ids=lambda f: f.__name__)
def hop(request):
    """The sender of one stage and the receiver of the next."""
    with request.param() as (before, after):
        yield before, after


def tensor(seed):
    return SPEC.laid_out(np.random.default_rng(seed).standard_normal(SPEC.shape, np.float32))


def test_tensors_arrive_in_order_bit_for_bit_and_in_their_layout(hop):
    before, after = hop
    before.sender.start(SPEC, 1)
    after.receiver.start(SPEC, 1)
    deadline = Deadline(10, "test")
    for seq in range(5):
        before.sender.send(seq, tensor(seq), seq == 4, deadline)
    slot, latest = SPEC.allocate(), 0
    for seq in range(5):
        got, received_ns, last = after.receiver.receive(seq, slot, deadline)
        assert np.array_equal(got, tensor(seq))
        assert SPEC.is_laid_out(got)
        assert received_ns >= latest
        latest = received_ns
        assert last == (seq == 4)
    before.sender.flush(deadline)
    assert before.sender.payload_bytes >= SPEC.num_bytes


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(hop):
    before, after = hop
    other = TensorSpec((2, 4, 3, 5), "float32", "channels_last")
    before.sender.start(other, 1)
    after.receiver.start(SPEC, 1)
    before.sender.send(0, other.allocate(), False, Deadline(10, "test"))
    with pytest.raises(TransportError, match=r"\(2, 4, 3, 5\).*expected microbatch 0 of trial 1.*\(2, 3, 4, 5\)"):
        after.receiver.receive(0, SPEC.allocate(), Deadline(10, "test"))


def test_a_tensor_of_another_trial_is_refused(hop):
    before, after = hop
    before.sender.start(SPEC, 1)
    after.receiver.start(SPEC, 2)
    before.sender.send(0, tensor(0), False, Deadline(10, "test"))
    with pytest.raises(TransportError, match=r"of trial 1 .*expected microbatch 0 of trial 2"):
        after.receiver.receive(0, SPEC.allocate(), Deadline(10, "test"))


def test_a_microbatch_that_was_there_already_is_refused(hop):
    before, after = hop
    before.sender.start(SPEC, 1)
    after.receiver.start(SPEC, 1)
    deadline = Deadline(10, "test")
    before.sender.send(0, tensor(0), False, deadline)
    before.sender.send(0, tensor(0), False, deadline)
    after.receiver.receive(0, SPEC.allocate(), deadline)
    with pytest.raises(TransportError, match=r"sent microbatch 0 .*expected microbatch 1"):
        after.receiver.receive(1, SPEC.allocate(), deadline)


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


def test_abort_wakes_a_sender_whose_calls_are_not_answered():
    """A call that the peer never answers stands for a peer that has stopped."""
    closed = threading.Event()
    sender = RpcSender("run", "stage1", "pi-2", [], closed)
    sender._pending = [torch.futures.Future()]
    with soon(closed.set), pytest.raises(TransportError, match="pi-2: the hop was closed"):
        sender.flush(Deadline(30, "test"))
