"""A fuzzed worker goes on serving, its memory stays what the plan needs, and nothing that was sent is run."""

from __future__ import annotations

import contextlib
import pickle
import random
import struct

import pytest

from benchmarks.fuzz_live import Fuzzer, attack
from benchmarks.fuzz_target import Target
from benchmarks.fuzz_trial import KINDS, Bomb, Neighbour
from pplib.errors import TransportError
from pplib.pipeline.wire.connection import Deadline
from pplib.pipeline.wire.frames import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES, VERSION, send_message
from pplib.pipeline.wire.handshake import CONTROL, DATA, WATCH


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """One worker for all tests: what one of them does to it, the next would notice."""
    with Target(tmp_path_factory.mktemp("target")) as one:
        yield one
        one.serves()


@pytest.fixture(scope="module")
def neighbour(target, tmp_path_factory):
    with Neighbour(target, random.Random(5), tmp_path_factory.mktemp("neighbour")) as one:
        assert one.good() < 1e-4
        yield one
        one.leave()


@pytest.fixture
def small(target):
    """What a test throws at the worker does not make it larger."""
    target.count_memory_from_here()
    yield
    target.look()
    assert target.outcome.grown_bytes < 12e6, str(target.outcome)


@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_frame_fails_its_trial_and_the_next_one_is_right(neighbour, kind, small):
    neighbour.bad(kind)
    assert neighbour.good() < 1e-4


def test_octets_changed_before_a_frame_is_sealed_are_another_number_and_no_error(neighbour, small):
    assert 1e-9 < neighbour.good(flipped=5000) < float("inf")
    assert neighbour.good() < 1e-4


def test_a_pickle_makes_a_folder_where_it_is_loaded_and_none_in_a_worker(target, neighbour, tmp_path):
    folder = tmp_path / "bomb"
    bomb = pickle.dumps(Bomb(folder))
    pickle.loads(bomb)
    folder.rmdir()
    neighbour.leave()
    fuzzer = Fuzzer(target, random.Random(1), tmp_path)
    for where, purpose in ((target.control, CONTROL), (target.control, WATCH), (target.data, DATA)):
        with contextlib.suppress(TransportError), contextlib.closing(fuzzer.known(where, purpose)) as connection:
            send_message(connection, bomb, Deadline(5, "bomb"))
            connection.send([bomb * 10], Deadline(5, "bomb"))
    target.serves()
    assert not folder.exists()


@pytest.mark.parametrize("count", [MAX_REQUEST_BYTES + 1, MAX_MESSAGE_BYTES, 2**32 - 1])
def test_a_length_that_is_only_announced_takes_no_memory(target, neighbour, small, count):
    neighbour.leave()
    fuzzer = Fuzzer(target, random.Random(1), target.log.parent)
    with contextlib.closing(fuzzer.known(target.control, CONTROL)) as connection:
        connection.send([struct.pack("<4sHxxI", b"PPCT", VERSION, count)], Deadline(5, "announcement"))
        with pytest.raises(TransportError, match="closed the connection"):
            connection.receive(1, Deadline(5, "the end"))


def test_malformed_input_of_all_kinds_never_ends_a_worker(tmp_path, target, neighbour):
    neighbour.leave()
    before = target.outcome.tried.total()
    outcome = attack(target, 240, 7, tmp_path)
    assert outcome.tried.total() - before == 240
    assert outcome.crashes == outcome.code_run == 0
    assert outcome.grown_bytes < 12e6, str(outcome)
    assert outcome.threads_peak < 60, str(outcome)
