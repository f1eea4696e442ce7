"""The stage loop: receive, compute and send overlap; the same for every backend."""

from __future__ import annotations

import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch

from pplib.errors import TransportError
from pplib.runtime.connection import Deadline
from pplib.runtime.hops import POLL_S, Hops
from pplib.runtime.memory import memory_for
from pplib.runtime.plan import TensorSpec
from pplib.runtime.threads import Companion

T = TypeVar("T")
Runner = Callable[[torch.Tensor], tuple[torch.Tensor, int]]


@dataclass
class StageTrace:
    """Monotonic ns of this process, one entry per microbatch, in sequence order; see `StageTimeline`."""

    ready_ns: list[int] = field(default_factory=list)
    received_ns: list[int] = field(default_factory=list)
    compute_start_ns: list[int] = field(default_factory=list)
    compute_end_ns: list[int] = field(default_factory=list)
    copy_ns: list[int] = field(default_factory=list)
    send_start_ns: list[int] = field(default_factory=list)
    returned_ns: list[int] = field(default_factory=list)


class _Microbatch(NamedTuple):
    """What passes from thread to thread: a tensor, the slot it occupies if any, and whether it is the last."""

    tensor: torch.Tensor
    slot: torch.Tensor | None
    last: bool


@dataclass(frozen=True)
class Length:
    """How many microbatches a trial has: `most`, or fewer, but never less than `least`, so that it ends
    about `limit_s` after its first admission.
    """

    most: int
    least: int
    limit_s: float | None = None

    def ends_with(self, seq: int, elapsed_s: float, in_flight: int) -> bool:
        """Whether microbatch `seq`, admitted after `elapsed_s`, is the last.

        It is if one more would end after the limit, at the pace so far: of the `seq + 1` admitted,
        those in flight are not finished yet.

        >>> Length(10, 3, limit_s=10.0).ends_with(5, elapsed_s=8.0, in_flight=1)  # 1.6 s each: done at 9.6 s
        True
        """
        if seq + 1 >= self.most:
            return True
        if self.limit_s is None or seq + 1 < self.least:
            return False
        finished = seq + 1 - in_flight
        pace_s = elapsed_s / finished if finished > 0 else elapsed_s
        return elapsed_s + pace_s * (in_flight + 1) > self.limit_s


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
        runner: the stage; takes and returns CPU tensors, with the ns spent on device copies.
        stage_index, num_stages: its place.
        tensor_in, tensor_out: the specs of the two activations.
        in_flight: microbatches admitted and not yet finished.
        slots: microbatches that may be received ahead.
        inputs: the images, on stage 0; microbatch m takes inputs[m % len(inputs)].
        slowdown: compute takes this factor longer; the rest is slept.
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
        slots: int,
        inputs: Sequence[torch.Tensor] = (),
        slowdown: float = 1.0,
    ) -> None:
        self._stage_index = stage_index
        self.is_first, self.is_last = stage_index == 0, stage_index == num_stages - 1
        self._runner, self._inputs, self._slowdown = runner, inputs, slowdown
        self._in, self._out, self._result = tensor_in, tensor_out, result
        self._in_flight, self._slots = in_flight, slots
        self.trace = StageTrace()
        self.outputs: list[torch.Tensor] = []
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
        self._arrived: queue.SimpleQueue[_Microbatch] = queue.SimpleQueue()
        self._leaving: queue.SimpleQueue[_Microbatch] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[torch.Tensor] = queue.SimpleQueue()
        self._credits: queue.SimpleQueue[None] = queue.SimpleQueue()
        hops.sender.start(self._out, trial)
        hops.receiver.start(self._result if self.is_first else self._in, trial)
        receive = self._receive_results if self.is_first else self._receive_inputs
        if self.is_first:
            for _ in range(self._in_flight):
                self._credits.put(None)
        else:
            for _ in range(self._slots):
                self._free.put(self._in.allocate())
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
            try:
                return source.get(timeout=POLL_S)
            except queue.Empty:
                self.halt.check()
                self._deadline.check()

    def _receive_inputs(self) -> None:
        for seq in itertools.count():
            slot = self._get(self._free)
            self.trace.ready_ns.append(time.monotonic_ns())
            tensor, received, last = self._hops.receiver.receive(seq, slot, self._deadline)
            self.trace.received_ns.append(received)
            if tensor is slot:
                self._arrived.put(_Microbatch(tensor, slot, last))
            else:
                self._free.put(slot)
                self._arrived.put(_Microbatch(tensor, None, last))
            if last:
                return

    def _receive_results(self) -> None:
        slot = self._result.allocate()
        for seq in itertools.count():
            _, received, last = self._hops.receiver.receive(seq, slot, self._deadline)
            self.trace.returned_ns.append(received)
            if last:
                return
            self._credits.put(None)

    def _send(self) -> None:
        for seq in itertools.count():
            tensor, slot, last = self._get(self._leaving)
            self.trace.send_start_ns.append(time.monotonic_ns())
            self._hops.sender.send(seq, tensor, last, self._deadline)
            if slot is not None:
                self._free.put(slot)
            if last:
                break
        self._hops.sender.flush(self._deadline)

    def _next(self, seq: int) -> _Microbatch:
        if not self.is_first:
            return self._get(self._arrived)
        self._get(self._credits)
        admitted = time.monotonic_ns()
        self.trace.ready_ns.append(admitted)
        self.trace.received_ns.append(admitted)
        last = self._length.ends_with(seq, (admitted - self.trace.received_ns[0]) * 1e-9, self._in_flight)
        return _Microbatch(self._inputs[seq % len(self._inputs)], None, last)

    def _compute(self) -> None:
        trace = self.trace
        for seq in itertools.count():
            tensor, slot, last = self._next(seq)
            start = time.monotonic_ns()
            output, copied = self._runner(tensor)
            if self._slowdown > 1:
                time.sleep((self._slowdown - 1) * (time.monotonic_ns() - start) * 1e-9)
            end = time.monotonic_ns()
            trace.compute_start_ns.append(start)
            trace.compute_end_ns.append(end)
            trace.copy_ns.append(copied)
            if self.is_last:
                self.outputs.append(output.clone() if output is tensor else output)
            self._leaving.put(_Microbatch(output, slot, last))
            if last:
                return
