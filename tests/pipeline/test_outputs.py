"""Every output comes back, whatever their number and size: in pieces that a message can hold."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pplib.errors import ProtocolError
from pplib.pipeline.coordinator.client import WorkerClient
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.frames import MAX_MESSAGE_BYTES
from pplib.pipeline.wire.plan import TensorSpec
from pplib.pipeline.worker.last_run import LastRun

SPEC = TensorSpec((2, 3, 4, 4), "float32", "channels_last")


@pytest.fixture
def client():
    """A client whose worker has just run: seven outputs of 384 bytes."""
    outputs = [SPEC.laid_out(np.random.default_rng(i).standard_normal(SPEC.shape, np.float32)) for i in range(7)]
    ran = LastRun(SimpleNamespace(outputs=outputs), 0, None, None, SPEC)
    client = WorkerClient.__new__(WorkerClient)
    client.name, client.outputs, client.sizes = "pi-2", outputs, []

    def request(message, timeout_s):
        reply = ran.outputs(message.offset, message.count)
        client.sizes.append(len(reply.content))
        return reply

    client.request = request
    return client


@pytest.mark.parametrize("block", [1, 100, 384, 400, 5000])
def test_outputs_come_back_bit_for_bit_however_they_are_cut_into_pieces(client, monkeypatch, block):
    monkeypatch.setattr(m, "MAX_BLOCK_BYTES", block)
    got = client.take_outputs(7, SPEC, 10)
    assert all(np.array_equal(a, b) for a, b in zip(got, client.outputs, strict=True))
    assert max(client.sizes) <= block
    assert sum(client.sizes) == 7 * SPEC.num_bytes


def test_a_worker_that_gives_fewer_bytes_than_asked_is_an_error(client):
    with pytest.raises(ProtocolError, match="pi-2: gave 2688 bytes of outputs, asked for 3072"):
        client.take_outputs(8, SPEC, 10)


def test_a_piece_fits_into_a_message():
    assert len(m.encode(m.Content(content=bytes(m.MAX_BLOCK_BYTES)))) < MAX_MESSAGE_BYTES
