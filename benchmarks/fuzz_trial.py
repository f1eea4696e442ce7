"""Malformed frames inside a running trial: stage 0 of a real pipeline, played by somebody who knows the token.

It seals its frames, as it knows the keys: octets that it changes before make another number, and no error.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pickle
import random
import re
import struct
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.fuzz_target import TOKEN, Target
from pplib.config import configuration
from pplib.errors import TransportError, WorkerError
from pplib.pipeline.coordinator.client import WorkerClient
from pplib.pipeline.stage.tensors import array_of, tensor_of
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import Connection, Deadline, name_of
from pplib.pipeline.wire.frames import TENSOR_HEADER_BYTES, tensor_header
from pplib.pipeline.wire.plan import TensorSpec
from pplib.pipeline.worker.data_port import DataPort
from pplib.sweep.experiment import prepare

CONFIG = {
    "model": "tests.helpers.models:tiny",
    "num_images": 8,
    "batch_size": 2,
    "in_flight": 2,
    "partition_points": [2],
}
POINTS = (2,)
LIMIT_S, STALLED_S, DRIP_S = 30.0, 2.5, 0.1
COUNT_AT = 20  # where the number of bytes stands in a frame's header


@dataclass(frozen=True)
class Bomb:
    """Whoever unpickles it makes a folder."""

    folder: Path

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@dataclass(frozen=True)
class Attack:
    """Octets sent in place of a good frame, what follows them, and the error that has to come of it."""

    data: bytes
    error: str
    then: str = "wait"  # or close, or drip


class Neighbour:
    """Stage 0 of a pipeline whose stage 1 is the target. Use it as a context manager."""

    def __init__(self, target: Target, rng: random.Random, folder: Path) -> None:
        self.target, self.rng, self.bomb = target, rng, Bomb(folder / "bomb")
        self.experiment = prepare(configuration(CONFIG))
        self.plan = self.experiment.plan(POINTS)
        self.spec = self.plan.tensors[1]
        first = self.experiment.partitioned.stages(POINTS)[0]
        with torch.inference_mode():
            outputs = [first(batch) for batch in self.experiment.batches]
        self.payloads = [bytes(self.spec.bytes_of(self.spec.laid_out(array_of(one)))) for one in outputs]
        self._port = DataPort("neighbour", "127.0.0.1", 0, TOKEN)
        self._pool = concurrent.futures.ThreadPoolExecutor(2)
        self._trial = 0
        self._client: WorkerClient | None = None

    def __enter__(self) -> Neighbour:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._pool.shutdown()
        self._port.close()

    def leave(self) -> None:
        """End the session; the next trial begins another."""
        if self._client is not None:
            self._client.close()
        self._client = None

    @contextlib.contextmanager
    def _running(
        self, timeout_s: float, most: int = 9
    ) -> Iterator[tuple[Connection, concurrent.futures.Future[m.Reply]]]:
        """A trial that the target has begun: the connection to it, and its answer to come."""
        if self._client is None:
            self._client = WorkerClient("target", self.target.control, TOKEN)
            self._client.request(m.Prepare(plan=self.plan, stage_index=1), 60)
        run, self._trial = uuid.uuid4().hex, self._trial + 1
        peers = (("neighbour", name_of(("127.0.0.1", self._port.port))), ("target", name_of(self.target.data)))
        request = m.OpenHops(backend="socket", stage_index=1, peers=peers, run=run, meeting=None, timeout_s=10)
        opened = self._pool.submit(self._client.request, request, 20)
        with (
            contextlib.closing(self._port.reach(peers[1], run, 0, 10, 1)) as onward,
            contextlib.closing(self._port.expect("target", run, 1, 10, 0)),
        ):
            opened.result()
            begin = m.Run(
                trial=self._trial,
                plan_digest=self.plan.digest,
                slots=(self.plan.in_flight,) * 2,
                most=most,
                least=1,
                limit_s=None,
                timeout_s=timeout_s,
            )
            yield onward, self._pool.submit(self._client.request, begin, timeout_s + 15)

    def _frame(self, seq: int, last: bool) -> bytes:
        return tensor_header(self.spec, self._trial, seq, last) + self.payloads[seq % len(self.payloads)]

    @staticmethod
    def _sealed(onward: Connection, frame: bytes) -> bytes:
        assert onward.seals is not None
        return frame + onward.seals.sending.of([frame])

    def good(self, flipped: int = 0) -> float:
        """A trial that has to be right, but for `flipped` octets of its payload; the largest error of its outputs."""
        with self._running(LIMIT_S, most=3) as (onward, running):
            for seq in range(3):
                frame = bytearray(self._frame(seq, seq == 2))
                for _ in range(flipped):
                    frame[self.rng.randrange(TENSOR_HEADER_BYTES, len(frame))] ^= 1
                onward.send([self._sealed(onward, bytes(frame))], Deadline(10, "frame"))
            running.result()
        trace = self._client.expect(m.TakeTrace(), m.Trace, 10)
        outputs = self._client.take_outputs(trace.num_outputs, self.plan.tensors[-1], 10)
        self.target.outcome.trials_served += 1
        references = self.experiment.references
        return max(
            float((tensor_of(one) - references[i % len(references)]).abs().max()) for i, one in enumerate(outputs)
        )

    def bad(self, kind: str) -> None:
        """A trial that has to fail in time, with an error that names us, what was expected and what came."""
        after = self.rng.randrange(3)
        timeout_s = STALLED_S if kind in ("stall", "drip") else LIMIT_S
        with self._running(timeout_s) as (onward, running):
            for seq in range(after):
                onward.send([self._sealed(onward, self._frame(seq, False))], Deadline(10, "frame"))
            attack = self._attack(kind, after, onward)
            begun = time.monotonic()
            with contextlib.suppress(TransportError):  # it may have thrown us out before the end
                onward.send([attack.data], Deadline(10, "frame"))
            if attack.then == "close":
                onward.close()
            if attack.then == "drip":
                for octet in self._frame(after, False)[len(attack.data) :]:
                    if concurrent.futures.wait([running], timeout=DRIP_S).done:
                        break
                    with contextlib.suppress(TransportError):  # it has had enough
                        onward.send([bytes([octet])], Deadline(10, "drip"))
            try:
                running.result()
            except WorkerError as exc:
                if not re.search(attack.error, str(exc)):
                    raise RuntimeError(f"{kind} after {after}: expected {attack.error!r}, got: {exc}") from exc
            else:
                raise RuntimeError(f"{kind} after {after}: the trial did not fail")
            if time.monotonic() - begun > timeout_s + 5:
                raise RuntimeError(f"{kind} after {after}: the trial went on after its limit of {timeout_s} s")
        self.target.outcome.trials_failed += 1

    def _attack(self, kind: str, seq: int, onward: Connection) -> Attack:
        rng, spec, trial = self.rng, self.spec, self._trial
        frame = self._frame(seq, False)
        expected = rf"expected microbatch {seq} of trial {trial} as {re.escape(str(spec))} in {spec.num_bytes} bytes"
        refused = rf"neighbour: sent microbatch \d+ of trial \d+ as .* in \d+ bytes, {expected}"
        gone = rf"neighbour: (closed the connection|connection lost).*; {expected}"
        silent = rf"neighbour: trial: not done within \d+ s( after \d+ of \d+ bytes)?; {expected}"
        no_frame = "neighbour: sent something that is no tensor frame"

        def header(shape=spec.shape, dtype=spec.dtype, layout=spec.layout, trial=trial, seq=seq):
            return tensor_header(TensorSpec(shape, dtype, layout), trial, seq, False) + frame[TENSOR_HEADER_BYTES:]

        match kind:
            case "dtype":
                return Attack(header(dtype=rng.choice(["float16", "float64", "int8", "bool"])), refused)
            case "shape":
                return Attack(
                    header(shape=rng.choice([(1, *spec.shape[1:]), spec.shape[::-1], (2**30, 2**30)])), refused
                )
            case "layout":
                return Attack(
                    header(layout="contiguous" if spec.layout == "channels_last" else "channels_last"), refused
                )
            case "trial":
                return Attack(header(trial=rng.choice([0, trial - 1, trial + 1, 2**32 - 1])), refused)
            case "seq":
                return Attack(header(seq=rng.choice([seq + 1, seq + 7, 2**32 - 1])), refused)
            case "length":
                huge = struct.pack("<Q", rng.choice([0, 2**31, 2**62, 2**64 - 1]))
                return Attack(frame[:COUNT_AT] + huge + frame[COUNT_AT + 8 :], refused)
            case "flip":
                data = bytearray(frame)
                data[rng.randrange(TENSOR_HEADER_BYTES)] ^= rng.randrange(1, 256)
                if data[:TENSOR_HEADER_BYTES] == tensor_header(spec, trial, seq, True):
                    data[0] ^= 1  # that was a good frame: the last of its trial
                return Attack(bytes(data), f"{refused}|{no_frame}")
            case "content":
                data = bytearray(self._sealed(onward, frame))
                data[rng.randrange(TENSOR_HEADER_BYTES, len(data))] ^= rng.randrange(1, 256)
                return Attack(bytes(data), rf"neighbour: microbatch {seq} of trial {trial} is not what its sender sent")
            case "last":
                early = self._sealed(onward, self._frame(seq, True))
                return Attack(early, rf"neighbour: said that microbatch {seq} is the last.*expected")
            case "noise":
                return Attack(rng.randbytes(rng.randint(TENSOR_HEADER_BYTES, 4096)), no_frame)
            case "pickle":
                return Attack(pickle.dumps(self.bomb).ljust(TENSOR_HEADER_BYTES, b"."), no_frame)
            case "cut":
                return Attack(frame[: rng.randrange(len(frame))], gone, "close")
            case "cut header":
                return Attack(frame[: rng.randrange(TENSOR_HEADER_BYTES)], gone, "close")
            case "stall":
                return Attack(frame[: rng.randrange(len(frame))], silent)
            case "drip":
                return Attack(frame[: rng.randrange(len(frame) - 100)], silent, "drip")
        raise ValueError(kind)


KINDS = (
    "dtype", "shape", "layout", "trial", "seq", "length", "flip", "content", "last", "noise", "pickle", "cut",
    "cut header", "stall", "drip",
)  # fmt: skip
