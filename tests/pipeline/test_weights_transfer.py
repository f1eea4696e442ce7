"""Weights that arrive at two workers of one device at the same time, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from pplib.cache import is_used
from pplib.errors import WorkerError
from pplib.model.weights.stored import WeightsFile
from pplib.pipeline.coordinator.weights_sending import send_weights
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Connection
from pplib.pipeline.worker.weights_transfer import held_bytes, receive_weights

LIMIT_S = 30.0
CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOPIPE_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


class Transfer:
    """One worker's side of a transfer, under way, and the end that sends to it."""

    def __init__(self, pool, offset=0):
        self.near, self.far = socket.socketpair()
        request = m.PutWeights(sha256=SHA256, offset=offset, count=len(CONTENT) - offset)
        self.done = pool.submit(receive_weights, Connection(self.far, "coordinator"), request)
        self.left = CONTENT[offset:]

    def close(self):
        self.near.close()
        self.far.close()

    def send(self, count):
        self.near.sendall(self.left[:count])
        self.left = self.left[count:]


@pytest.mark.parametrize("offset", [0, 1_000_000])
def test_two_workers_of_one_device_receive_the_same_weights_at_the_same_time(folder, offset):
    if offset:  # what an earlier transfer left
        (folder / f".{SHA256}.part").write_bytes(CONTENT[:offset])
    with ThreadPoolExecutor(2) as pool:
        both = [Transfer(pool, offset), Transfer(pool, offset)]
        for _ in range(12):
            for one in both:
                one.send(200_000)
        for one in both:
            one.send(len(CONTENT))
        answers = [one.done.result(LIMIT_S) for one in both]
        for one in both:
            one.close()
    assert answers == [m.Done(value=len(CONTENT) - offset)] * 2
    assert [path.name for path in folder.iterdir()] == [f"{SHA256}.safetensors"]
    assert (folder / f"{SHA256}.safetensors").read_bytes() == CONTENT


def test_what_another_worker_is_receiving_counts_as_nothing_and_what_an_ended_transfer_left_counts(folder):
    with ThreadPoolExecutor(1) as pool:
        one = Transfer(pool)
        one.send(1_500_000)
        while not any(path.stat().st_size for path in folder.iterdir()):
            assert not one.done.done()
        assert held_bytes(SHA256, len(CONTENT)) == 0
        one.near.close()
        assert one.done.exception(LIMIT_S) is not None
        one.close()
    assert 0 < held_bytes(SHA256, len(CONTENT)) <= 1_500_000


class Device:
    """A worker's end, in this process, as `send_weights` asks it."""

    def __init__(self, pool):
        self.pool, self.sent = pool, []

    def expect(self, message, kind, timeout_s):
        return m.Done(value=held_bytes(message.sha256, message.num_bytes))

    def put_weights(self, file, offset):
        transfer = Transfer(self.pool, offset)
        transfer.send(len(CONTENT))
        answer = transfer.done.result(LIMIT_S)
        transfer.close()
        self.sent.append(offset)
        if isinstance(answer, m.Failed):
            raise WorkerError(answer.message)
        return answer.value


DAMAGES = {
    "cut short": (f"{SHA256}.safetensors", CONTENT[:1000]),
    "empty": (f"{SHA256}.safetensors", b""),
    "a flipped bit": (f"{SHA256}.safetensors", CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])),
    "longer": (f"{SHA256}.safetensors", CONTENT + b"x"),
    "a beginning with a flipped bit": (f".{SHA256}.part", bytes([CONTENT[0] ^ 1]) + CONTENT[1:100_000]),
    "a beginning of zeros, after a power cut": (f".{SHA256}.part", bytes(100_000)),
    "all of it, but not in its place": (f".{SHA256}.part", CONTENT),
    "a beginning longer than all": (f".{SHA256}.part", CONTENT + b"x"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_on_a_device_is_made_anew_without_a_word(folder, tmp_path, kind):
    name, content = DAMAGES[kind]
    (folder / name).write_bytes(content)
    with ThreadPoolExecutor(1) as pool:
        device = Device(pool)
        assert send_weights(device, WeightsFile(tmp_path / "x", SHA256, len(CONTENT))) == len(CONTENT)
        assert send_weights(device, WeightsFile(tmp_path / "x", SHA256, len(CONTENT))) == 0
    assert [path.name for path in folder.iterdir()] == [f"{SHA256}.safetensors"]
    assert (folder / f"{SHA256}.safetensors").read_bytes() == CONTENT
    assert is_used(folder / f"{SHA256}.safetensors")


def test_a_cache_that_cannot_be_had_leaves_the_connection_in_step(folder, monkeypatch):
    monkeypatch.setenv("PARETOPIPE_CACHE_GB", "much")
    with ThreadPoolExecutor(1) as pool:
        transfer = Transfer(pool)
        transfer.send(len(CONTENT))
        answer = transfer.done.result(LIMIT_S)
        transfer.close()
    assert "PARETOPIPE_CACHE_GB: expected a number of GB" in answer.message
