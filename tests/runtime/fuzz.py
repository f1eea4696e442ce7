"""Throw malformed input at a real worker: strangers at both its ports, and peers that know the token.

    python -m tests.runtime.fuzz --inputs 5000 --seed 1

prints how many inputs were tried, how many ended the worker, and how far its memory grew.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from pplib.errors import ParetoPipeError, TransportError
from pplib.runtime import messages as m
from pplib.runtime.client import WorkerClient
from pplib.runtime.connection import Connection, Deadline, connect, endpoint_of
from pplib.runtime.handshake import CONTROL, DATA, greet
from pplib.runtime.plan import TensorSpec
from pplib.runtime.wire import VERSION, send_message, tensor_header

TOKEN = secrets.token_bytes(32)
SPEC = TensorSpec((2, 3, 4, 5), "float32", "channels_last")
LIMIT_S = 8.0


@dataclass
class Outcome:
    """What a run of the fuzzer found; memory in bytes, of the worker's resident set."""

    inputs: int = 0
    crashes: int = 0
    memory_before_bytes: int = 0
    memory_peak_bytes: int = 0

    def __str__(self) -> str:
        grown = (self.memory_peak_bytes - self.memory_before_bytes) / 1e6
        return f"inputs tried {self.inputs}, crashes {self.crashes}, memory grew by at most {grown:.1f} MB"


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
    """One worker and all that is thrown at it."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng, self.outcome = random.Random(seed), Outcome()
        code = "from pplib.runtime.serve import main; main(('socket',))"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "--name", "target", "--control", "127.0.0.1:0"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(TOKEN.hex().encode() + b"\n")
        self.process.stdin.flush()
        control = endpoint_of(msgspec.json.decode(self.process.stdout.readline())["control"])
        assert isinstance(control, tuple)
        self.control = control
        self.log = folder / "log"
        with self.client() as client:
            self.data = (client.description.data_host, client.description.data_port)
        self.replayed = self._recorded_handshake()
        self._look()
        self.outcome.memory_before_bytes = self.outcome.memory_peak_bytes

    @contextlib.contextmanager
    def client(self):
        """The proof that the worker lives: a coordinator that is served."""
        client = WorkerClient("target", self.control, TOKEN)
        try:
            yield client
        finally:
            client.close()

    def close(self) -> None:
        """End the worker."""
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()

    def _look(self) -> None:
        if self.process.poll() is not None:
            self.outcome.crashes += 1
            raise RuntimeError(f"the worker ended: {self.log.read_text()[-3000:]}")
        memory = psutil.Process(self.process.pid).memory_info().rss
        self.outcome.memory_peak_bytes = max(self.outcome.memory_peak_bytes, memory)

    def _recorded_handshake(self) -> bytes:
        """What a real client once sent, byte for byte."""
        connection = connect(self.control, "target", LIMIT_S)
        sent, send = bytearray(), connection.send

        def record(parts, deadline):
            sent.extend(b"".join(bytes(part) for part in parts))
            send(parts, deadline)

        connection.send = record  # type: ignore[method-assign]
        greet(connection, TOKEN, CONTROL)
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

    def _known(self, where, purpose) -> Connection:
        connection = connect(where, "target", LIMIT_S)
        greet(connection, TOKEN, purpose)
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
                m.HaveWeights(sha256="f" * 64),
                m.Run(trial=1, plan_digest="x", most=2**31, least=0, limit_s=None, timeout_s=0.5),
                m.CloseHops(),
                m.Abort(),
            ]
        )
        content = m.encode(request)
        content = mutated(content, rng) if rng.random() < 0.8 else content
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            if isinstance(m.decode_request(content), m.Stop):
                return
        with contextlib.closing(self._known(self.control, CONTROL)) as connection:
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
        with contextlib.closing(self._known(self.data, DATA)) as connection:
            connection.send([self.rng.randbytes(self.rng.randint(0, 200))], Deadline(LIMIT_S, "fuzz"))

    def run(self, inputs: int) -> Outcome:
        """Throw `inputs` at the worker, and make sure again and again that it lives and serves."""
        kinds = [self.stranger, self.stranger, self.known_control, self.known_data]
        for i in range(inputs):
            with contextlib.suppress(TransportError, OSError):  # being thrown out is what is wanted
                self.rng.choice(kinds)()
            self.outcome.inputs += 1
            self._look()
            if i % 100 == 99:
                self._serves()
        self._serves()
        return self.outcome

    def _serves(self) -> None:
        try:
            with self.client() as client:
                client.ping()
        except ParetoPipeError as exc:
            self.outcome.crashes += 1
            raise RuntimeError(f"the worker does not serve any more: {exc}: {self.log.read_text()[-3000:]}") from exc


def fuzz(inputs: int, seed: int) -> Outcome:
    """Fuzz a worker of its own."""
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(seed, Path(folder))
        try:
            return fuzzer.run(inputs)
        finally:
            fuzzer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.stdout.write(f"{fuzz(options.inputs, options.seed)}\n")
