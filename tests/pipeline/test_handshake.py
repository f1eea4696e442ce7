"""Who is admitted: by the token, for whom, from whom and for what; and what one in the middle cannot do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import uuid

import numpy as np
import pytest

from pplib.errors import HandshakeError, ProtocolError, TransportError
from pplib.pipeline.wire.connection import Connection, Deadline, listen
from pplib.pipeline.wire.frames import TENSOR_HEADER_BYTES
from pplib.pipeline.wire.handshake import CONTROL, DATA, PROTOCOL, WATCH, Claim, admit, greet
from pplib.pipeline.wire.plan import TensorSpec
from pplib.pipeline.wire.seal import TAG_BYTES, Seal, check_tag
from pplib.pipeline.worker.data_port import DataPort

TOKEN = b"secret" * 6
SPEC = TensorSpec((4, 70_000), "float32")  # more than is proved at once
SMALL = TensorSpec((2, 3), "float32")
LIMIT_S = 10


def soon():
    return Deadline(5, "test")


def connected():
    """Both ends of a connection: the client's, the server's."""
    ours, theirs = socket.socketpair()
    return Connection(ours, "server"), Connection(theirs, "client")


@pytest.fixture
def pair():
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(contextlib.closing(one)) for one in connected())


def shake(pair, client_token=TOKEN, claim=None, client_version="1", server_version="1", name="b"):
    """Run both sides; what each of them raised, and what was admitted."""
    said = {}

    def server():
        try:
            said["admitted"] = admit(pair[1], TOKEN, (CONTROL, WATCH), name, server_version)
        except TransportError as exc:
            said["server"] = exc
            pair[1].close()

    thread = threading.Thread(target=server)
    thread.start()
    try:
        greet(pair[0], client_token, claim or Claim(CONTROL, "a", "b"), client_version)
    except TransportError as exc:
        said["client"] = exc
        pair[0].close()
    thread.join(LIMIT_S)
    return said


def test_two_that_know_the_token_admit_each_other(pair):
    assert shake(pair) == {"admitted": Claim(CONTROL, "a", "b")}
    assert pair[0].seals is None
    assert pair[1].seals is None


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
    errors = shake(pair, claim=Claim(DATA, "a", "b"))
    assert "expected the data port, reached another" in str(errors["client"])


def test_a_server_that_does_not_know_the_token_is_found_out(pair):
    """It sends back what the client proved; the proof is bound to the role."""

    def mirror():
        with contextlib.suppress(TransportError):
            greeting = (
                b"PPHS" + struct.pack("<H", PROTOCOL) + b"n" * 32 + CONTROL.ljust(8, b"\0") + b"1".ljust(16, b"\0")
            )
            pair[1].send([greeting], soon())
            answer = pair[1].receive(len(greeting) + len(Claim(CONTROL, "a", "b").packed()) + 32, soon())
            pair[1].send([answer[-32:]], soon())

    thread = threading.Thread(target=mirror)
    thread.start()
    with pytest.raises(HandshakeError, match="could not prove the run's token"):
        greet(pair[0], TOKEN, Claim(CONTROL, "a", "b"), "1")
    thread.join(LIMIT_S)


def forward(source, sink, change=lambda octets: octets):
    with contextlib.suppress(OSError), source, sink:
        while octets := source.recv(1 << 16):
            sink.sendall(change(octets))
        sink.shutdown(socket.SHUT_WR)


def relayed(claim, name):
    """A client whose claim is `claim`, and a server `name` that a stranger puts in the place of the one meant."""
    client, one = socket.socketpair()
    other, server = socket.socketpair()
    threads = [threading.Thread(target=forward, args=way) for way in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    ends = Connection(client, "server"), Connection(server, "client")
    try:
        return shake(ends, claim=claim, name=name)
    finally:
        for end in ends:
            end.close()
        for thread in threads:
            thread.join(LIMIT_S)


@pytest.mark.parametrize("name", ["a", "c"], ids=["reflection", "oracle"])
def test_a_proof_made_for_one_worker_opens_no_other_nor_the_one_that_made_it(name):
    """A stranger lets `a`, which means to reach `b`, prove the challenge of another worker."""
    said = relayed(Claim(CONTROL, "a", "b"), name)
    assert "admitted" not in said
    assert f"looked for 'b', reached '{name}'" in str(said["server"])


def test_a_challenge_that_comes_back_with_the_same_proof_is_not_answered():
    """Two connections at once: what one is asked is put to the other."""
    first, second = connected(), connected()
    replayed = []

    def copying():
        greeting = first[0].receive(62, soon())
        second[1].send([greeting], soon())  # to a client
        replayed.append(second[1].receive(62 + len(Claim(CONTROL, "a", "b").packed()) + 32, soon()))
        altered = bytearray(replayed[0])
        altered[6] ^= 1  # another nonce, the same proof
        first[0].send([bytes(altered)], soon())

    thread = threading.Thread(target=copying)
    client = threading.Thread(target=lambda: shake_client(second[0]))

    def shake_client(end):
        with contextlib.suppress(TransportError):
            greet(end, TOKEN, Claim(CONTROL, "a", "b"), "1")

    thread.start()
    client.start()
    with pytest.raises(HandshakeError, match="could not prove"):
        admit(first[1], TOKEN, (CONTROL,), "b", "1")
    for end in (*first, *second):
        end.close()
    thread.join(LIMIT_S)
    client.join(LIMIT_S)


@pytest.mark.parametrize(
    "changed",
    [
        {"purpose": WATCH},
        {"sender": "x"},
        {"receiver": "x"},
        {"run": "x"},
        {"sender_stage": 7},
        {"receiver_stage": 7},
        {"sealed": False},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_nothing_of_what_is_claimed_can_be_changed_on_its_way(changed):
    claim = Claim(CONTROL, "a", "b", "run", 0, 1, sealed=True)
    other = claim._replace(**changed)
    client, server = connected()
    send = client.send

    def altered(parts, deadline):
        greeting, proof = parts[0], parts[1]
        greeting = greeting[:38] + other.purpose.ljust(8, b"\0") + greeting[46:62] + other.packed()
        send([greeting, proof], deadline)

    client.send = altered
    said = shake((client, server), claim=claim, name="x" if "receiver" in changed else "b")
    assert "could not prove" in str(said["server"])
    for end in (client, server):
        end.close()


def test_a_name_that_does_not_fit_is_refused():
    with pytest.raises(HandshakeError, match="names of 64 bytes at most"):
        Claim(CONTROL, "a" * 65, "b").packed()


@pytest.fixture
def ports():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(DataPort(f"w{i}", "127.0.0.1", 0, TOKEN))) for i in range(3)]


@pytest.mark.parametrize(
    ("name", "run", "stage", "ours"), [("w2", "r", 0, 1), ("w0", "q", 0, 1), ("w0", "r", 2, 1), ("w0", "r", 0, 2)]
)
def test_a_connection_is_handed_out_only_for_the_device_the_ring_and_the_stages_it_was_made_for(
    ports, name, run, stage, ours
):
    with contextlib.closing(ports[0].reach(("w1", f"127.0.0.1:{ports[1].port}"), "r", 0, LIMIT_S, 1)):
        with pytest.raises(TransportError, match=f"{name}: did not connect within 0 s"):
            ports[1].expect(name, run, stage, 0.3, ours)
        ports[1].expect("w0", "r", 0, LIMIT_S, 1).close()


class Relay:
    """One in the middle that changes what goes from the client to the server, once it is armed."""

    def __init__(self, port):
        self._server, self._port = listen(("127.0.0.1", 0), "relay"), port
        self.endpoint = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.change = lambda octets: octets
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self):
        near, _ = self._server.accept()
        far = socket.create_connection(("127.0.0.1", self._port), LIMIT_S)
        self._threads += [
            threading.Thread(target=forward, args=(near, far, lambda octets: self.change(octets))),
            threading.Thread(target=forward, args=(far, near, lambda octets: self.change(octets))),
        ]
        for thread in self._threads[1:]:
            thread.start()

    def close(self):
        self._server.close()
        for thread in self._threads:
            thread.join(LIMIT_S)


@contextlib.contextmanager
def ring_with_a_relay(ports):
    relay = Relay(ports[1].port)
    peers = [("w0", f"127.0.0.1:{ports[0].port}"), ("w1", relay.endpoint)]
    run, hops = uuid.uuid4().hex, [None, None]

    def join(i):
        hops[i] = ports[i].join(i, peers, run, LIMIT_S)

    threads = [threading.Thread(target=join, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    try:
        yield relay, hops[0].sender, hops[1].receiver
    finally:
        for one in hops:
            one.close(graceful=True)
        relay.close()


class Nth:
    """Changes one octet, the nth of what passes."""

    def __init__(self, position):
        self._left = position

    def __call__(self, octets):
        at, self._left = self._left, self._left - len(octets)
        if not 0 <= at < len(octets):
            return octets
        return octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :]


@pytest.mark.parametrize("spec", [SMALL, SPEC], ids=["small", "large"])
@pytest.mark.parametrize("where", ["first octet", "last octet", "tag"])
def test_a_relay_that_changes_one_bit_of_a_tensor_fails_the_trial(ports, spec, where):
    position = {"first octet": 0, "last octet": spec.num_bytes - 1, "tag": spec.num_bytes + 3}[where]
    with ring_with_a_relay(ports) as (relay, sender, receiver):
        sender.start(spec, 1)
        receiver.start(spec, 1)
        deadline, tensor = Deadline(LIMIT_S, "test"), np.ones(spec.shape, np.float32)
        sender.send(0, tensor, False, deadline)
        assert np.array_equal(receiver.receive(0, spec.allocate(), deadline).array, tensor)  # as it is, it is passed on
        relay.change = Nth(TENSOR_HEADER_BYTES + position)
        sender.send(1, tensor, False, deadline)
        with pytest.raises(ProtocolError, match="w0: microbatch 1 of trial 1 is not what its sender sent: changed"):
            receiver.receive(1, spec.allocate(), deadline)


def test_a_relay_that_repeats_an_earlier_frame_with_its_tag_fails_the_trial(ports):
    seen = []
    with ring_with_a_relay(ports) as (relay, sender, receiver):
        deadline = Deadline(LIMIT_S, "test")
        for end in (sender, receiver):
            end.start(SMALL, 1)
        relay.change = lambda octets: seen.append(octets) or octets
        sender.send(0, np.zeros(SMALL.shape, np.float32), False, deadline)
        receiver.receive(0, SMALL.allocate(), deadline)
        first = b"".join(seen)
        assert len(first) == sender.payload_bytes
        for end in (sender, receiver):  # the same trial and number once more: only the count of frames differs
            end.start(SMALL, 1)
        relay.change = lambda octets: first
        sender.send(0, np.ones(SMALL.shape, np.float32), False, deadline)
        with pytest.raises(ProtocolError, match="is not what its sender sent: changed, repeated"):
            receiver.receive(0, SMALL.allocate(), deadline)


def test_a_relay_that_makes_up_room_fails_the_trial(ports):
    with ring_with_a_relay(ports) as (relay, sender, receiver):
        deadline = Deadline(LIMIT_S, "test")
        for end in (sender, receiver):
            end.start(SMALL, 1)
        receiver.grant(deadline)
        sender.wait_for_room(deadline)
        relay.change = Nth(5)
        receiver.grant(deadline)
        with pytest.raises(ProtocolError, match="w1: a grant is not what its sender sent"):
            sender.wait_for_room(deadline)


def test_connections_have_keys_of_their_own_and_one_for_each_direction():
    tags = set()
    for _ in range(2):
        ends = connected()
        shake(ends, claim=Claim(CONTROL, "a", "b", sealed=True))
        both = [end.seals.sending.of([b"x"]) for end in ends]
        check_tag(both[0], ends[1].seals.receiving.of([b"x"]), "frame")
        check_tag(both[1], ends[0].seals.receiving.of([b"x"]), "frame")
        tags.update(both)
        for end in ends:
            end.close()
    assert len(tags) == 4


def test_equal_frames_one_after_the_other_have_unlike_tags():
    seal = Seal(b"k" * 32)
    assert len({seal.of([b"frame"]) for _ in range(100)}) == 100
    assert len(seal.of([b"frame"])) == TAG_BYTES


def test_a_tunnel_proves_what_it_carries_itself(ports, tmp_path):
    """A path stands for a tunnel: what goes through it is not proved twice, and the ring is joined all the same."""
    path = str(tmp_path / "to-1")
    with listen(path, "tunnel") as server:

        def carry():
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", ports[1].port), LIMIT_S)
            back = threading.Thread(target=forward, args=(far, near))
            back.start()
            forward(near, far)
            back.join(LIMIT_S)

        thread = threading.Thread(target=carry)
        thread.start()
        with contextlib.closing(ports[0].reach(("w1", path), "r", 0, LIMIT_S, 1)) as outgoing:
            assert outgoing.seals is None
            with contextlib.closing(ports[1].expect("w0", "r", 0, LIMIT_S, 1)) as incoming:
                assert incoming.seals is None
    thread.join(LIMIT_S)
