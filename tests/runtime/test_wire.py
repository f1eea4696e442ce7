"""Frames, messages and handshakes, peer by peer: late, truncated, oversized, of another version."""

from __future__ import annotations

import contextlib
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pplib.errors import HandshakeError, ProtocolError, TransportError
from pplib.runtime import messages as m
from pplib.runtime.connection import Connection, Deadline, connect, listen
from pplib.runtime.handshake import CONTROL, DATA, admit, greet
from pplib.runtime.plan import PipelinePlan, TensorSpec
from pplib.runtime.socket_hops import SocketReceiver, SocketSender
from pplib.runtime.wire import (
    TENSOR_HEADER_BYTES,
    VERSION,
    check_tensor_header,
    receive_message,
    send_message,
    tensor_header,
)

SPEC = TensorSpec((2, 3), "float32")
TOKEN = b"secret" * 6


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
    sent = torch.arange(16 * 1024 * 1024, dtype=torch.float32).reshape(spec.shape)
    thread = threading.Thread(target=sender.send, args=(0, sent, False, soon()))
    thread.start()
    got, _, _ = receiver.receive(0, spec.allocate(), soon())
    thread.join(10)
    assert torch.equal(got, sent)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_every_dtype_crosses_the_wire(pair, dtype):
    spec = TensorSpec((3, 5), dtype)
    sender, receiver = SocketSender(pair[0]), SocketReceiver(pair[1])
    sender.start(spec, 1)
    receiver.start(spec, 1)
    sent = torch.randn(3, 5).mul(3).to(spec.torch_dtype)
    sender.send(0, sent, False, soon())
    assert torch.equal(receiver.receive(0, spec.allocate(), soon())[0], sent)


@given(st.binary(min_size=TENSOR_HEADER_BYTES, max_size=TENSOR_HEADER_BYTES))
@settings(max_examples=300, deadline=None)
def test_any_other_header_is_refused_and_none_crashes(data):
    with pytest.raises(ProtocolError):
        check_tensor_header(data, SPEC, 1, 0, "peer")


@given(st.integers(0, TENSOR_HEADER_BYTES - 1), st.integers(1, 255))
@settings(deadline=None)
def test_a_header_with_any_byte_changed_is_refused(position, flip):
    data = bytearray(tensor_header(SPEC, 7, 3, False))
    data[position] ^= flip
    with pytest.raises(ProtocolError):
        check_tensor_header(bytes(data), SPEC, 7, 3, "peer")


def test_a_message_longer_than_allowed_is_refused_before_memory_is_taken(pair):
    pair[0].send([struct.pack("<4sHxxI", b"PPCT", VERSION, 2**31)], soon())
    with pytest.raises(ProtocolError, match="announced a message of 2147483648 bytes"):
        receive_message(pair[1], soon())


def test_messages_come_back_as_they_were_sent(pair):
    plan = PipelinePlan(
        model="alexnet",
        weights="random",
        num_classes=None,
        weights_sha256="0" * 64,
        granularity="block",
        points=(3,),
        optimize=True,
        in_flight=2,
        tensors=(SPEC, SPEC, SPEC),
    )
    send_message(pair[0], m.encode(m.Prepare(plan=plan, stage_index=1)), soon())
    got = m.decode_request(receive_message(pair[1], soon()))
    assert got == m.Prepare(plan=plan, stage_index=1)
    assert got.plan.digest == plan.digest


def shake(pair, client_token=TOKEN, client_purpose=CONTROL, client_version="1", server_version="1"):
    """Run both sides; what each of them raised."""
    errors = {}

    def server():
        try:
            admit(pair[1], TOKEN, (CONTROL,), server_version)
        except TransportError as exc:
            errors["server"] = exc
            pair[1].close()

    thread = threading.Thread(target=server)
    thread.start()
    try:
        greet(pair[0], client_token, client_purpose, client_version)
    except TransportError as exc:
        errors["client"] = exc
        pair[0].close()
    thread.join(10)
    return errors


def test_two_that_know_the_token_admit_each_other(pair):
    assert shake(pair) == {}


def test_a_peer_without_the_token_is_not_admitted_and_gets_nothing(pair):
    errors = shake(pair, client_token=b"wrong" * 8)
    assert isinstance(errors["server"], HandshakeError)
    assert "could not prove the run's token" in str(errors["server"])
    assert "closed the connection" in str(errors["client"]) or "connection lost" in str(errors["client"])


def test_a_peer_of_another_version_is_told_so(pair):
    errors = shake(pair, server_version="0.0.9", client_version="0.1.0")
    assert isinstance(errors["client"], HandshakeError)
    assert "runs ParetoPipe '0.0.9'" in str(errors["client"])
    assert "install the same version on both" in str(errors["client"])


def test_the_data_port_is_not_the_control_port(pair):
    errors = shake(pair, client_purpose=DATA)
    assert "expected the data port, reached another" in str(errors["client"])


def test_a_server_that_does_not_know_the_token_is_found_out(pair):
    """The man in the middle replays what the client sends; the proof is bound to the role."""

    def mirror():
        with contextlib.suppress(TransportError):
            greeting = b"PPHS" + struct.pack("<H", 1) + b"n" * 32 + CONTROL.ljust(8, b"\0") + b"1".ljust(16, b"\0")
            pair[1].send([greeting], soon())
            answer = pair[1].receive(len(greeting) + 32, soon())
            pair[1].send([answer[-32:]], soon())

    thread = threading.Thread(target=mirror)
    thread.start()
    with pytest.raises(HandshakeError, match="could not prove the run's token"):
        greet(pair[0], TOKEN, CONTROL, "1")
    thread.join(10)


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
