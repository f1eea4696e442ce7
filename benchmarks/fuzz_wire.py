"""Malformed frames, messages and handshakes: each must be one error of ours, or be read, and soon.

    python benchmarks/fuzz_wire.py --count 1000000 --seed 0

The first part gives octets to what a worker, a coordinator and a neighbour read with, over real sockets whose other
end is closed, so that what is left out is seen at once: frames, sealed ones too; requests and answers; both sides of
the handshake, by strangers and by those who know the token. The second part, `--live`, throws the same kinds at the
ports of a worker that runs, and into its trials. Reported: inputs, read, errors of ours, raw exceptions with their
inputs' numbers, hangs, the slowest, the growth of memory. The exit status is 1 where there was a raw exception, a
hang, or a crash.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.fuzz_live import attack, mutated  # noqa: E402
from benchmarks.fuzz_target import Target  # noqa: E402
from pplib.errors import ParetoPipeError  # noqa: E402
from pplib.model.partition import split  # noqa: E402
from pplib.model.stages.describe import describe  # noqa: E402
from pplib.pipeline.hops.socket import SocketReceiver, SocketSender  # noqa: E402
from pplib.pipeline.monitor.usage import Usage  # noqa: E402
from pplib.pipeline.wire import handshake  # noqa: E402
from pplib.pipeline.wire import messages as m  # noqa: E402
from pplib.pipeline.wire.codecs import Codec  # noqa: E402
from pplib.pipeline.wire.connection import Connection, Deadline  # noqa: E402
from pplib.pipeline.wire.frames import MAX_REQUEST_BYTES, receive_message, send_message, tensor_header  # noqa: E402
from pplib.pipeline.wire.handshake import CONTROL, DATA, WATCH, Claim  # noqa: E402
from pplib.pipeline.wire.plan import Encoding, PipelinePlan, TensorSpec  # noqa: E402
from pplib.pipeline.wire.seal import Seal, Seals  # noqa: E402

HANG_S = 10  # of one input; what waits for more than it got would wait for its limit of `SOON_S`
SOON_S = 60.0
TOKEN = bytes(range(32))
NAME = "worker"
SPEC = TensorSpec((2, 3, 4, 5), "float32", "channels_last")
Reader = Callable[[Connection], object]
Case = tuple[bytes, Reader]


class Hang(BaseException):
    """An input took longer than `HANG_S`."""


def plan() -> PipelinePlan:
    """A plan with modules in it, the longest of the messages."""
    stages = split(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval(), (1,))
    return PipelinePlan(
        model="x",
        weights_sha256="0" * 64,
        granularity="block",
        points=(1,),
        optimize=True,
        in_flight=2,
        tensors=(SPEC,) * 3,
        stages=tuple(describe(one) for one in stages),
    )


def requests() -> list[m.Request]:
    """One of each kind."""
    peers = (("a", "127.0.0.1:1"), ("b", "/run/b"))
    return [
        m.Describe(), m.Ping(), m.CloseHops(), m.TakeTrace(), m.Abort(), m.Stop(),
        m.PutInputs(spec=SPEC, count=2),
        m.HaveWeights(sha256="f" * 64, num_bytes=64),
        m.PutWeights(sha256="0" * 64, offset=0, count=10),
        m.OpenHops(backend="rpc", stage_index=0, peers=peers, run="x" * 32, meeting="/run/m", timeout_s=9.0),
        m.OpenMeeting(backend="rpc", host="127.0.0.1", port=0),
        m.Probe(what="echo", leads=True, connects=False, run="x", stage_index=0, peer=peers[0], settle_s=0.1,
                window_s=1.0, ahead_bytes=None, timeout_s=9.0),
        m.Prepare(plan=plan(), stage_index=1),
        m.Run(trial=1, slots=(2, 2), plan_digest="x", most=9, least=1, limit_s=None, timeout_s=9.0),
        m.TimeStage(warmup=1, count=2, pause_s=0.1),
        m.TakeOutputs(offset=0, count=9),
    ]  # fmt: skip


def replies() -> list[m.Reply]:
    """One of each kind."""
    moments = m.Moments(*[[1, 2**40] for _ in m.Moments.__struct_fields__])
    return [
        m.Description(name="a", boot_id="x", pid=1, host={"cpu": "x", "threads": 1}, data_host="127.0.0.1", data_port=1,
                      backends=("socket",), rpc_groups=0, prefetch=None, runtimes={"eager": "1"}, unfit={},
                      no_bfloat16="x"),
        m.Pong(monotonic_ns=2**50),
        m.Done(value=3),
        m.Probed(rtts_s=[1e-4] * 9),
        m.Prepared(build_s=0.1, param_bytes=4, resident_bytes=9),
        m.Trace(moments=moments, payload_bytes=9, num_outputs=1, usage=Usage(duration_s=1.0)),
        m.Content(content=b"x" * 20),
        m.Failed(kind="ValueError", message="x"),
    ]  # fmt: skip


class Inputs:
    """Makes inputs: for each kind octets, and what reads them."""

    def __init__(self) -> None:
        self.requests = [m.encode(one) for one in requests()]
        self.replies = [m.encode(one) for one in replies()]
        self.slot = SPEC.allocate()
        ways = (Encoding("int8", "zstd", (0.0,), (1.0,)), Encoding("float32", "lz4"))
        self.codecs = [Codec(SPEC, one) for one in ways]
        self.kinds: dict[str, Callable[[random.Random], Case]] = {
            "frames": self.frame,
            "encoded frames": self.encoded_frame,
            "sealed frames": self.sealed_frame,
            "grants": self.grant,
            "requests": lambda chance: self.message(chance, self.requests, m.decode_request, MAX_REQUEST_BYTES),
            "answers": lambda chance: self.message(chance, self.replies, m.decode_reply, 1 << 26),
            "clients without the token": lambda chance: self.client(chance, os.urandom(32)),
            "clients with the token": lambda chance: self.client(chance, TOKEN),
            "servers": self.server,
        }

    def _receive(self, connection: Connection) -> object:
        receiver = SocketReceiver(connection)
        receiver.start(SPEC, 1)
        return receiver.receive(3, self.slot, Deadline(SOON_S, "frame"))

    def frame(self, chance: random.Random) -> Case:
        """An activation, not sealed."""
        whole = tensor_header(SPEC, 1, 3, bool(chance.randrange(2))) + bytes(SPEC.num_bytes)
        return mutated(whole, chance), self._receive

    def encoded_frame(self, chance: random.Random) -> Case:
        """An activation that was quantised and compressed: its compressed content malformed, or all of it."""
        codec = chance.choice(self.codecs)
        carried = codec.encode(np.zeros(SPEC.shape, np.float32))
        content = mutated(carried.tobytes(), chance)[: codec.carried.num_bytes]
        spec = TensorSpec((len(content),), "uint8")
        whole = tensor_header(spec, 1, 3, False) + content if content else b""

        def read(connection: Connection) -> object:
            receiver = SocketReceiver(connection)
            receiver.start(codec.carried, 1)
            return codec.decode(receiver.receive(3, codec.carried.allocate(), Deadline(SOON_S, "frame")).array)

        return mutated(whole, chance) if chance.randrange(2) else whole, read

    def sealed_frame(self, chance: random.Random) -> Case:
        """An activation whose content, header or tag was changed, after it was sealed or before."""
        key, whole = chance.randbytes(32), tensor_header(SPEC, 1, 3, False) + chance.randbytes(SPEC.num_bytes)
        whole = whole if chance.randrange(2) else mutated(whole, chance)
        whole += Seal(key).of([whole])
        sent = mutated(whole, chance) if chance.randrange(4) else whole

        def read(connection: Connection) -> object:
            connection.seals = Seals(Seal(key), Seal(key))
            return self._receive(connection)

        return sent, read

    def grant(self, chance: random.Random) -> Case:
        """The word that there is room."""
        key = chance.randbytes(32)
        grant = b"\1" + Seal(key).of([b"\1"])

        def read(connection: Connection) -> object:
            connection.seals = Seals(Seal(key), Seal(key))
            return SocketSender(connection).wait_for_room(Deadline(SOON_S, "room"))

        return mutated(grant, chance), read

    def message(self, chance: random.Random, whole: list[bytes], decode: Callable[[bytes], object], limit: int) -> Case:
        """A message: malformed in a frame that is right, or with its frame."""
        content = mutated(chance.choice(whole), chance)
        match chance.randrange(20):
            case 0:
                content = chance.choice((b"\x91", b"\x81\xa1a", b"\xdd\xff\xff\xff\xff")) * chance.randrange(9000)
            case 1:
                content = chance.randbytes(chance.randrange(300))
        sent = framed(content)
        if not chance.randrange(4):
            sent = mutated(sent, chance)
        return sent, lambda connection: decode(receive_message(connection, Deadline(SOON_S, "message"), limit))

    def client(self, chance: random.Random, token: bytes) -> Case:
        """What a client says to a port: its claim malformed before it was proved, or all of it afterwards."""
        purpose = chance.choice((CONTROL, WATCH, DATA))
        challenge = handshake._greeting(CONTROL, handshake.__version__)
        claim = Claim(purpose, "somebody", NAME, "x", 0, 1, bool(chance.randrange(2))).packed()
        greeting = handshake._greeting(purpose, handshake.__version__)
        if chance.randrange(2):
            claim = mutated(claim, chance)[: len(claim)].ljust(len(claim), b"\xff")
        ours = greeting + claim
        sent = ours + handshake._proof(token, b"client", challenge + ours)
        sent = mutated(sent, chance) if chance.randrange(2) else sent

        def read(connection: Connection) -> object:
            greeted, handshake._greeting = handshake._greeting, lambda purpose, version: challenge
            try:
                return handshake.admit(connection, TOKEN, (CONTROL, WATCH) if purpose != DATA else (DATA,), NAME)
            finally:
                handshake._greeting = greeted

        return sent, read

    def server(self, chance: random.Random) -> Case:
        """What answers a client: a greeting and a proof, malformed, reflected, or somebody else's."""
        claim = Claim(chance.choice((CONTROL, WATCH, DATA)), "somebody", NAME, "x", 0, 1, True)
        greeting = handshake._greeting(chance.choice((CONTROL, DATA)), handshake.__version__)
        sent = greeting + handshake._proof(TOKEN, b"server", greeting)
        return mutated(sent, chance), lambda connection: handshake.greet(connection, TOKEN, claim)


