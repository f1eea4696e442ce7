"""Throw malformed input at a real worker: strangers at both its ports, and peers that know the token.

    python -m benchmarks.fuzz_live --inputs 5000 --seed 1

prints what was tried, by kind, how many inputs ended the worker, how trials with malformed frames in
them ended, and how far its memory and the number of its threads grew.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import random
import socket
import struct
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.fuzz_target import TOKEN, Outcome, Target
from benchmarks.fuzz_trial import KINDS, Bomb, Neighbour
from pplib.errors import TransportError
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Connection, Deadline, connect
from pplib.pipeline.wire.frames import VERSION, send_message, tensor_header
from pplib.pipeline.wire.handshake import CONTROL, DATA, WATCH, Claim, greet
from pplib.pipeline.wire.plan import TensorSpec

SPEC = TensorSpec((2, 3, 4, 5), "float32", "channels_last")
LIMIT_S = 8.0
EVERY = 100  # inputs, after which the worker must serve a coordinator
TRIALS_EVERY = 40  # inputs at the ports to one in a trial, which takes longer


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` with some octets changed, cut, repeated, or put in."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(result) + 1)
        match rng.randrange(5):
            case 0 if result:
                result[min(at, len(result) - 1)] = rng.randrange(256)
            case 1:
                del result[at:]
            case 2:
                result[at:at] = rng.randbytes(rng.randint(1, 16))
            case 3:
                result[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 2**31, 2**32 - 1]))
            case _:
                result += result[: rng.randint(0, 64)]
    return bytes(result)


class Fuzzer:
    """All that is thrown at the ports of one worker."""

    def __init__(self, target: Target, rng: random.Random, folder: Path) -> None:
        self.target, self.rng, self.bomb = target, rng, pickle.dumps(Bomb(folder / "bomb"))
        self.control, self.data = target.control, target.data
        self.replayed = self._recorded_handshake()

    def _recorded_handshake(self) -> bytes:
        """What a real client once sent, byte for byte."""
        connection = connect(self.control, "target", LIMIT_S)
        sent, send = bytearray(), connection.send

        def record(parts, deadline):
            sent.extend(b"".join(bytes(part) for part in parts))
            send(parts, deadline)

        connection.send = record  # type: ignore[method-assign]
        greet(connection, TOKEN, Claim(CONTROL, "fuzz", "target"))
        connection.close()
        return bytes(sent)

    def stranger(self) -> None:
        """Somebody without the token, at one of the two ports."""
        rng = self.rng
        said = rng.choice(
            [
                rng.randbytes(rng.randint(0, 400)),
                mutated(self.replayed, rng),
                self.replayed,
                mutated(b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n", rng),
                struct.pack("<4sHxxI", b"PPCT", VERSION, rng.choice([2**32 - 1, 64 << 20])) + rng.randbytes(64),
                tensor_header(SPEC, 1, 0, False) + rng.randbytes(200),
                self.bomb,
            ]
        )
        with socket.create_connection(rng.choice([self.control, self.data]), LIMIT_S) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(said)
            if rng.random() < 0.3:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
                sock.settimeout(LIMIT_S)
                with contextlib.suppress(OSError):
                    while sock.recv(4096):
                        pass

    def known(self, where, purpose) -> Connection:
        """A connection of a peer that knows the token."""
        connection = connect(where, "target", LIMIT_S)
        greet(connection, TOKEN, Claim(purpose, "fuzz", "target"))
        return connection

    def known_control(self) -> None:
        """A coordinator that talks nonsense."""
        rng = self.rng
        request = rng.choice(
            [
                m.Describe(),
                m.Ping(),
                m.PutInputs(spec=SPEC, count=rng.choice([1, 3])),
                m.PutInputs(spec=TensorSpec((2**20, 2**20, 64), "float64"), count=2**30),
                m.PutWeights(sha256="0" * 64, offset=0, count=rng.choice([10, 2**62])),
                m.HaveWeights(sha256="f" * 64, num_bytes=64),
                m.Run(trial=1, plan_digest="x", slots=(1, 2**31), most=2**31, least=0, limit_s=None, timeout_s=0.5),
                m.TimeStage(warmup=0, count=1, pause_s=0.0),
                m.TakeTrace(),
                m.TakeOutputs(offset=2**62, count=1),
                m.CloseHops(),
                m.Abort(),
                m.OpenHops(
                    backend="socket",
                    stage_index=1,
                    peers=(("a", "127.0.0.1:1"),) * 2,
                    run="x",
                    meeting=None,
                    timeout_s=1e9,
                ),
            ]
        )
        content = m.encode(request)
        content = rng.choice([content, self.bomb, *[mutated(content, rng)] * 6])
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            if isinstance(m.decode_request(content), m.Stop):
                return
        with contextlib.closing(self.known(self.control, CONTROL)) as connection:
            deadline = Deadline(LIMIT_S, "fuzz")
            if rng.random() < 0.5:
                send_message(connection, content, deadline)
            else:
                connection.send(
                    [mutated(struct.pack("<4sHxxI", b"PPCT", VERSION, len(content)) + content, rng)], deadline
                )
            connection.send([rng.randbytes(rng.randint(1, 300))], deadline)

    def known_data(self) -> None:
        """A neighbour that introduces itself for a run nobody has, and goes on with anything."""
        with contextlib.closing(self.known(self.data, DATA)) as connection:
            said = self.rng.choice([self.rng.randbytes(self.rng.randint(0, 200)), self.bomb])
            connection.send([said], Deadline(LIMIT_S, "fuzz"))

    def watcher(self) -> None:
        """A watcher that asks for something else."""
        with contextlib.closing(self.known(self.control, WATCH)) as connection:
            content = mutated(m.encode(m.Ping()), self.rng)
            send_message(connection, content, Deadline(LIMIT_S, "fuzz"))

    def one(self) -> None:
        """One input of some kind."""
        kind = self.rng.choice([self.stranger, self.stranger, self.stranger, self.known_control, self.known_control,
                                self.known_data, self.watcher])  # fmt: skip
        self.target.outcome.tried[kind.__name__] += 1
        with contextlib.suppress(TransportError, OSError):  # being thrown out is what is wanted
            kind()
        self.target.look()


def attack(target: Target, inputs: int, seed: int, folder: Path) -> Outcome:
    """Throw `inputs` at the worker, at its ports and inside trials, and make sure again and again that it serves.

    Raises:
        RuntimeError: it ended, does not serve any more, ran code from outside, or a trial ended otherwise than it must.
    """
    rng = random.Random(seed)
    fuzzer = Fuzzer(target, rng, folder)
    with Neighbour(target, rng, folder) as neighbour:
        error = neighbour.good()  # what torch takes at its first trial is not the fuzzer's
        neighbour.leave()
        target.count_memory_from_here()
        for i in range(inputs):
            if i % TRIALS_EVERY == TRIALS_EVERY - 1:
                target.outcome.tried["trial"] += 1
                neighbour.bad(rng.choice(KINDS))
                error = max(error, neighbour.good())
                neighbour.leave()
            else:
                fuzzer.one()
            if i % EVERY == EVERY - 1:
                target.serves()
        target.serves()
        if error > 1e-3:
            raise RuntimeError(f"a good trial between malformed ones was wrong by {error}")
        if neighbour.bomb.folder.exists():
            raise RuntimeError("a pickle was loaded: its folder is there")
    target.look()
    return target.outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PARETOPIPE_CACHE"] = scratch
        with Target(Path(scratch)) as victim:
            sys.stdout.write(f"{attack(victim, options.inputs, options.seed, Path(scratch))}\n")
