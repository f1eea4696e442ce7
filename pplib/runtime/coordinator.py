"""The coordinator: makes the workers of a pipeline do the same thing at the same time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pplib.errors import ParetoPipeError, ProtocolError, TransportError, WorkerError
from pplib.records import StageTimeline
from pplib.runtime import messages as m
from pplib.runtime.client import WorkerClient, WorkerLost
from pplib.runtime.clock import SAME_CLOCK, Clock, ClockOffset, measure_offset
from pplib.runtime.connection import name_of, tunnel_end
from pplib.runtime.host import boot_id
from pplib.runtime.plan import PipelinePlan, TensorSpec
from pplib.runtime.stage_loop import Length
from pplib.runtime.timeline import common_timelines
from pplib.runtime.usage import TotalEnergy, Usage, total_energy

OPEN_TIMEOUT_S = 30.0
BUILD_TIMEOUT_S = 300.0
GIVE_UP_S = 10.0  # for a worker that is told to, before its connection is closed


@dataclass(frozen=True)
class PipelineRun:
    """What one run of a pipeline left behind, on the coordinator's time base; warm-up and cool-down included.

    `outputs` are the model's outputs in order (all of them, unless they are very large);
    `payload_bytes[i]` is what hop i carried per microbatch; `usages` are what each device used, over
    the whole run, and `energy` is that of all of them, where every one tells.
    """

    timelines: list[StageTimeline]
    returned_s: list[float]
    outputs: list[torch.Tensor]
    payload_bytes: list[int]
    usages: list[Usage]
    energy: TotalEnergy | None


class Coordinator:
    """Drives one worker per stage. Use it as a context manager.

    Args:
        workers: one per stage, in order.
        master: where the members of an rpc group meet; None leaves it to the first worker.
        tunnelled: whether the workers reach each other through a `pplib.testbed.tunnel`.

    Attributes:
        lost: whether the connection to a worker broke: nothing can be asked of this pipeline any more.
    """

    def __init__(
        self,
        workers: Sequence[WorkerClient],
        master: tuple[str | None, int | None] = (None, None),
        tunnelled: bool = False,
    ) -> None:
        self.workers = list(workers)
        self._master, self._tunnelled = master, tunnelled
        self._backend: str | None = None
        self.lost, self._trial = False, 0
        self._pool = concurrent.futures.ThreadPoolExecutor(len(self.workers), "coordinator")

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        """The devices, in stage order."""
        return [worker.name for worker in self.workers]

    def _clock_offsets(self) -> list[ClockOffset | None]:
        """Each worker's clock against ours now; None where the boot id is ours: that is the same clock."""
        return [
            None if worker.description.boot_id == boot_id() else measure_offset(worker.ping) for worker in self.workers
        ]

    def put_inputs(self, inputs: Sequence[torch.Tensor], spec: TensorSpec) -> None:
        """Place the images on the first device."""
        self.workers[0].put_inputs(inputs, spec)

    def open(self, backend: str) -> None:
        """Join the workers into a ring over this backend; a ring that stands is kept.

        Raises:
            WorkerError: a worker cannot reach its neighbour or does not offer the backend.
        """
        if self._backend == backend:
            return
        self._close_hops()
        peers = tuple(self.peer(i) for i in range(len(self.workers)))
        master = self._meeting_point() if backend == "rpc" else None
        run = uuid.uuid4().hex
        self.ask(
            [
                m.OpenHops(
                    backend="rpc" if backend == "rpc" else "socket",
                    stage_index=i,
                    peers=peers,
                    run=run,
                    master=master,
                    timeout_s=OPEN_TIMEOUT_S,
                )
                for i in range(len(self.workers))
            ],
            OPEN_TIMEOUT_S + 15,
        )
        self._backend = backend

    def prepare(self, plan: PipelinePlan) -> list[m.Prepared]:
        """Have every worker build its stage; what each of them holds now."""
        if plan.num_stages != len(self.workers):
            raise ProtocolError(f"a plan of {plan.num_stages} stages for {len(self.workers)} workers")
        requests = [m.Prepare(plan=plan, stage_index=i) for i in range(plan.num_stages)]
        return [reply for reply in self.ask(requests, BUILD_TIMEOUT_S) if isinstance(reply, m.Prepared)]

    def run(self, plan: PipelinePlan, length: Length, timeout_s: float) -> PipelineRun:
        """Run as many microbatches as `length` says through a prepared plan over the open ring.

        Clocks that are not ours are measured before and after, over the control connection, which no
        link profile shapes.

        Raises:
            WorkerError: the cause, from the worker it began at; the ring is rebuilt by the next `open`.
            TrialError: a clock moved in a way that clocks do not.
        """
        self._trial += 1
        request = m.Run(
            trial=self._trial,
            plan_digest=plan.digest,
            most=length.most,
            least=length.least,
            limit_s=length.limit_s,
            timeout_s=timeout_s,
        )
        before = self._clock_offsets()
        try:
            replies = self.ask([request] * len(self.workers), timeout_s + 15)
        except ParetoPipeError:
            self._backend = None
            raise
        traces = [reply for reply in replies if isinstance(reply, m.Ran)]
        clocks = [
            SAME_CLOCK if one is None or other is None else Clock(one, other)
            for one, other in zip(before, self._clock_offsets(), strict=True)
        ]
        for name, clock in zip(self.names, clocks, strict=True):
            clock.check(name)
        timelines, returned = common_timelines(traces, self.names, clocks)
        result = plan.tensors[-1]
        outputs = []
        for content in traces[-1].outputs:
            tensor = result.allocate()
            result.bytes_of(tensor)[:] = content
            outputs.append(tensor)
        return PipelineRun(
            timelines=timelines,
            returned_s=returned,
            outputs=outputs,
            payload_bytes=[trace.payload_bytes for trace in traces[:-1]],
            usages=[trace.usage for trace in traces],
            energy=total_energy(
                (worker.description.boot_id, trace.usage) for worker, trace in zip(self.workers, traces, strict=True)
            ),
        )

    def peer(self, stage_index: int) -> tuple[str, str]:
        """Name of a stage's device, and where its neighbours reach its data port."""
        worker = self.workers[stage_index]
        told = worker.description
        return worker.name, tunnel_end(stage_index) if self._tunnelled else name_of((told.data_host, told.data_port))

    def close(self) -> None:
        """Leave the workers idle, ready for the next coordinator."""
        with contextlib.suppress(WorkerError, TransportError):  # a worker that is gone needs no goodbye
            self._close_hops()
        for worker in self.workers:
            worker.close()
        self._pool.shutdown(wait=True)

    def _close_hops(self) -> None:
        if self._backend is not None:
            self._backend = None
            self.ask([m.CloseHops()] * len(self.workers), 30)

    def _meeting_point(self) -> tuple[str, int]:
        host, port = self._master
        if port is None:
            reply = self.workers[0].request(m.FreePort(), 10)
            if not isinstance(reply, m.Done):
                raise ProtocolError(f"{self.workers[0].name}: named no free port")
            port = reply.value
        return host or self.workers[0].description.data_host, port

    def ask(
        self, requests: Sequence[m.Request], timeout_s: float, stages: Sequence[int] | None = None
    ) -> list[m.Reply]:
        """Ask every worker, or those of `stages`, at once; when one fails, make the others give up.

        Raises:
            WorkerError: the root cause.
        """
        workers = self.workers if stages is None else [self.workers[i] for i in stages]
        futures = [
            self._pool.submit(worker.request, request, timeout_s)
            for worker, request in zip(workers, requests, strict=True)
        ]
        try:
            concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
            if any(future.done() and future.exception() for future in futures):
                # An error often arrives before its cause: a neighbour's death is seen by a stage first.
                concurrent.futures.wait(futures, timeout=1.0)
        except KeyboardInterrupt:
            _abort(workers, futures)
            raise
        if any(not future.done() or future.exception() for future in futures):
            known = [error for future in futures if future.done() and (error := future.exception()) is not None]
            _abort(workers, futures)
            errors = [error for future in futures if (error := future.exception()) is not None]
            if any(isinstance(error, WorkerLost) for error in errors):
                self.lost = True
                self._backend = None  # a ring that lost a member is left, not closed: its members cannot agree on it
            # Who does not let go when told to give up is seldom the cause: only where no other is known.
            raise min([error for error in known if _depth(error) < 2] or errors, key=_depth)
        return [future.result() for future in futures]


def _abort(workers: Sequence[WorkerClient], futures: Sequence[concurrent.futures.Future[m.Reply]]) -> None:
    for worker, future in zip(workers, futures, strict=True):
        if not future.done():
            with contextlib.suppress(TransportError):  # its own request reports that
                worker.abort()
    _, silent = concurrent.futures.wait(futures, timeout=GIVE_UP_S)
    for worker, future in zip(workers, futures, strict=True):
        if future in silent:
            worker.close()  # wakes the request with an error
    concurrent.futures.wait(futures, timeout=5.0)


def _depth(error: BaseException) -> int:
    """How far an error is from its root: a lost worker explains all others, a lost hop nothing."""
    if isinstance(error, WorkerLost):
        return 0
    return 2 if "TransportError" in getattr(error, "__notes__", []) else 1


def wall_clock() -> str:
    """Now, as ISO 8601 in UTC; for naming when a trial was started, never for intervals."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