def framed(content: bytes) -> bytes:
    """A message as it goes over the wire."""
    said: list[bytes] = []

    class Recorder:
        def send(self, parts: Sequence[bytes], deadline: Deadline) -> None:
            said.extend(parts)

    send_message(Recorder(), content, Deadline(SOON_S, "message"))  # type: ignore[arg-type]
    return b"".join(said)


def read_one(sent: bytes, read: Reader) -> object:
    """Give octets to what reads them; the other end takes whatever is answered, and says no more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        return read(Connection(ours, "peer"))


def fuzz(kind: str, inputs: Inputs, count: int, seed: int) -> dict[str, object]:
    """Read `count` inputs of a kind; what came of them."""
    found: Counter[str] = Counter(dict.fromkeys(("read", "errors", "raw", "hangs"), 0))
    raw: list[str] = []
    process, begun_at = psutil.Process(), time.monotonic()
    slowest, before = (0.0, 0), process.memory_info().rss
    for i in range(count):
        chance = random.Random(f"{kind} {seed} {i}")
        sent, read = inputs.kinds[kind](chance)
        begun = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, HANG_S)
        try:
            read_one(sent, read)
            found["read"] += 1
        except ParetoPipeError:
            found["errors"] += 1
        except Hang:
            found["hangs"] += 1
            raw.append(f"--seed {seed}, {kind} {i}: longer than {HANG_S} s: {traceback.format_exc(limit=-3)}")
        except Exception:  # noqa: BLE001 (this is what is looked for)
            found["raw"] += 1
            raw.append(f"--seed {seed}, {kind} {i}: {traceback.format_exc(limit=-3)}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, (time.monotonic() - begun, i))
        if i == min(1000, count // 2):
            before = process.memory_info().rss  # what is loaded once is loaded by now
    return {
        **found,
        "seconds": round(time.monotonic() - begun_at, 1),
        "slowest_s": round(slowest[0], 3),
        "growth_mb": round((process.memory_info().rss - before) / 1e6, 1),
        "failures": raw,
    }


def hang(*_: object) -> None:
    """The alarm of an input that takes too long."""
    raise Hang


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz all that reads from a socket, then a worker that runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="inputs of all kinds together")
    parser.add_argument("--live", type=int, help="of these, at a worker that runs; default: one of 200")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    live = options.count // 200 if options.live is None else options.live
    signal.signal(signal.SIGALRM, hang)
    inputs, bad = Inputs(), False
    print(f"{'kind':26} {'inputs':>8} {'read':>8} {'errors':>8} {'raw':>4} {'hangs':>5} {'s':>7} {'slowest s':>9} MB")
    for kind in inputs.kinds:
        count = (options.count - live) // len(inputs.kinds)
        one = fuzz(kind, inputs, count, options.seed)
        bad |= bool(one["failures"])
        cells = f"{one['read']:>8} {one['errors']:>8} {one['raw']:>4} {one['hangs']:>5} {one['seconds']:>7}"
        print(f"{kind:26} {count:>8} {cells} {one['slowest_s']:>9} {one['growth_mb']:+}", flush=True)
        failures = one["failures"]
        assert isinstance(failures, list)
        print(*failures[:5], sep="\n", end="", flush=True)
    if live:
        with tempfile.TemporaryDirectory(prefix="fuzz-wire-") as folder:
            os.environ["PARETOPIPE_CACHE"] = folder
            with Target(Path(folder)) as target:
                print(f"a worker that runs: {attack(target, live, options.seed, Path(folder))}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
