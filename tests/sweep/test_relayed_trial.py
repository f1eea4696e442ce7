"""A trial of real workers over a relay on the way between them: one that changes numbers a little changes no result."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from pplib.config import configuration
from pplib.pipeline.coordinator.client import WorkerFailed
from pplib.pipeline.coordinator.coordinator import Coordinator
from pplib.pipeline.wire.frames import TENSOR_HEADER_BYTES
from pplib.sweep.experiment import prepare
from pplib.sweep.measuring.run import run_once
from pplib.testbed.session import workers_up

LIMIT_S = 10.0
MAGIC = b"PPTN"


class FlipLowBits:
    """Hands frames on; of each 32-bit number of a tensor the lowest bit is the other way round."""

    def __init__(self):
        self.held, self.left, self.at, self.flipped = b"", 0, 0, 0

    def __call__(self, octets):
        self.held, passed = self.held + octets, bytearray()
        while self.held:
            if not self.left:
                start = self.held.find(MAGIC)
                if start < 0:
                    begun = next((n for n in (3, 2, 1) if self.held.endswith(MAGIC[:n])), 0)
                    return bytes(passed + self._take(len(self.held) - begun))
                if len(self.held) < start + TENSOR_HEADER_BYTES:
                    return bytes(passed + self._take(start))
                head = self._take(start + TENSOR_HEADER_BYTES)
                passed += head
                self.left, self.at = int.from_bytes(head[start + 20 : start + 28], "little"), 0
            part = bytearray(self._take(min(self.left, len(self.held))))
            for i in range(-self.at % 4, len(part), 4):
                part[i] ^= 1
                self.flipped += 1
            self.left, self.at = self.left - len(part), self.at + len(part)
            passed += part
        return bytes(passed)

    def _take(self, count):
        taken, self.held = self.held[:count], self.held[count:]
        return taken


def hand_on(source, sink, change):
    with contextlib.suppress(OSError), source, sink:
        while octets := source.recv(1 << 16):
            sink.sendall(change(octets))


@pytest.fixture
def relay(monkeypatch):
    """Puts a relay before the second device's data port; its argument makes what changes the octets of a connection."""
    with contextlib.ExitStack() as stack:

        def start(make):
            original = Coordinator.peer

            def serve(server, target):
                with contextlib.suppress(OSError):
                    while True:
                        near, _ = server.accept()
                        far = socket.create_connection(target, LIMIT_S)
                        for one in ((near, far, make()), (far, near, bytes)):
                            threading.Thread(target=hand_on, args=one, daemon=True).start()

            def peer(self, stage_index):
                name, endpoint = original(self, stage_index)
                if stage_index != 1:
                    return name, endpoint
                host, _, port = endpoint.rpartition(":")
                server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                stack.callback(server.shutdown, socket.SHUT_RDWR)
                threading.Thread(target=serve, args=(server, (host, int(port))), daemon=True).start()
                return name, f"127.0.0.1:{server.getsockname()[1]}"

            monkeypatch.setattr(Coordinator, "peer", peer)

        yield start


def test_a_relay_that_hands_on_costs_nothing_and_one_that_flips_low_bits_fails_the_trial(tiny, relay):
    experiment = prepare(configuration({**tiny, "partition_points": [2]}), progress=False)
    seen, flips = [], []

    def watched():
        seen.append(None)
        return bytes

    def flipping():
        flips.append(FlipLowBits())
        return flips[-1]

    with workers_up(experiment.testbed, ["socket"]):
        relay(watched)
        assert run_once(experiment).status == "ok"
        assert seen, "it goes through the relay"
        relay(flipping)
        with pytest.raises(WorkerFailed, match=r"device-1: device-0: microbatch 0 of trial .* is not what its"):
            run_once(experiment)
    assert sum(one.flipped for one in flips) > 0
