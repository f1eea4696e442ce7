"""Frames and messages, peer by peer: late, truncated, oversized, of another version."""

from __future__ import annotations

import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pplib.errors import ProtocolError, TransportError
from pplib.model.partition import split
from pplib.model.stages.describe import describe
from pplib.pipeline.hops.socket import SocketReceiver, SocketSender
from pplib.pipeline.stage.tensors import array_of, torch_dtype
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Connection, Deadline, connect, listen
from pplib.pipeline.wire.frames import (
    TENSOR_HEADER_BYTES,
    VERSION,
    check_tensor_header,
    receive_message,
    send_message,
    tensor_header,
)
from pplib.pipeline.wire.plan import PipelinePlan, TensorSpec

SPEC = TensorSpec((2, 3), "float32")


@pytest.fixture
def pair():
    server = listen(("127.0.0.1", 0), "test")
    client = connect(server.getsockname(), "server", 5)
    sock, _ = server.accept()
    server.close()
    accepted = Connection(sock, "client")
    yield client, accepted
    client.close()
    accepted.close()


def soon():
    return Deadline(5, "test")


def test_a_truncated_tensor_is_an_error_that_says_how_much_came(pair):
    sender, receiver = pair
    hop = SocketReceiver(receiver)
    hop.start(SPEC, 1)
    sender.send([tensor_header(SPEC, 1, 0, False), b"x" * 10], soon())
    sender.close()
    with pytest.raises(TransportError, match="client: closed the connection after 10 of 24 bytes"):
        hop.receive(0, SPEC.allocate(), soon())


def test_a_byte_now_and_then_extends_no_deadline(pair):
    ours, theirs = pair
    done = threading.Event()

    def drip():
        while not done.wait(0.02):
            theirs.send([b"x"], soon())

    with ThreadPoolExecutor(1) as pool:
        dripping = pool.submit(drip)
        try:
            with pytest.raises(TransportError, match=r"all of it: not done within 1 s after \d+ of 100000 bytes"):
                ours.receive_into(memoryview(bytearray(100_000)), Deadline(1.0, "all of it"))
        finally:
            done.set()
        dripping.result(5)


def test_a_peer_that_takes_a_little_now_and_then_extends_no_deadline(pair):
    ours, theirs = pair
    done = threading.Event()

    def sip():
        while not done.wait(0.02):
            theirs.receive(10_000, soon())

    with ThreadPoolExecutor(1) as pool:
        sipping = pool.submit(sip)
        try:
            with pytest.raises(TransportError, match=r"all of it: not done within 1 s"):
                ours.send([bytes(50_000_000)], Deadline(1.0, "all of it"))
        finally:
            done.set()
        sipping.result(5)


def test_noise_is_no_tensor(pair):
    sender, receiver = pair
    hop = SocketReceiver(receiver)
    hop.start(SPEC, 1)
    sender.send([b"GET / HTTP/1.1\r\n".ljust(TENSOR_HEADER_BYTES)], soon())
    with pytest.raises(ProtocolError, match="client: sent something that is no tensor frame"):
        hop.receive(0, SPEC.allocate(), soon())


def test_a_tensor_larger_than_the_socket_buffers_arrives_whole(pair):
    spec = TensorSpec((16, 1024, 1024), "float32")
    sender, receiver = SocketSender(pair[0]), SocketReceiver(pair[1])
    sender.start(spec, 1)
    receiver.start(spec, 1)
    sent = np.arange(16 * 1024 * 1024, dtype=np.float32).reshape(spec.shape)
    thread = threading.Thread(target=sender.send, args=(0, sent, False, soon()))
    thread.start()
    got, _, _ = receiver.receive(0, spec.allocate(), soon())
    thread.join(10)
    assert np.array_equal(got, sent)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_every_dtype_crosses_the_wire(pair, dtype):
    spec = TensorSpec((3, 5), dtype)
    sender, receiver = SocketSender(pair[0]), SocketReceiver(pair[1])
    sender.start(spec, 1)
    receiver.start(spec, 1)
    sent = array_of(torch.randn(3, 5).mul(3).to(torch_dtype(spec)))
    sender.send(0, sent, False, soon())
    assert np.array_equal(receiver.receive(0, spec.allocate(), soon())[0], sent)


@given(st.binary(min_size=TENSOR_HEADER_BYTES, max_size=TENSOR_HEADER_BYTES))
@settings(max_examples=300)
def test_any_other_header_is_refused_and_none_crashes(data):
    with pytest.raises(ProtocolError):
        check_tensor_header(data, SPEC, 1, 0, "peer")


@given(st.integers(0, TENSOR_HEADER_BYTES - 1), st.integers(1, 255))
def test_a_header_with_any_byte_changed_is_refused(position, flip):
    data = bytearray(tensor_header(SPEC, 7, 3, False))
    data[position] ^= flip
    if data == tensor_header(SPEC, 7, 3, True):
        assert check_tensor_header(bytes(data), SPEC, 7, 3, "peer")  # the one change that makes another good header
        return
    with pytest.raises(ProtocolError):
        check_tensor_header(bytes(data), SPEC, 7, 3, "peer")


def test_a_message_longer_than_allowed_is_refused_before_memory_is_taken(pair):
    pair[0].send([struct.pack("<4sHxxI", b"PPCT", VERSION, 2**31)], soon())
    with pytest.raises(ProtocolError, match="announced a message of 2147483648 bytes"):
        receive_message(pair[1], soon())


def test_messages_come_back_as_they_were_sent(pair):
    plan = PipelinePlan(
        model="alexnet",
        weights_sha256="0" * 64,
        granularity="block",
        points=(3,),
        optimize=True,
        in_flight=2,
        tensors=(SPEC, SPEC, SPEC),
        stages=tuple(describe(stage) for stage in split(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).eval(), (1,))),
    )
    send_message(pair[0], m.encode(m.Prepare(plan=plan, stage_index=1)), soon())
    got = m.decode_request(receive_message(pair[1], soon()))
    assert got == m.Prepare(plan=plan, stage_index=1)
    assert got.plan.digest == plan.digest


def test_a_port_in_use_is_named_with_the_way_out():
    with listen(("127.0.0.1", 0), "first") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=rf"second: cannot listen on 127.0.0.1:{port}: Address already in use"):
            listen(("127.0.0.1", port), "second")


def test_a_worker_never_listens_on_all_interfaces():
    for host in ("", "0.0.0.0", "::"):
        with pytest.raises(ProtocolError, match="refusing to listen on all interfaces"):
            listen((host, 0), "worker")


def test_a_refused_connection_says_what_to_check():
    with listen(("127.0.0.1", 0), "probe") as probe:
        port = probe.getsockname()[1]
    with pytest.raises(TransportError, match=f"127.0.0.1:{port} refused the connection: no worker listens there"):
        connect(("127.0.0.1", port), "device-0", 2)
