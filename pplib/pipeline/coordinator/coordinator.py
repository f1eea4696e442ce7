"""The coordinator: makes the workers of a pipeline do the same thing at the same time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import uuid
from collections.abc import Sequence
from pathlib import Path

from pplib import limits
from pplib.config import PASSWORDLESS, Backend
from pplib.errors import ParetoPipeError, ProtocolError, TransportError, TrialError, WorkerError
from pplib.pipeline.coordinator.client import R, WorkerClient, WorkerLost
from pplib.pipeline.coordinator.clock import SAME_CLOCK, Clock, ClockOffset, measure_offset
from pplib.pipeline.coordinator.common_time import common_timelines
from pplib.pipeline.monitor.host import boot_id
from pplib.pipeline.monitor.usage import TotalEnergy, Usage, total_energy
from pplib.pipeline.process.standstill import check_moving
from pplib.pipeline.stage.length import Length
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.connection import name_of, tunnel_end
from pplib.pipeline.wire.plan import PipelinePlan, TensorSpec
from pplib.records import StageTimeline
from pplib.runtimes import Array


@dataclasses.dataclass(frozen=True)
class PipelineRun:
    """What one run of a pipeline left behind, on the coordinator's time base; warm-up and cool-down included.

    `outputs` are the model's outputs in order, all of them; `payload_bytes[i]` is what hop i carried per
    microbatch; `usages` are what each device used, over the whole run, and `energy` is that of all of them,
    where every one tells. Of a run that failed there are the stages whose workers still answered, as
    far as each came, and no outputs.
    """

    timelines: list[StageTimeline]
    returned_s: list[float]
    outputs: list[Array]
    payload_bytes: list[int]
    usages: list[Usage | None]
    energy: TotalEnergy | None


class Coordinator:
    """Drives one worker per stage. Use it as a context manager.

    Args:
        workers: one per stage, in order.
        meeting: where the members of an rpc or gloo group meet: a folder that all workers see, or an address and a
            port of the first one, which chooses what is None.
        tunnelled: whether the workers reach each other through a `pplib.testbed.workers.tunnel`.

    Attributes:
        lost: whether the connection to a worker broke: nothing can be asked of this pipeline any more.
        failed_run: what the workers that still answered saw of the last run, if that failed.
    """

    def __init__(
        self,
        workers: Sequence[WorkerClient],
        meeting: Path | tuple[str | None, int | None] = (None, None),
        tunnelled: bool = False,
    ) -> None:
        self.workers = list(workers)
        self._meeting, self._tunnelled = meeting, tunnelled
        self._backend: str | None = None
        self.lost, self._trial = False, 0
        self.failed_run: PipelineRun | None = None
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

    def put_inputs(self, inputs: Sequence[Array], spec: TensorSpec) -> None:
        """Place the images on the first device."""
        self.workers[0].put_inputs(inputs, spec)

    def open(self, backend: Backend) -> None:
        """Join the workers into a ring over this backend; a ring that stands is kept.

        Raises:
            WorkerError: a worker cannot reach its neighbour or does not offer the backend.
        """
        if self._backend == backend:
            return
        self._close_hops()
        peers = tuple(self.peer(i) for i in range(len(self.workers)))
        run = uuid.uuid4().hex
        meeting = self._meeting_point(backend, run) if backend in PASSWORDLESS else None
        self.ask(
            [
                m.OpenHops(
                    backend=backend,
                    stage_index=i,
                    peers=peers,
                    run=run,
                    meeting=meeting,
                    timeout_s=limits.OPEN_HOPS_S,
                )
                for i in range(len(self.workers))
            ],
            m.Done,
            limits.OPEN_HOPS_S + 15,
        )
        self._backend = backend

    def prepare(self, plan: PipelinePlan) -> list[m.Prepared]:
        """Have every worker build its stage; what each of them holds now."""
        if plan.num_stages != len(self.workers):
            raise ProtocolError(f"a plan of {plan.num_stages} stages for {len(self.workers)} workers")
        requests = [m.Prepare(plan=plan, stage_index=i) for i in range(plan.num_stages)]
        return self.ask(requests, m.Prepared, limits.BUILD_STAGE_S)

    def run(self, plan: PipelinePlan, length: Length, timeout_s: float) -> PipelineRun:
        """Run as many microbatches as `length` says through a prepared plan over the open ring.

        Clocks that are not ours are measured before and after, over the control connection, which no
        link profile shapes. What workers saw of a run that fails is in `failed_run`.

        Raises:
            WorkerError: the cause, from the worker it began at; the ring is rebuilt by the next `open`.
            TrialError: a clock moved in a way that clocks do not, or a worker stood still.
        """
        self._trial += 1
        self.failed_run = None
        rooms = [worker.description.prefetch for worker in self.workers]
        request = m.Run(
            trial=self._trial,
            plan_digest=plan.digest,
            slots=tuple(plan.in_flight if one is None else min(plan.in_flight, one + 1) for one in rooms),
            most=length.most,
            least=length.least,
            limit_s=length.limit_s,
            timeout_s=timeout_s,
        )
        before = self._clock_offsets()
        try:
            self.ask([request] * len(self.workers), m.Done, timeout_s + 15)
        except ParetoPipeError:
            self._backend = None
            self.failed_run = self._what_was_seen(before)
            raise
        traces = self.ask([m.TakeTrace()] * len(self.workers), m.Trace, limits.TAKE_TRACE_S)
        clocks = [
            SAME_CLOCK if one is None or other is None else Clock(one, other)
            for one, other in zip(before, self._clock_offsets(), strict=True)
        ]
        run = self._assembled(dict(enumerate(traces)), clocks)
        try:
            for name, clock, trace in zip(self.names, clocks, traces, strict=True):
                clock.check(name)
                check_moving(name, trace.stood_still_s)
        except TrialError:
            self.failed_run = run
            raise
        outputs = self.workers[-1].take_outputs(traces[-1].num_outputs, plan.tensors[-1], limits.TAKE_TRACE_S)
        return dataclasses.replace(run, outputs=outputs)

    def _what_was_seen(self, before: Sequence[ClockOffset | None]) -> PipelineRun | None:
        """What those workers that still answer saw of a run that failed."""
        traces: dict[int, m.Trace] = {}
        for i, worker in enumerate(self.workers):
            with contextlib.suppress(WorkerError, TransportError):  # what failed is known; this is only evidence
                traces[i] = worker.expect(m.TakeTrace(), m.Trace, limits.EVIDENCE_S)
        clocks = [SAME_CLOCK if one is None else Clock(one, one) for one in before]
        return self._assembled(traces, clocks)

    def _assembled(self, traces: dict[int, m.Trace], clocks: Sequence[Clock]) -> PipelineRun:
        timelines, returned = common_timelines(traces, self.names, clocks)
        used = [(self.workers[i].description.boot_id, trace.usage) for i, trace in traces.items()]
        return PipelineRun(
            timelines=timelines,
            returned_s=returned,
            outputs=[],
            payload_bytes=[traces[i].payload_bytes for i in sorted(traces) if i < len(self.workers) - 1],
            usages=[traces[i].usage if i in traces else None for i in range(len(self.workers))],
            energy=total_energy(used) if len(used) == len(self.workers) else None,
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
            self.ask([m.CloseHops()] * len(self.workers), m.Done, 30)

    def _meeting_point(self, backend: Backend, run: str) -> str:
        if isinstance(self._meeting, Path):
            return str(self._meeting / f"{backend}-{run}")
        host, port = self._meeting
        port = self.workers[0].expect(m.OpenMeeting(backend=backend, host=host, port=port or 0), m.Done, 10).value
        return name_of((host or self.workers[0].description.data_host, port))

    def ask(
        self, requests: Sequence[m.Request], kind: type[R], timeout_s: float, stages: Sequence[int] | None = None
    ) -> list[R]:
        """Ask every worker, or those of `stages`, at once for answers of one kind; when one fails, make the
        others give up.

        Raises:
            WorkerError: the root cause.
            ProtocolError: a worker answered something else.
        """
        workers = self.workers if stages is None else [self.workers[i] for i in stages]
        futures = [
            self._pool.submit(worker.expect, request, kind, timeout_s)
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


def _abort(workers: Sequence[WorkerClient], futures: Sequence[concurrent.futures.Future[R]]) -> None:
    for worker, future in zip(workers, futures, strict=True):
        if not future.done():
            with contextlib.suppress(TransportError):  # its own request reports that
                worker.abort()
    _, silent = concurrent.futures.wait(futures, timeout=limits.GIVE_UP_S)
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
    """Now, as ISO 8601 in UTC, to the millisecond; for telling when a trial was started, never for intervals."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
