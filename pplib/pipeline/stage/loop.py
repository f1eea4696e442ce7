"""The stage loop: receive, compute and send overlap; the same for every backend."""

from __future__ import annotations

import contextlib
import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from pplib import limits
from pplib.errors import ProtocolError, TransportError, WorkerError
from pplib.pipeline.hops.contract import Hops
from pplib.pipeline.process.memory import memory_for
from pplib.pipeline.process.threads import Companion
from pplib.pipeline.stage.length import Length
from pplib.pipeline.stage.runners import Runner, run_slowed
from pplib.pipeline.wire.codecs import Codec
from pplib.pipeline.wire.connection import Deadline
from pplib.pipeline.wire.messages import Moments
from pplib.pipeline.wire.plan import TensorSpec
from pplib.runtimes import Array

T = TypeVar("T")


class _Microbatch(NamedTuple):
    """What passes from thread to thread: an array, the slot it takes on stages that receive, and whether it is the
    last. Some backends bring memory of their own; a slot is taken all the same, for it stands for room.
    """

    array: Array
    slot: Array | None
    last: bool


class Halt:
    """The first thing that went wrong in any of a stage's threads; it stops them all."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._cause: Exception | None = None
        self._lock = threading.Lock()

    def set(self, cause: Exception) -> None:
        """Keep `cause` unless there is an earlier one."""
        with self._lock:
            self._cause = self._cause or cause
        self._event.set()

    def check(self) -> None:
        """Raise the cause, if any."""
        if self._event.is_set() and self._cause is not None:
            raise self._cause


class StageLoop:
    """Runs one stage for one trial.

    Args:
        runner: the stage.
        stage_index, num_stages: its place.
        tensor_in, tensor_out: the specs of the two activations.
        in_flight: microbatches admitted to stage 0 whose result is not back there yet.
        slots: microbatches that this stage and the next one have room for; where that is less than
            `in_flight`, a stage says when it has room, and the one before it waits for that.
        inputs: the images, on stage 0; microbatch m takes inputs[m % len(inputs)].
        slowdown: compute takes this factor longer; the rest is slept. Encoding and decoding are computing, too.
        decoder, encoder: of the activations that come and go; None: they cross as they are.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        stage_index: int,
        num_stages: int,
        tensor_in: TensorSpec,
        tensor_out: TensorSpec,
        result: TensorSpec,
        in_flight: int,
        slots: tuple[int, int],
        inputs: Sequence[Array] = (),
        slowdown: float = 1.0,
        decoder: Codec | None = None,
        encoder: Codec | None = None,
    ) -> None:
        self._stage_index = stage_index
        self.is_first, self.is_last = stage_index == 0, stage_index == num_stages - 1
        self._runner, self._inputs, self._slowdown = runner, inputs, slowdown
        self._in, self._out, self._result = tensor_in, tensor_out, result
        self._in_flight, self._slots = in_flight, slots[0]
        self._tells_room = not self.is_first and slots[0] < in_flight
        self._awaits_room = not self.is_last and slots[1] < in_flight
        self._decoder, self._encoder = decoder, encoder
        self._carried_in = decoder.carried if decoder else tensor_in
        self._carried_out = encoder.carried if encoder else tensor_out
        self.trace = Moments()
        self._carried_bytes: list[int] = []
        self._last_seq: int | None
        self.outputs: list[Array] = []
        self.halt = Halt()

    def run(self, hops: Hops, trial: int, length: Length, deadline: Deadline) -> None:
        """Pass as many microbatches through as `length` says; the trace is complete when this returns.

        Stage 0 decides which one is the last; the others learn it as it comes.

        Raises:
            TransportError: a peer was lost or the deadline passed; the hops are aborted.
            WorkerError: there was not enough memory; the hops are aborted.
        """
        with memory_for(f"stage {self._stage_index} while it ran"):
            self._run(hops, trial, length, deadline)

    def _run(self, hops: Hops, trial: int, length: Length, deadline: Deadline) -> None:
        self._hops, self._length, self._deadline = hops, length, deadline
        self._admitted, self._last_seq = 0, None
        self._arrived: queue.SimpleQueue[_Microbatch] = queue.SimpleQueue()
        self._leaving: queue.SimpleQueue[_Microbatch] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[Array] = queue.SimpleQueue()
        self._credits: queue.SimpleQueue[None] = queue.SimpleQueue()
        hops.sender.start(self._carried_out, trial)
        hops.receiver.start(self._result if self.is_first else self._carried_in, trial)
        receive = self._receive_results if self.is_first else self._receive_inputs
        if self.is_first:
            for _ in range(self._in_flight):
                self._credits.put(None)
        else:
            for _ in range(self._slots):
                self._free.put(self._carried_in.allocate())
        threads = [
            Companion(functools.partial(self._guarded, job), job.__name__.strip("_")) for job in (receive, self._send)
        ]
        try:
            for thread in threads:
                thread.start()
            self._compute()
        except Exception as exc:  # noqa: BLE001 (raised again when all threads have ended)
            self._fail(exc)
        for thread in threads:
            thread.join(deadline.left_s + 5)
            if thread.is_alive():
                self._fail(TransportError(f"{thread.name}: did not end with the trial"))
        self.halt.check()

    def stop(self, cause: Exception) -> None:
        """End the trial from another thread."""
        self._fail(cause)

    def _fail(self, cause: Exception) -> None:
        self.halt.set(cause)
        if hasattr(self, "_hops"):
            self._hops.abort()

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as exc:  # noqa: BLE001 (raised again when all threads have ended)
            self._fail(exc)

    def _get(self, source: queue.SimpleQueue[T]) -> T:
        while True:
            self.halt.check()
            self._deadline.check()  # also where something always comes
            with contextlib.suppress(queue.Empty):
                return source.get(timeout=limits.HOP_POLL_S)

    def _receive_inputs(self) -> None:
        for seq in itertools.count():
            slot = self._get(self._free)
            self.trace.ready_ns.append(time.monotonic_ns())
            if self._tells_room:
                self._hops.receiver.grant(self._deadline)
            array, received, last = self._hops.receiver.receive(seq, slot, self._deadline)
            self._length.check(seq, last, self._hops.receiver.peer)
            self.trace.received_ns.append(received)
            if self._decoder is not None:
                array = self._timed(self._decoder.decode, array, self.trace.decode_ns)
            self._arrived.put(_Microbatch(array, slot, last))
            if last:
                return

    def _receive_results(self) -> None:
        slot = self._result.allocate()
        for seq in itertools.count():
            _, received, last = self._hops.receiver.receive(seq, slot, self._deadline)
            if seq >= self._admitted or last != (seq == self._last_seq):
                end = "not decided yet" if self._last_seq is None else self._last_seq
                raise ProtocolError(
                    f"{self._hops.receiver.peer}: sent result {seq}{' as the last' if last else ''}, expected one of "
                    f"{self._admitted} microbatches that were admitted, the last of which is {end}"
                )
            self.trace.returned_ns.append(received)
            if last:
                return
            self._credits.put(None)

    def _send(self) -> None:
        for seq in itertools.count():
            array, slot, last = self._get(self._leaving)
            if self._encoder is not None:
                array = self._timed(self._encoder.encode, array, self.trace.encode_ns)
            self._carried_bytes.append(array.nbytes)
            if self._awaits_room:
                self._hops.sender.wait_for_room(self._deadline)
            self.trace.send_start_ns.append(time.monotonic_ns())
            self._hops.sender.send(seq, array, last, self._deadline)
            if slot is not None:
                self._free.put(slot)
            if last:
                break
        self._hops.sender.flush(self._deadline)

    def _timed(self, change: Callable[[Array], Array], array: Array, taken_ns: list[int]) -> Array:
        """What `change` makes of an array; how long that took is added to `taken_ns`."""
        start = time.monotonic_ns()
        changed = change(array)
        if self._slowdown > 1:
            time.sleep((self._slowdown - 1) * (time.monotonic_ns() - start) * 1e-9)
        taken_ns.append(time.monotonic_ns() - start)
        return changed

    def payload_bytes(self, most: int) -> int:
        """What a microbatch put on the wire, on average, where the largest that may be would have put `most`."""
        if not self._carried_bytes:
            return most
        return most - self._carried_out.num_bytes + round(sum(self._carried_bytes) / len(self._carried_bytes))

    def _next(self, seq: int) -> _Microbatch:
        if not self.is_first:
            return self._get(self._arrived)
        self._get(self._credits)
        admitted = time.monotonic_ns()
        self.trace.ready_ns.append(admitted)
        self.trace.received_ns.append(admitted)
        last = self._length.ends_with(seq, (admitted - self.trace.received_ns[0]) * 1e-9, self._in_flight)
        self._admitted, self._last_seq = seq + 1, seq if last else None
        return _Microbatch(self._inputs[seq % len(self._inputs)], None, last)

    def _compute(self) -> None:
        trace = self.trace
        for seq in itertools.count():
            array, slot, last = self._next(seq)
            output, copied, start, end = run_slowed(self._runner, array, self._slowdown)
            trace.compute_start_ns.append(start)
            trace.compute_end_ns.append(end)
            trace.copy_ns.append(copied)
            got, expected = (output.shape, output.dtype), (self._out.shape, self._out.array_dtype)
            if got != expected:
                raise WorkerError(
                    f"stage {self._stage_index}: microbatch {seq} came out as {got[1]} {got[0]}, expected {self._out}: "
                    "its shape depends on more than the input's shape, which cannot be cut"
                )
            if self.is_last:  # the runner, and whoever receives into the slot, use that memory again
                self.outputs.append(output.copy(order="K"))
            self._leaving.put(_Microbatch(output, slot, last))
            if last:
                return
