"""The worker: one long-lived process per device, at most one stage, one coordinator at a time."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

import psutil

from pplib import limits
from pplib.errors import ProtocolError, TransportError
from pplib.pipeline.monitor.host import boot_id, describe_host, no_bfloat16
from pplib.pipeline.monitor.monitor import Monitor
from pplib.pipeline.process.memory import end, memory_for, memory_left
from pplib.pipeline.process.standstill import Standstill
from pplib.pipeline.stage.builder import BuiltStage, StageBuilder
from pplib.pipeline.stage.length import Length
from pplib.pipeline.stage.loop import StageLoop
from pplib.pipeline.stage.timing import INPUTS, StageTiming
from pplib.pipeline.wire import messages as m
from pplib.pipeline.wire.codecs import codec_of
from pplib.pipeline.wire.connection import Connection, Deadline, Endpoint, endpoint_of
from pplib.pipeline.wire.frames import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES, receive_message, send_message
from pplib.pipeline.wire.slow_peers import check_wait
from pplib.pipeline.worker.control_port import ControlPort
from pplib.pipeline.worker.data_port import DataPort
from pplib.pipeline.worker.inputs import check_fits, receive_inputs
from pplib.pipeline.worker.last_run import LastRun, trace_of
from pplib.pipeline.worker.link_probe import probe
from pplib.pipeline.worker.ring import Ring
from pplib.pipeline.worker.settings import WorkerSettings
from pplib.pipeline.worker.watched import send_pong
from pplib.pipeline.worker.weights_transfer import held_bytes, receive_weights
from pplib.runtimes import Array, installed, unfit


class Worker:
    """Listens, admits one coordinator, and carries out its requests on the main thread."""

    def __init__(self, settings: WorkerSettings, backends: tuple[str, ...] = ("socket",)) -> None:
        self.settings, self._backends = settings, backends
        where = endpoint_of(settings.control)
        self._control = ControlPort(settings.name, where, settings.token, self._serve_session, self._hear)
        try:
            self._data = DataPort(settings.name, settings.data_host, settings.data_port, settings.token)
        except TransportError:
            self._control.close()
            raise
        self._builder = StageBuilder(settings.torch_device, settings.threads)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Lock()  # held while a request is being carried out
        self._stage: BuiltStage | None = None
        self._ring = Ring(settings, backends, self._data)
        self._loop: StageLoop | StageTiming | None = None
        self._ran: LastRun | None = None
        self._inputs: list[Array] = []
        self._heard_at, self.forgotten = time.monotonic(), False

    @property
    def control(self) -> Endpoint:
        """Where it listens for a coordinator."""
        return self._control.endpoint

    @property
    def data_port(self) -> int:
        """The port it listens on for its neighbours."""
        return self._data.port

    def serve(self) -> None:
        """Work until a coordinator says stop."""
        self._control.start()
        while (job := self._jobs.get()) is not None:
            job()
        self._ring.leave(graceful=False)
        self._data.close()
        self._control.close()

    def stop(self) -> None:
        """Make `serve` return."""
        self._jobs.put(None)

    def _serve_session(self, connection: Connection) -> None:
        try:
            self._read(connection)
        except TransportError:
            pass  # the coordinator went away or spoke nonsense: the session is over either way
        finally:
            self._abort("the coordinator went away")
            self._jobs.put(self._forget)

    def _hear(self) -> None:
        self._heard_at = time.monotonic()

    def end_when_forgotten(self, limit_s: float) -> None:
        """Wait until nobody who knows the token has said a word for `limit_s`, then end `serve`."""
        while (left := self._heard_at + limit_s - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        self.forgotten = True
        self._abort("nobody has talked to this worker for a while")
        self.stop()

    def _read(self, connection: Connection) -> None:
        begin_s = limits.FIRST_REQUEST_S
        while True:
            begin = Deadline(begin_s, "next request")
            request = m.decode_request(receive_message(connection, begin, MAX_REQUEST_BYTES, limits.REQUEST_REST_S))
            begin_s = limits.FOREVER_S
            self._hear()
            if isinstance(request, m.Ping):
                send_pong(connection)
            elif isinstance(request, m.Abort):
                self._abort("the trial was given up")
            elif isinstance(request, m.Stop):
                send_message(connection, m.encode(m.Done()), Deadline(5, "goodbye"))
                self.stop()
                return
            elif not self._idle.acquire(blocking=False):
                raise ProtocolError(f"{connection.peer}: asked for more before it had the answer")
            else:
                job = self._accepted(connection, request)
                self._jobs.put(lambda job=job: self._answer(connection, job))  # type: ignore[misc]

    def _accepted(self, connection: Connection, request: m.Request) -> Callable[[], m.Reply]:
        """What the main thread has to do; what follows a request is received here."""
        try:
            if isinstance(request, m.PutInputs):
                self._inputs = []  # never twice in memory
                inputs = receive_inputs(connection, request)
                return lambda: self._keep(inputs)
            if isinstance(request, m.PutWeights):
                told = receive_weights(connection, request)
                return lambda: told
        except BaseException:
            self._idle.release()
            raise
        return lambda: self._carry_out(request)

    def _keep(self, inputs: list[Array]) -> m.Reply:
        self._inputs = inputs
        return m.Done(value=len(inputs))

    def _answer(self, connection: Connection, job: Callable[[], m.Reply]) -> None:
        try:
            reply = job()
        except Exception as exc:  # noqa: BLE001 (whatever it is, the coordinator raises it)
            said = [str(exc), *(note for note in getattr(exc, "__notes__", []))]
            reply = m.Failed(kind=type(exc).__name__, message="; ".join(said), ends=not memory_left())
        self._idle.release()
        content = m.encode(reply)
        if len(content) > MAX_MESSAGE_BYTES:
            content = m.encode(
                m.Failed(kind="ProtocolError", message=f"its answer of {len(content)} bytes is too long")
            )
        with contextlib.suppress(TransportError):  # nobody is there to be told
            send_message(connection, content, Deadline(60, "reply"))
        if isinstance(reply, m.Failed) and reply.ends:
            end("the last request")  # as it was told, also where there is memory again

    def _carry_out(self, request: m.Request) -> m.Reply:
        match request:
            case m.Describe():
                return m.Description(
                    name=self.settings.name,
                    boot_id=boot_id(),
                    pid=psutil.Process().pid,
                    host=describe_host(self.settings.torch_device, self.settings.threads),
                    data_host=self.settings.data_host,
                    data_port=self._data.port,
                    backends=self._backends,
                    rpc_groups=self._ring.rpc_groups,
                    prefetch=self.settings.prefetch,
                    runtimes=installed(),
                    unfit=unfit(self.settings.torch_device),
                    no_bfloat16=no_bfloat16(self.settings.torch_device),
                )
            case m.HaveWeights():
                return m.Done(value=held_bytes(request.sha256, request.num_bytes))
            case m.OpenMeeting():
                return m.Done(value=self._ring.open_meeting(request))
            case m.OpenHops():
                self._ring.leave(graceful=False)
                check_wait(request.timeout_s)
                self._ring.join(request)
                return m.Done()
            case m.Probe():
                check_wait(request.timeout_s)
                return probe(self._data, request)
            case m.CloseHops():
                self._ring.leave(graceful=True)
                return m.Done()
            case m.Prepare():
                self._stage, self._ran = None, None  # never two stages in memory
                for tensor in request.plan.tensors:
                    check_fits(request.plan.in_flight, tensor)
                self._stage = self._builder.build(request.plan, request.stage_index)
                return m.Prepared(
                    build_s=self._stage.build_s,
                    param_bytes=self._stage.param_bytes,
                    resident_bytes=psutil.Process().memory_info().rss,
                )
            case m.Run():
                self._run(request)
                return m.Done()
            case m.TimeStage():
                return self._time(request)
            case m.TakeTrace():
                return self._last_run().trace()
            case m.TakeOutputs():
                return self._last_run().outputs(request.offset, request.count)
            case _:
                raise ProtocolError(f"unexpected request {type(request).__name__}")

    def _run(self, request: m.Run) -> None:
        stage, hops = self._stage, self._ring.hops
        self._ran = None
        if stage is None or hops is None or stage.plan.digest != request.plan_digest:
            raise ProtocolError("asked to run a plan that this worker has not prepared")
        plan, i = stage.plan, stage.stage_index
        if i == 0 and not self._inputs:
            raise ProtocolError("the first stage has no input images")
        if len(request.slots) != plan.num_stages:
            raise ProtocolError(f"asked to run {plan.num_stages} stages with room for {len(request.slots)} of them")
        if i == plan.num_stages - 1:
            check_fits(request.most, plan.tensors[-1])
        loop = self._loop = StageLoop(
            stage.runner,
            stage_index=i,
            num_stages=plan.num_stages,
            tensor_in=plan.tensors[i],
            tensor_out=plan.tensors[i + 1],
            result=plan.tensors[-1],
            in_flight=plan.in_flight,
            slots=(request.slots[i], request.slots[(i + 1) % plan.num_stages]),
            inputs=[plan.tensors[0].laid_out(one) for one in self._inputs] if i == 0 else (),
            slowdown=self.settings.slowdown,
            decoder=codec_of(plan, i - 1),
            encoder=codec_of(plan, i),
        )
        monitor, standstill = self._monitor(), Standstill()
        try:
            with memory_for(f"stage {i} before it ran"), monitor, standstill:
                length = Length(request.most, request.least, request.limit_s)
                loop.run(hops, request.trial, length, Deadline(request.timeout_s, "trial"))
        except Exception as cause:
            try:
                self._ring.leave(graceful=False)
            except TransportError as exc:  # it must not take the place of what went wrong
                cause.add_note(f"then: {exc}")
            raise
        finally:
            self._loop = None
            self._ran = LastRun(loop, hops.sender.payload_bytes, monitor, standstill, plan.tensors[-1])

    def _time(self, request: m.TimeStage) -> m.Trace:
        stage, self._ran = self._stage, None
        if stage is None:
            raise ProtocolError("asked to time a stage, but none is built")
        spec = stage.plan.tensors[stage.stage_index]
        check_fits(INPUTS, spec)
        monitor, standstill = self._monitor(), Standstill()
        try:
            with memory_for("a stage while it was timed"):
                timing = self._loop = StageTiming(stage.runner, spec, self.settings.slowdown)
                with monitor, standstill:
                    timing.run(request.warmup, request.count, request.pause_s)
        finally:
            self._loop = None
        return trace_of(timing.trace, monitor, standstill)

    def _monitor(self) -> Monitor:
        told = self.settings
        device, powers_w = told.torch_device, (told.idle_w, told.busy_w)
        return Monitor(0.25, told.interface, device, *powers_w, emulated=told.slowdown > 1)

    def _last_run(self) -> LastRun:
        if self._ran is None:
            raise ProtocolError("asked about a run, but there was none since the stage was built")
        return self._ran

    def _abort(self, reason: str) -> None:
        loop = self._loop
        if loop is not None:
            loop.stop(TransportError(reason))

    def _forget(self) -> None:
        """The last job of a session; the next coordinator is admitted after it."""
        self._stage, self._inputs, self._ran = None, [], None
        self._ring.close_meeting()
        try:
            with contextlib.suppress(TransportError):  # a group whose coordinator died is left, not mended
                self._ring.leave(graceful=False)
        finally:
            self._control.end_session()
